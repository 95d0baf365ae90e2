"""A run that is killed at any moment ends, when repeated, with the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages.faults import run_with
from stages.tiny import Place, arrays, zeros

from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.training import loop

Make = Callable[..., Path]
STEPS, EVERY = 12, 3


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("resume"), corpus_file, task_files)


def upstream(verb: str, place: Place, model: str, *more: str) -> list[str]:
    """A command line without --out: two micro-batches a step, states every three steps."""
    return [
        *(verb, "--model", model, "--text", str(place.corpus), "--cache", place.out("cache")),
        *("--steps", str(STEPS), "--save-every", str(EVERY), "--log-every", "1"),
        *("--length", "16", "--batch-tokens", "64", "--accumulation", "2", "--threads", "1"),
        *more,
    ]


def downstream(verb: str, place: Place, model: str, *more: str) -> list[str]:
    rows = place.tasks["single"]
    return [
        *(verb, "--model", model, "--train", str(rows["train"]), "--steps", str(STEPS)),
        *(
            "--save-every",
            str(EVERY),
            "--log-every",
            "1",
            "--batch-size",
            "8",
            "--max-length",
            "24",
        ),
        *("--threads", "1", "--precision", "fp32", *more),
    ]


@pytest.fixture(scope="module")
def prune_command(place: Place, tiny_checkpoint: Make) -> list[str]:
    """Under bf16 autocast, with dropout and every signal: all that holds a state is in play."""
    signals = ("--distillation.hidden", "0.5", "--distillation.logits", "0.5")
    more = ("--warmup", "0.25", "--precision", "bf16", "--sparsity", "0.8", *signals)
    return upstream("prune", place, str(tiny_checkpoint("bert")), *more)


@pytest.fixture(scope="module")
def pruned(place: Place, prune_command: list[str]) -> dict[str, np.ndarray]:
    """What the run ends with that nobody interrupts."""
    torch.manual_seed(123)  # what came before must not matter
    return finish(prune_command, place.out("uninterrupted"))


def finish(command: Sequence[str], out: str) -> dict[str, np.ndarray]:
    assert main([*command, "--out", out]) == 0
    assert not Path(f"{out}.partial").exists()
    return arrays(out)


def assert_same_bits(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    differing = [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()]
    assert not differing


def resume_counting(
    command: Sequence[str], out: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, np.ndarray], int]:
    """Repeats the command; also tells how many micro-batches were left to train."""
    trained = 0
    original = loop._Trainer.training_step

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal trained
        trained += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(loop._Trainer, "training_step", counted)
    torch.manual_seed(trained + 7)
    return finish(command, out), trained


# Two micro-batches a step; warm-up ends at step 3, growth at 6, the masks freeze at 10.
POINTS = {
    "step:4": 0,  # warming up, no state yet
    "before-optimizer-state:1": 0,  # the first state cut short
    "step:9": 3,  # growing, in the middle of an accumulated step
    "masks-half-written:2": 3,
    "before-cleaning:1": 6,  # two whole states
    "step:18": 6,  # at the final sparsity, masks still moving
    "step:22": 9,  # masks frozen, after the last but one state
    "before-evaluation": 12,
    "before-verification": 12,
    "before-publishing": 12,
}


@pytest.mark.parametrize(("fault", "state"), POINTS.items())
def test_prune_killed(
    place: Place,
    prune_command: list[str],
    pruned: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    state: int,
) -> None:
    out = place.out(fault.replace(":", "-"))
    ended = run_with(fault, [*prune_command, "--out", out], place.folder)
    assert ended.code == -signal.SIGKILL, ended.stderr
    assert not Path(out).exists()
    found, trained = resume_counting(prune_command, out, monkeypatch)
    assert trained == 2 * (STEPS - state)  # from the last whole state, no further back
    assert_same_bits(found, pruned)
    record = open_checkpoint(out).provenance
    assert record is not None
    assert record["metrics"]["tokens"] == pytest.approx(2 * STEPS * 64, rel=0.01)
    log = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))  # nothing twice
    assert log[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_killed_again_and_again(
    place: Place, prune_command: list[str], pruned: dict[str, np.ndarray]
) -> None:
    out = place.out("again")
    for fault in ("step:8", "step:3", "masks-half-written:1", "step:7", "before-publishing"):
        ended = run_with(fault, [*prune_command, "--out", out], place.folder)
        assert ended.code == -signal.SIGKILL, ended.stderr
    assert_same_bits(finish(prune_command, out), pruned)


def test_replacing_an_older_checkpoint(
    place: Place, prune_command: list[str], pruned: dict[str, np.ndarray]
) -> None:
    """Until the new checkpoint is whole, the older one stays in its place."""
    out = place.out("older")
    older = finish([*prune_command, "--seed", "1"], out)
    anew = [*prune_command, "--overwrite"]
    for fault in ("step:9", "before-publishing"):
        assert run_with(fault, [*anew, "--out", out], place.folder).code == -signal.SIGKILL
        assert_same_bits(arrays(out), older)
    assert run_with("between-renames", [*anew, "--out", out], place.folder).code == -signal.SIGKILL
    (aside,) = Path(f"{out}.partial").glob("*replaced*/older")
    assert_same_bits(arrays(aside), older)  # not lost at any moment
    assert_same_bits(finish(anew, out), pruned)


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_killed_between_the_exchange_and_the_end_of_the_older_checkpoint(
    place: Place, prune_command: list[str], pruned: dict[str, np.ndarray]
) -> None:
    out = place.out("exchanged")
    finish([*prune_command, "--seed", "1"], out)
    anew = [*prune_command, "--overwrite"]
    ended = run_with("after-the-exchange", [*anew, "--out", out], place.folder)
    assert ended.code == -signal.SIGKILL, ended.stderr
    assert_same_bits(arrays(out), pruned)
    assert main([*prune_command, "--out", out]) == 0  # it is whole
    assert_same_bits(finish(anew, out), pruned)  # nothing of the older one gets into it
    assert not Path(f"{out}.partial").exists()


def test_killed_when_all_is_done(
    place: Place, prune_command: list[str], pruned: dict[str, np.ndarray]
) -> None:
    out = place.out("done")
    ended = run_with("after-publishing", [*prune_command, "--out", out], place.folder)
    assert ended.code == -signal.SIGKILL, ended.stderr
    assert_same_bits(arrays(out), pruned)
    assert main([*prune_command, "--out", out]) == 0


@pytest.mark.parametrize("fault", ["step:3", "before-second-phase", "step:12"])
def test_teach_killed_in_either_phase(
    place: Place, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    model = str(tiny_checkpoint("bert", "base"))
    command = upstream("teach", place, model, "--head-steps", "4")
    whole = place.folder / "taught"
    wanted = arrays(whole) if whole.exists() else finish(command, str(whole))
    out = place.out(f"taught-{fault.replace(':', '-')}")
    ended = run_with(fault, [*command, "--out", out], place.folder)
    assert ended.code == -signal.SIGKILL, ended.stderr
    found, trained = resume_counting(command, out, monkeypatch)
    # 4 steps of the head, then 12; states after steps 3 and 4 of the head, 3 of the second phase.
    assert trained == 2 * {"step:3": 16, "before-second-phase": 12, "step:12": 12}[fault]
    assert_same_bits(found, wanted)


@pytest.fixture(scope="module")
def task_teacher(place: Place, tiny_checkpoint: Make) -> str:
    finish(downstream("transfer", place, str(tiny_checkpoint("bert"))), place.out("teacher"))
    return place.out("teacher")


@pytest.mark.parametrize("fault", ["teacher-cache-half-filled:9", "step:8"])
@pytest.mark.parametrize("verb", ["transfer", "quantize"])
def test_fine_tuning_killed(
    place: Place,
    pruned: dict[str, np.ndarray],
    task_teacher: str,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    fault: str,
) -> None:
    parent = "uninterrupted"
    taught = ("--teacher", task_teacher)
    if verb == "quantize":
        parent = "transferred"
        if not (place.folder / parent).exists():
            finish(
                downstream("transfer", place, place.out("uninterrupted"), *taught),
                place.out(parent),
            )
    command = downstream(verb, place, place.out(parent), *taught)
    whole = place.folder / f"{verb}-whole"
    wanted = arrays(whole) if whole.exists() else finish(command, str(whole))
    out = place.out(f"{verb}-{fault.replace(':', '-')}")
    ended = run_with(fault, [*command, "--out", out], place.folder)
    assert ended.code == -signal.SIGKILL, ended.stderr
    found, trained = resume_counting(command, out, monkeypatch)
    assert trained < STEPS
    assert_same_bits(found, wanted)
    locked = zeros(open_checkpoint(place.out(parent)))
    assert all((found[name][where] == 0).all() for name, where in locked.items())


def test_a_command_killed_from_outside(
    place: Place, prune_command: list[str], pruned: dict[str, np.ndarray]
) -> None:
    """No help from within: `python -m prunella`, killed when its log says that it is at work."""
    out = place.out("outside")
    process = subprocess.Popen(
        [sys.executable, "-m", "prunella", *prune_command, "--out", out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while process.poll() is None and not has_reached(Path(f"{out}.partial/log.jsonl"), 4):
            time.sleep(0.002)
        process.kill()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, errors
    assert not Path(out).exists()
    assert_same_bits(finish(prune_command, out), pruned)


def has_reached(log: Path, step: int) -> bool:
    return log.exists() and f'"step": {step},' in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "state"), [("full-disk:9", 3), ("full-disk:3", 0), ("full-disk-at-end", 12)]
)
def test_full_disk(
    place: Place,
    prune_command: list[str],
    pruned: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    state: int,
) -> None:
    out = place.out(fault.replace(":", "-"))
    ended = run_with(fault, [*prune_command, "--out", out, "--json"], place.folder)
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    error = json.loads(ended.stdout)["error"]
    assert "cannot write" in error
    assert "free some space and repeat the command" in error
    assert not Path(out).exists()
    found, trained = resume_counting(prune_command, out, monkeypatch)
    assert trained == 2 * (STEPS - state)  # the last whole state survived
    assert_same_bits(found, pruned)
