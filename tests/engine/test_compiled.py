"""The native encoder against the plain one, for every family, head, arithmetic and instruction set."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.conftest import FAMILIES, HEADS
from engine.reference import ReferenceRunner
from safetensors.torch import load_file, save_file

from prunella.engine import _native
from prunella.engine.compiled import choose_isa, compile_model
from prunella.errors import InputError
from prunella.packed.read import open_packed
from prunella.packing import pack
from prunella.settings import PackSettings

ISAS = _native.isas()
LENGTHS = (5, 1, 17, 64, 33)


def batch(vocabulary: int, *, types: int = 1, lengths: Any = LENGTHS) -> Any:
    rng = np.random.default_rng(0)
    n = sum(lengths)
    ids = rng.integers(0, vocabulary, n).astype(np.int32)
    rows = np.array([0, n - 1, n // 2, 3], np.int32)
    return ids, rng.integers(0, types, n).astype(np.int32), np.array(lengths, np.int32), rows


def inputs_of(model: Any, **more: Any) -> Any:
    config = model.card.config
    types = 1 if model.card.family in ("distilbert", "roberta") else config["type_vocab_size"]
    return batch(config["vocab_size"], types=types, **more)


def close(found: Any, expected: Any, tolerance: float) -> None:
    assert found.shape == expected.shape and found.dtype == np.float32
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{error:.2e}"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head", [None, *HEADS])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_reference_does(tiny: Any, family: str, head: Any, isa: str) -> None:
    made = tiny(family, head)
    inputs = inputs_of(made.model())
    runner, reference = compile_model(made.packed, 2, isa=isa), ReferenceRunner(made.packed)
    assert runner.width == reference.width and runner.hidden == reference.hidden
    close(runner.run(*inputs), reference.run(*inputs), 1e-5)
    close(runner.hidden_states(*inputs[:3]), reference.hidden_states(*inputs[:3]), 1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("weights", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.08)])
def test_other_arithmetics_come_close(tiny: Any, isa: str, weights: Any, tolerance: float) -> None:
    made = tiny("bert", "SequenceClassification")
    inputs = inputs_of(made.model())
    runner = compile_model(made.packed, 1, isa=isa, weights=weights)
    close(runner.run(*inputs), ReferenceRunner(made.packed).run(*inputs), tolerance)
    assert {entry["arithmetic"] for entry in runner.describe()} >= {weights}


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(tiny: Any, threads: int) -> None:
    made = tiny("bert", "TokenClassification")
    inputs = inputs_of(made.model())
    # With one kernel only: those chosen by measurement may differ from one time to the next.
    one, many = (compile_model(made.packed, n, isa="portable") for n in (1, threads))
    np.testing.assert_array_equal(one.run(*inputs), many.run(*inputs))


# Groups of several blocks of tokens, sequences beyond a group, feed-forward parts in chunks.
LONG = (130, 100, 300, 5, 1, 17)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("inner", [128, 320])
@pytest.mark.parametrize(("weights", "tolerance"), [("fp32", 1e-5), ("int8", 0.08)])
def test_long_batches(
    tiny: Any, isa: str, threads: int, inner: int, weights: Any, tolerance: float
) -> None:
    made = tiny("bert", None, hidden_size=64, intermediate_size=inner, max_position_embeddings=400)
    inputs = inputs_of(made.model(), lengths=LONG)
    runner = compile_model(made.packed, threads, isa=isa, weights=weights)
    close(runner.run(*inputs), ReferenceRunner(made.packed).run(*inputs), tolerance)


def test_embeddings_that_are_wider_than_the_rest(tiny: Any) -> None:
    made = tiny("electra", None, embedding_size=256)
    inputs = inputs_of(made.model(), lengths=(60,) * 20)
    runner = compile_model(made.packed, 1)
    close(runner.run(*inputs), ReferenceRunner(made.packed).run(*inputs), 1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_matrices_of_one_model_differ_in_arithmetic(
    tiny: Any, tmp_path: Path, isa: str, threads: int
) -> None:
    made = tiny("bert", None, hidden_size=64, intermediate_size=256)
    tensors = load_file(made.folder / "model.safetensors")
    for name in list(tensors):
        if name.endswith("intermediate.dense.weight"):
            tensors[name] = tensors[name].bfloat16()
    shutil.copytree(made.folder, tmp_path / "mixed")
    save_file(tensors, tmp_path / "mixed" / "model.safetensors", {"format": "pt"})
    out = tmp_path / "mixed.prn"
    pack(PackSettings(model=str(tmp_path / "mixed"), out=str(out)))
    packed = open_packed(out)
    inputs = inputs_of(made.model(), lengths=(60, 40, 28))
    runner = compile_model(packed, threads, isa=isa)
    assert {entry["arithmetic"] for entry in runner.describe()} == {"bf16", "fp32"}
    close(runner.run(*inputs), ReferenceRunner(packed).run(*inputs), 0.1)


def test_sequences_do_not_see_each_other(tiny: Any) -> None:
    made = tiny("bert", None)
    runner = compile_model(made.packed, 1)
    ids, types, lengths, _ = inputs_of(made.model())
    together = np.split(runner.hidden_states(ids, types, lengths), np.cumsum(lengths)[:-1])
    begin = 0
    for length, expected in zip(lengths, together, strict=True):
        part = slice(begin, begin + length)
        alone = runner.hidden_states(ids[part], types[part], np.array([length], np.int32))
        close(alone, expected, 1e-5)
        begin += length


def test_calls_from_many_threads(tiny: Any) -> None:
    made = tiny("bert", "SequenceClassification")
    runners = [compile_model(made.packed, 2), compile_model(made.packed, 2)]
    inputs = inputs_of(made.model())
    expected = [runner.run(*inputs) for runner in runners]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(runners[number % 2].run(*inputs), expected[number % 2]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [0, 10**6]}, "outside the vocabulary"),
        ({"ids": [0, -1]}, "outside the vocabulary"),
        ({"types": [0, 7]}, "token type 7"),
        ({"lengths": [3]}, "do not add up"),
        ({"lengths": [2, 0]}, "0 tokens"),
        ({"lengths": [3, -1]}, "-1 tokens"),
        ({"rows": [2]}, "no token of the batch"),
        ({"rows": [-1]}, "no token of the batch"),
        ({"types": [0]}, "differ in length"),
    ],
)
def test_inputs_out_of_range_are_refused(tiny: Any, change: Any, message: str) -> None:
    runner = compile_model(tiny("bert", None).packed, 1)
    good = {"ids": [1, 2], "types": [0, 0], "lengths": [2], "rows": [0]}
    arrays = {name: np.array(value, np.int32) for name, value in {**good, **change}.items()}
    with pytest.raises(ValueError, match=message):
        runner.run(**arrays)


def test_too_long_a_sequence_is_refused(tiny: Any) -> None:
    made = tiny("roberta", None)
    inputs = inputs_of(made.model(), lengths=(72,))
    with pytest.raises(ValueError, match="this model takes 1 to 71"):
        compile_model(made.packed, 1).run(*inputs)


def test_no_tokens_give_no_rows(tiny: Any) -> None:
    runner = compile_model(tiny("bert", "SequenceClassification").packed, 1)
    empty = np.zeros(0, np.int32)
    assert runner.run(empty, empty, empty, empty).shape == (0, 2)
    assert runner.hidden_states(empty, empty, empty).shape == (0, 32)


def test_an_instruction_set_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNELLA_ISA", raising=False)
    assert choose_isa() == ISAS[-1]
    monkeypatch.setenv("PRUNELLA_ISA", "portable")
    assert choose_isa() == "portable"
    assert choose_isa("portable") == "portable"
    monkeypatch.setenv("PRUNELLA_ISA", "mmx")
    with pytest.raises(
        InputError, match="'mmx' is unknown or not usable on this machine; usable are portable"
    ):
        choose_isa()
