"""The same command under torchrun: one pruning on several processes, with one checkpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages.faults import end, run_with, start_with
from stages.tiny import Place, arrays, zeros

from prunella.checkpoint import open_checkpoint
from prunella.cli import main

Make = Callable[..., Path]
STEPS = 8

# Run by torchrun on each process: the command, then what this process holds in the end.
_RECORDING = """
import sys
import numpy as np
from prunella import processes
from prunella.cli import main
from prunella.sparsity.masks import Masks

made = []
of_zeros = Masks.of_zeros.__func__
def watched(cls, parameters):
    made.append(of_zeros(cls, parameters))
    return made[-1]
Masks.of_zeros = classmethod(watched)
folder, *arguments = sys.argv[1:]
code = main(arguments)
masks = {name: made[0].kept(name).numpy() for name in made[0].codes}
weights = {name + "|weight": p.detach().numpy() for name, p in made[0].parameters.items()}
np.savez(f"{folder}/rank{processes.rank()}.npz", **masks, **weights)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("distributed"), corpus_file, task_files)


@pytest.fixture(scope="module")
def command(place: Place, tiny_checkpoint: Make) -> list[str]:
    return [
        *("prune", "--model", str(tiny_checkpoint("bert")), "--text", str(place.corpus)),
        *("--cache", place.out("cache"), "--length", "16", "--batch-tokens", "64", "--warmup", "0"),
        *("--steps", str(STEPS), "--save-every", "3", "--log-every", "1", "--threads", "1"),
        *("--precision", "fp32", "--distillation.hidden", "0.5", "--distillation.logits", "0.5"),
    ]


def torchrun(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes, started as a user would start them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(script), *arguments], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def together(place: Place, command: list[str]) -> Path:
    """A run on two processes, and what each of them held in the end."""
    script = place.folder / "recording.py"
    script.write_text(_RECORDING)
    done = torchrun(script, str(place.folder), *command, "--out", place.out("two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prune -> ") == 1  # only one of them prints
    return place.folder


def test_both_processes_have_the_same_masks_and_weights(together: Path) -> None:
    first, second = (dict(np.load(together / f"rank{rank}.npz")) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert len(first) == 24
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name
    for name, where in zeros(open_checkpoint(together / "two")).items():
        assert np.array_equal(where, ~first[name])
        assert where.sum() == round(0.9 * where.size)


def test_one_checkpoint_is_written(place: Place, together: Path) -> None:
    record = open_checkpoint(together / "two").provenance
    assert record is not None
    assert record["metrics"]["steps"] == STEPS
    assert record["metrics"]["tokens"] == pytest.approx(2 * STEPS * 64, rel=0.02)
    assert not Path(place.out("two.partial")).exists()
    log = (together / "two" / "log.jsonl").read_text().splitlines()
    assert len(log) == STEPS


def pair(place: Place, command: list[str], *faults: str) -> list[Any]:
    """Two processes of one run, each with its fault, told of each other as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        start_with(
            fault,
            command,
            place.folder,
            {**shared, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, fault in enumerate(faults)
    ]
    return [end(process) for process in started]


def test_killed_and_resumed(
    place: Place, command: list[str], together: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command, "--out", place.out("killed")]
    ended = pair(place, arguments, "step:6", "step:6")
    assert [process.code for process in ended] == [-signal.SIGKILL] * 2, ended
    assert main(arguments) == 2  # one process would see other batches
    message = " ".join(capsys.readouterr().err.split())
    assert "was written by 2 processes and cannot be resumed by 1" in message
    assert "use the same number, or --overwrite to start anew" in message
    ended = pair(place, arguments, "none", "none")
    assert [process.code for process in ended] == [0, 0], ended
    found, wanted = arrays(place.out("killed")), arrays(together / "two")
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_bad_input_ends_every_process(place: Place, command: list[str], together: Path) -> None:
    ended = pair(place, [*command, "--out", place.out("two"), "--seed", "1"], "none", "none")
    assert [process.code for process in ended] == [2, 2]
    assert all("another run's checkpoint" in " ".join(p.stderr.split()) for p in ended)


def test_one_process_alone_prunes_alike(place: Place, command: list[str], together: Path) -> None:
    """Half the processes with twice the micro-batches a step: the same gradient, but for rounding."""
    ended = run_with(
        "none", [*command, "--accumulation", "2", "--out", place.out("one")], place.folder
    )
    assert ended.code == 0, ended.stderr
    found, wanted = zeros(place.open("one")), zeros(open_checkpoint(together / "two"))
    same = np.mean([np.mean(found[name] == wanted[name]) for name in wanted])
    assert same > 0.98  # dropout differs
