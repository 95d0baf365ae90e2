"""When one of several processes fails, all end, with one message that says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.pairs import pair
from stages.tiny import Place, arrays

from prunella import processes
from prunella.cli import main

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("failures"), corpus_file, task_files)


@pytest.fixture(scope="module")
def command(place: Place, tiny_checkpoint: Make) -> list[str]:
    """With dropout: what a process draws is part of what it resumes."""
    return [
        *("prune", "--model", str(tiny_checkpoint("bert")), "--text", str(place.corpus)),
        *("--cache", place.out("cache"), "--length", "16", "--batch-tokens", "64", "--warmup", "0"),
        *("--steps", "8", "--save-every", "3", "--log-every", "1", "--threads", "1"),
        *("--precision", "fp32", "--distillation.hidden", "0.5"),
    ]


def words(text: str) -> str:
    return " ".join(text.split())


def test_killed_and_resumed(
    place: Place, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pair(place.folder, [*command, "--out", place.out("whole")], "none", "none")
    assert [process.code for process in whole] == [0, 0], whole
    arguments = [*command, "--out", place.out("killed")]
    ended = pair(place.folder, arguments, "none", "step:6")
    assert [process.code for process in ended] == [1, -signal.SIGKILL], ended
    assert "another of the 2 processes of this run is gone" in words(ended[0].stderr)
    assert "the same command resumes" in words(ended[0].stderr)
    assert "Traceback" not in ended[0].stderr
    assert main(arguments) == 2  # one process would see other batches
    message = words(capsys.readouterr().err)
    assert "was written by 2 processes and cannot be resumed by 1" in message
    assert "use the same number, or --overwrite to start anew" in message
    shutil.copytree(place.out("killed.partial"), place.out("anew.partial"))
    ended = pair(place.folder, arguments, "none", "none")
    assert [process.code for process in ended] == [0, 0], ended
    assert_same_bits(place.out("killed"), place.out("whole"))
    # What was said to help: nothing of the two processes is left, in the log neither.
    for name, more in (("anew", ["--overwrite"]), ("alone", [])):
        assert main([*command, "--out", place.out(name), *more]) == 0
    assert_same_bits(place.out("anew"), place.out("alone"))
    log = Path(place.out("anew"), "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 9))


def assert_same_bits(found: str, wanted: str) -> None:
    ours, theirs = arrays(found), arrays(wanted)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def test_bad_input_of_all_is_said_once(place: Place, command: list[str]) -> None:
    (place.folder / "taken").mkdir()
    (place.folder / "taken" / "thesis.txt").write_text("do not touch")
    ended = pair(place.folder, [*command, "--out", place.out("taken")], "none", "none")
    assert [process.code for process in ended] == [2, 2]
    said = [process.stderr for process in ended if process.stderr]
    assert len(said) == 1
    assert "holds files that Prunella did not make" in words(said[0])
    assert said[0].count("error:") == 1


def test_bad_input_of_one_ends_the_other(place: Place, command: list[str]) -> None:
    """As when a file differs between two machines."""
    ended = pair(place.folder, [*command, "--out", place.out("torn")], "none", "other-text")
    assert ended[1].code == 2
    assert ended[0].code == 1
    assert "process 1 was started with other settings, models or data" in words(ended[1].stderr)
    assert ended[0].stderr == ""
    assert not Path(place.out("torn")).exists()


def test_too_few_rows_for_the_processes(
    place: Place, tiny_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(place.tasks["single"]["train"])
    few = ["--epochs", "1", "--batch-size", "96", "--accumulation", "2", "--max-length", "24"]
    command = ["transfer", "--model", str(tiny_checkpoint("bert")), "--train", rows, *few]
    assert main([*command, "--out", place.out("few")]) == 2
    message = words(capsys.readouterr().err)
    assert "the data makes 1 micro-batches, but one step of 1 processes takes 2" in message


@pytest.mark.parametrize(
    ("switch", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_sharded_models_are_refused(
    place: Place,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    switch: str,
    name: str,
) -> None:
    monkeypatch.setenv(switch, "true")
    assert main([*command, "--out", place.out("sharded")]) == 2
    message = words(capsys.readouterr().err)
    assert f"accelerate is set to {name}" in message
    assert "start it with torchrun" in message
    assert not list(place.folder.glob("sharded*"))


def test_a_wrong_command_under_torchrun(tmp_path: Path) -> None:
    """The launcher adds its own report; ours comes first, and once."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    ended = subprocess.run(
        [sys.executable, *launcher, "prunella", "prune", "--model", "m", "--sparsty", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1
    assert "error: prunella prune: 'text' is missing" in ended.stderr.split("torch/distributed")[0]


def test_only_the_first_failure_on_a_machine_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(processes.reports_failure() for _ in range(2))  # a process alone always does
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    assert [processes.reports_failure() for _ in range(3)] == [True, False, False]
    (mark,) = tmp_path.iterdir()
    os.utime(mark, (0, 0))  # a slow process; the folder is of this run alone
    assert not processes.reports_failure()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/nowhere/0/error.json")
    assert processes.reports_failure()
    monkeypatch.setenv("RANK", "1")
    assert not processes.reports_failure()


def test_a_failure_of_an_earlier_run_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other launchers name no folder: the mark lies where that of an earlier run may lie."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert [processes.reports_failure() for _ in range(2)] == [True, False]
    (mark,) = tmp_path.iterdir()
    os.utime(mark, (0, 0))
    assert [processes.reports_failure() for _ in range(2)] == [True, False]


def test_what_a_lost_connection_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:554] Connection closed by peer [127.0.0.1]")
    assert not processes.lost_the_others(lost)  # of one process there are no others
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.lost_the_others(lost)
    assert not processes.lost_the_others(RuntimeError("shapes cannot be multiplied"))
