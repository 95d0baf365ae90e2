"""Two processes that each see a part of the data choose the same masks and weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.pairs import pair
from stages.tiny import Place, arrays, zeros

from prunella.sparsity.selection import keep_count

Make = Callable[..., Path]


@pytest.mark.parametrize("score", ["sparsegpt", "obert", "l0"])
def test_the_same_masks_on_both_after_a_restart_as_without(
    tmp_path: Path,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tiny_checkpoint: Make,
    score: str,
) -> None:
    """SparseGPT sums what each process saw; the state of step 3 lies within its window."""
    place = Place(tmp_path, corpus_file, task_files)
    command = [
        *("prune", "--model", str(tiny_checkpoint("bert")), "--text", str(corpus_file)),
        *("--cache", place.out("cache"), "--length", "16", "--batch-tokens", "64"),
        *(
            "--threads",
            "1",
            "--precision",
            "fp32",
            "--dropout",
            "0",
            "--score",
            score,
            "--window",
            "4",
        ),
        *("--steps", "7", "--save-every", "3", "--update-every", "5", "--growth-end", "5"),
        *("--freeze", "5", "--sparsity", "0.7"),
    ]
    whole = [*command, "--out", place.out("whole")]
    ended = pair(tmp_path, whole, "recording", "recording")
    assert [process.code for process in ended] == [0, 0], ended
    first, second = (json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1))
    assert first == second
    assert len(first) == 1  # one set of masks each
    for where in zeros(place.open("whole")).values():
        assert where.size - where.sum() == keep_count(where.size, 0.7)
    killed = [*command, "--out", place.out("killed")]
    pair(tmp_path, killed, "step:4", "step:4")
    ended = pair(tmp_path, killed, "none", "none")
    assert [process.code for process in ended] == [0, 0], ended
    wanted, found = arrays(place.out("whole")), arrays(place.out("killed"))
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == []
