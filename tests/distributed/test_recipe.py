"""A whole recipe does on two processes what it does on one with twice the micro-batches a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed.pairs import pair
from stages.faults import Ended
from stages.tiny import Place, arrays, zeros

from prunella.checkpoint import open_checkpoint
from prunella.cli import main

Make = Callable[..., Path]
CHECKPOINTS = ("taught", "sparse", "adapted", "dense-task", "task", "int8")
STEPS = 4


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("together"), corpus_file, task_files)


@pytest.fixture(scope="module")
def recipe(place: Place, tiny_checkpoint: Make) -> Path:
    """Every verb that trains, and some that do not; no dropout, which each process draws anew."""
    rows = {split: str(path) for split, path in place.tasks["single"].items()}
    training = {"steps": STEPS, "threads": 1, "precision": "fp32", "dropout": 0, "log_every": 1}
    training |= {"accumulation": "${accumulation}", "learning_rate": 1e-3, "warmup": 0}
    text = {**training, "text": [str(place.corpus)], "length": 16, "batch_tokens": 64}
    text |= {"cache": place.out("cache")}
    task = {**training, **rows, "batch_size": 8, "max_length": 24, "steps": 16}  # over an epoch
    both = {"logits": 0.5, "hidden": 0.5}
    steps: list[dict[str, Any]] = [
        {"teach": {**text, "model": str(tiny_checkpoint("bert")), "out": "${out}/taught"}},
        {"prune": {**text, "model": "${out}/taught", "out": "${out}/sparse", "distillation": both}},
        {"adapt": {**text, "model": "${out}/sparse", "out": "${out}/adapted"}},
        {"transfer": {**task, "model": "${out}/taught", "out": "${out}/dense-task"}},
        {
            "transfer": {
                **task,
                "model": "${out}/adapted",
                "teacher": "${out}/dense-task",
                "out": "${out}/task",
                "distillation": both,
            }
        },
        {"quantize": {**task, "model": "${out}/task", "out": "${out}/int8", "steps": 2}},
        {"evaluate": {"model": "${out}/int8", "data": rows["validation"]}},
        {"pack": {"model": "${out}/int8", "out": "${out}/int8.prn"}},
        {"inspect": {"model": "${out}/int8.prn"}},
        {"predict": {"model": "${out}/int8.prn", "text": ["a great film"]}},
    ]
    file = place.folder / "recipe.yaml"
    document = {"name": "all", "out": "-", "vars": {"accumulation": 1}, "steps": steps}
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def together(place: Place, recipe: Path) -> list[Ended]:
    """The recipe on two processes, which say in the end what masks and weights they hold."""
    arguments = ["run", str(recipe), "--out", place.out("two")]
    ended = pair(place.folder, arguments, "recording", "recording")
    assert [process.code for process in ended] == [0, 0], ended
    return ended


@pytest.fixture(scope="module")
def alone(place: Place, recipe: Path) -> None:
    """The same on one process with two micro-batches a step."""
    assert main(["run", str(recipe), "--out", place.out("one"), "--set", "accumulation=2"]) == 0


def test_one_process_speaks_and_writes(place: Place, together: list[Ended]) -> None:
    first, second = together
    assert first.stdout.count("predict") == 1
    assert first.stderr.count("step 2/10") == 1
    assert second.stdout == ""
    # torch's C++ warns of a search; it is silenced where torch is not imported beforehand.
    assert all(line.startswith("[rank1]:[W") for line in second.stderr.splitlines())
    for name in CHECKPOINTS:
        record = open_checkpoint(place.folder / "two" / name).provenance
        assert record is not None
        assert record["metrics"]["steps"] > 0
        log = (place.folder / "two" / name / "log.jsonl").read_text().splitlines()
        assert len(log) == record["metrics"]["steps"]
    assert not list((place.folder / "two").glob("*.partial"))
    results = json.loads((place.folder / "two" / "results.json").read_text())
    assert [step["verb"] for step in results["steps"]][6:] == [
        *("evaluate", "pack", "inspect", "predict")
    ]


def test_masks_and_weights_are_the_same_on_both(place: Place, together: list[Ended]) -> None:
    first, second = (json.loads((place.folder / f"rank{r}.json").read_text()) for r in (0, 1))
    assert first == second
    assert len(first) >= len(CHECKPOINTS)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_weights_are_those_of_one_process(
    place: Place, together: list[Ended], alone: None, name: str
) -> None:
    found, wanted = (arrays(place.folder / run / name) for run in ("two", "one"))
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        # AdamW divides by the gradient's size: where it is but rounding, so is the direction.
        assert np.abs(found[key] - array).max() <= 1e-4, key
    masks = [zeros(open_checkpoint(place.folder / run / name)) for run in ("two", "one")]
    if name != "int8":  # rounding to the grid makes zeros of its own
        assert all(np.array_equal(masks[0][key], masks[1][key]) for key in masks[1])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_log_is_that_of_one_process(
    place: Place, together: list[Ended], alone: None, name: str
) -> None:
    """Losses are means over both, tokens their sum."""
    two, one = (
        [
            json.loads(line)
            for line in (place.folder / run / name / "log.jsonl").read_text().splitlines()
        ]
        for run in ("two", "one")
    )
    assert len(two) == len(one) > 0
    for found, wanted in zip(two, one, strict=True):
        assert found["tokens"] == wanted["tokens"]
        for key in ("loss", "grad_norm", *(k for k in wanted if k.startswith("loss_"))):
            assert found[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-5), key
