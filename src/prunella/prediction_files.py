"""Where predictions go: a file that is whole or absent, or standard output; and their progress."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from prunella.errors import InputError
from prunella.rows import Rows
from prunella.settings import PredictSettings

_SECONDS_BETWEEN_LINES = 30.0
# What may differ between a run and the one that goes on behind it: results in hand stay the same.
_FREE = {"overwrite", "threads", "batch_tokens", "skip_bad"}


class Target:
    """Takes results, one JSON object a line. On standard output: no more than that.

    Attributes:
        last_line: The input's line of the last result that is there already.
        earlier: Results that are there already.
    """

    last_line = 0
    earlier = 0

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()

    def write(self, result: dict[str, Any]) -> None:
        self._stream.write(json.dumps(result, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        self._stream.flush()


class _FileTarget(Target):
    """Lines go to OUT.partial, which becomes OUT at the end; OUT.partial.json says whose it is.

    That file is locked as long as a process is at work on OUT, and the last thing to go.
    """

    def __init__(self, out: Path, record: dict[str, Any], *, overwrite: bool, fresh: bool) -> None:
        """Opens them; `overwrite` may replace OUT, `fresh` discards what is in OUT.partial.

        Raises:
            InputError: If another process is at work on OUT, OUT was made by one meanwhile, what is
                in OUT.partial is of other settings, or the files cannot be written.
        """
        self.out, self.record = out, record
        self.partial = out.with_name(out.name + ".partial")
        self.owner = out.with_name(out.name + ".partial.json")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.owner.open("a+", encoding="utf-8")
            try:
                self._begin(overwrite, fresh)
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None

    def _begin(self, overwrite: bool, fresh: bool) -> None:
        """Locks the record, and goes on behind what is there."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have ended, and removed the file, since it was opened here.
            free = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.owner))
        except (BlockingIOError, FileNotFoundError):
            free = False
        if not free:
            raise InputError(f"{self.partial}: another process is working on it; wait or stop it")
        try:
            _check_absent(self.out, overwrite)  # again: it may just have been finished
            self._take_up(fresh)
        except BaseException:
            if not os.fstat(self._lock.fileno()).st_size:  # it was made above
                self.owner.unlink()
            raise
        if _read_json(self.owner) != self.record:
            self._lock.truncate(0)
            self._lock.write(json.dumps(self.record, indent=1) + "\n")
            self._lock.flush()
        super().__init__(self.partial.open("a", encoding="utf-8"))

    def write(self, result: dict[str, Any]) -> None:
        try:
            super().write(result)
        except OSError as error:
            raise InputError(f"{self.partial}: cannot be written ({error.strerror})") from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            if kind is None:
                os.replace(self.partial, self.out)
            elif self.partial.stat().st_size:
                return  # for the run that goes on behind it
            else:
                self.partial.unlink()
            self.owner.unlink()
        except OSError as failure:
            raise InputError(f"{self.out}: cannot be written ({failure.strerror})") from None
        finally:
            self._lock.close()

    def _take_up(self, fresh: bool) -> None:
        """Keeps the whole lines of an interrupted run of the same settings."""
        if fresh or not self.partial.exists():
            self.partial.unlink(missing_ok=True)
            return
        if changed := _changed(_read_json(self.owner), self.record):
            raise InputError(
                f"{self.partial}: holds results of an interrupted run with other settings "
                f"({changed}); choose another --out, or pass --overwrite to discard them"
            )
        whole = 0
        with self.partial.open("rb") as stream:
            for line in stream:
                found = _parse(line)
                if found is None:  # cut off in the middle
                    break
                whole += len(line)
                self.earlier += 1
                self.last_line = found
        os.truncate(self.partial, whole)


def open_target(settings: PredictSettings, out: str) -> Target:
    """The target of a run.

    Raises:
        InputError: If the file exists, or cannot be written.
    """
    if out == "-":
        return Target(sys.stdout)
    path = Path(out)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; --out names the file to write")
    if path.suffix.lower() in (".csv", ".tsv", ".parquet", ".json", ".gz", ".xz"):
        raise InputError(f"{path}: results are JSON lines; name the file *.jsonl")
    record = settings.model_dump(mode="json", exclude=_FREE)
    for name in (settings.model, settings.file):
        if name is not None and name != "-":
            found = os.stat(name)
            if path.exists() and os.path.samefile(name, path):
                raise InputError(f"{path}: is what is read; choose another --out")
            record[name] = [found.st_size, found.st_mtime_ns]
    _check_absent(path, settings.overwrite)
    # Standard input cannot be read a second time from its beginning, so nothing is taken up.
    fresh = settings.overwrite or settings.file == "-"
    return _FileTarget(path, record, overwrite=settings.overwrite, fresh=fresh)


def _check_absent(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")


class Meter:
    """Progress on standard error: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, rows: Rows) -> None:
        self.label, self.rows = label, rows
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.rows.total, detail="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, texts: int, tokens_per_second: float) -> None:
        """Shows how far it is."""
        detail = f"{texts:,} texts, {tokens_per_second:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.rows.position, detail=detail)
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.console.print(f"{self.label}: {detail}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _changed(before: Any, now: dict[str, Any]) -> str:
    """Which entries of two records differ, as flags and names of files; empty if none does."""
    if not isinstance(before, dict):
        return "its record is lost"
    names = [name for name in now if before.get(name) != now[name]]
    flags = {name: "--" + name.replace("_", "-") for name in PredictSettings.model_fields}
    return ", ".join(flags.get(name, f"{name} was changed") for name in names)


def _parse(line: bytes) -> int | None:
    """The input's line of a result; None if the result is not whole."""
    try:
        return int(json.loads(line)["line"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
