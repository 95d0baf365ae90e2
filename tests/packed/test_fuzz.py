"""A short run of the fuzzer; `python tests/packed/fuzz.py` is the long one."""

from __future__ import annotations

from packed.fuzz import MUTATIONS, fuzz


def test_thousands_of_mutants_are_refused_or_read() -> None:
    counts = fuzz(runs=4000, seed=1)
    assert sum(counts.values()) == 4000
    for mutate in MUTATIONS:
        assert counts[f"{mutate.__name__}: refused"] > 100
    # Those with right checksums must get past the parser, or the decoders were never tried.
    assert counts["change_sections: accepted"] > 100
    assert counts["change_tensor: accepted"] > 100


def test_hundreds_of_mutated_models_are_refused_or_run() -> None:
    counts = fuzz(runs=600, seed=2, engine=True)
    assert sum(counts.values()) == 600
    # Which mutants there are depends on the bytes of random weights, so on the processor too.
    for kind in ("change_model", "change_configuration"):
        assert counts[f"{kind}: refused"] > 10
        assert counts[f"{kind}: accepted"] > 10
