"""Runs the command line in processes of their own that fail at a chosen point.

The processes are forked from a server that has imported everything once (and computed nothing, so
that it holds no threads), which takes a tenth of the time of starting Python anew.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("prunella.stages.teach", "prunella.stages.prune", "prunella.stages.quantize"),
        *("prunella.stages.adapt", "prunella.stages.transfer", "prunella.cli"),
        "transformers.models.bert.modeling_bert",
    ]
)
_SECONDS = 200


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (-9 when killed) and what it wrote."""

    code: int
    stdout: str
    stderr: str


def run_with(
    fault: str, arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> Ended:
    """Runs `prunella arguments` with a fault (a key of `FAULTS`, perhaps with ":number")."""
    return end(start_with(fault, arguments, folder, environment))


def start_with(
    fault: str, arguments: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> Any:
    """Starts such a process; `end` waits for it."""
    name = f"{fault.replace(':', '-')}-{(environment or {}).get('RANK', '0')}"
    files = [folder / f"{name}.{kind}" for kind in ("out", "err")]
    process = CONTEXT.Process(
        target=_child, args=(fault, list(arguments), files, environment or {})
    )
    process.start()
    return process, files


def end(started: Any) -> Ended:
    """Waits for a process."""
    process, files = started
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"hangs: {files[1].read_text()}")
    code = process.exitcode
    process.close()
    return Ended(code, *(file.read_text(encoding="utf-8") for file in files))


def _child(
    fault: str, arguments: list[str], files: list[Path], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    name, _, number = fault.partition(":")
    FAULTS[name](int(number or 1))
    from prunella.cli import main

    sys.exit(main(arguments))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk() -> None:
    """No file may grow beyond 20 KB from now on, as when the disk is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))


def _before(owner: Any, name: str, action: Callable[[], None], call: int = 1) -> None:
    """Does something ahead of the `call`th call of a function."""
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _at_step(number: int, action: Callable[[], None] = _kill) -> None:
    """In the `number`th micro-batch of this process."""
    from prunella.training.loop import _Trainer

    _before(_Trainer, "training_step", action, number)


def _before_optimizer_state(number: int) -> None:
    """When the weights of the `number`th state are on disk and its optimiser is not."""
    from prunella.training.loop import _Trainer

    _before(_Trainer, "_save_optimizer_and_scheduler", _kill, number)


def _masks_half_written(number: int) -> None:
    from prunella.training import loop

    original = loop.save_file
    left = number

    def cut(tensors: Any, path: Path) -> None:
        nonlocal left
        original(tensors, path)
        left -= 1
        if left == 0:
            os.truncate(path, path.stat().st_size // 2)
            _kill()

    loop.save_file = cut


def _before_cleaning(number: int) -> None:
    """When a new state is whole and the one before it is still there."""
    from prunella.training import loop

    original = loop.newest_state

    def wrapped(folder: Path) -> Path | None:
        if len(list(folder.glob("checkpoint-*/complete"))) > number:
            _kill()
        return original(folder)

    loop.newest_state = wrapped


def _between_renames(number: int) -> None:
    """When the older checkpoint is out of the way and the new one not yet in its place; only where
    the system cannot exchange the two."""
    from prunella import checkpoint

    checkpoint._exchanged = lambda first, second: False
    original = checkpoint.os.rename

    def wrapped(source: Any, target: Any) -> None:
        if Path(source).name == "checkpoint":
            _kill()
        original(source, target)

    checkpoint.os.rename = wrapped


def _after_the_exchange(number: int) -> None:
    """When the new checkpoint is in its place and the older one not yet gone."""
    from prunella import checkpoint

    original = checkpoint._exchanged

    def wrapped(first: Path, second: Path) -> bool:
        done = original(first, second)
        if done:
            _kill()
        return done

    checkpoint._exchanged = wrapped


def _after_publishing(number: int) -> None:
    from prunella import workspace

    original = workspace.publish

    def wrapped(draft: Path, final: Path) -> None:
        original(draft, final)
        _kill()

    workspace.publish = wrapped


def _stage(module: str, name: str) -> Callable[[int], None]:
    def fault(number: int) -> None:
        _before(import_module(f"prunella.{module}"), name, _kill, number)

    return fault


def _teacher_cache_half_filled(number: int) -> None:
    """When the outputs of a batch are stored and not yet vouched for."""
    from prunella.data.task_batches import places
    from prunella.teacher_cache import TeacherCache

    original = TeacherCache._store
    left = number

    def wrapped(self: TeacherCache, index: Any, missing: Any, *rest: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            self.logits[places(self.output_offsets, index[missing])] = -1000.0
            _kill()
        original(self, index, missing, *rest)

    setattr(TeacherCache, "_store", wrapped)  # noqa: B010


def _full_disk_at_step(number: int) -> None:
    _at_step(number, _fill_disk)


def _full_disk_at_end(number: int) -> None:
    from prunella.stages import prune

    _before(prune, "figures", _fill_disk, number)


def _other_text(number: int) -> None:
    """The files on this machine are not those on the others."""
    from prunella.data.sources import TextFile

    TextFile.digest = lambda self: f"other text {number}"


def _recording(number: int) -> None:
    """No fault: writes hashes of all masks of this process, and of their weights, in the end."""
    from prunella import cli
    from prunella.sparsity.masks import Masks

    made: list[Masks] = []
    prepare, leave = Masks.__init__, cli.leave

    def watched(self: Masks, *args: Any) -> None:
        prepare(self, *args)
        made.append(self)

    def record() -> None:
        held = [[_hash(m.codes.values()), _hash(m.parameters.values())] for m in made]
        folder, rank = os.environ["RECORDS"], os.environ["RANK"]
        Path(folder, f"rank{rank}.json").write_text(json.dumps(held))
        leave()

    setattr(Masks, "__init__", watched)  # noqa: B010
    cli.leave = record


def _hash(tensors: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


FAULTS: dict[str, Callable[[int], None]] = {
    "none": lambda number: None,
    "recording": _recording,
    "other-text": _other_text,
    "step": _at_step,
    "before-optimizer-state": _before_optimizer_state,
    "masks-half-written": _masks_half_written,
    "before-cleaning": _before_cleaning,
    "before-evaluation": _stage("stages.prune", "figures"),
    "before-verification": _stage("stages.common", "verify_pattern"),
    "before-publishing": _stage("workspace", "publish"),
    "between-renames": _between_renames,
    "after-the-exchange": _after_the_exchange,
    "after-publishing": _after_publishing,
    "before-second-phase": _stage("stages.teach", "_train"),
    "teacher-cache-half-filled": _teacher_cache_half_filled,
    "full-disk": _full_disk_at_step,
    "full-disk-at-end": _full_disk_at_end,
}
