"""Where a stage works: a folder beside its output, from which a killed run resumes.

OUT.partial/ holds the settings of the run, its training states and log. The finished checkpoint
moves from there to OUT in one step, so OUT is whole or absent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from prunella.checkpoint import PROVENANCE, publish, write_json
from prunella.errors import InputError
from prunella.settings import Settings

# Settings that change where or how often something is written, never the result.
_NO_INFLUENCE = {"out", "overwrite", "save_every", "log_every", "report_to", "cache", "dry_run"}
_NO_INFLUENCE |= {"cache_gigabytes", "threads"}
# Settings that came later: where they are not used, a run is the same as one from before.
_LATER: dict[str, Any] = {"unlabelled": [], "new_head": False}
_RECORD = "run.json"
_LOCK = "lock"


@dataclass(frozen=True)
class Workspace:
    """The working folder of one run of one stage.

    `finished` means that OUT already holds the result of the very same run.
    """

    out: Path
    partial: Path
    identity: Mapping[str, Any]
    finished: bool
    _lock: TextIO | None = None

    @property
    def draft(self) -> Path:
        """Folder of the checkpoint before it is published."""
        return self.partial / "checkpoint"

    @property
    def log(self) -> Path:
        return self.partial / "log.jsonl"

    def close(self) -> None:
        """Lets other processes work here again."""
        if self._lock:
            self._lock.close()

    def abandon(self) -> None:
        """Removes the working folder of a run that was refused before it did anything."""
        if not _holds_work(self.partial):
            shutil.rmtree(self.partial, ignore_errors=True)

    def publish(self) -> None:
        """Moves the draft to OUT, clears the working folder and closes it."""
        if self.log.exists():
            shutil.copyfile(self.log, self.draft / "log.jsonl")
        publish(self.draft, self.out)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.close()


def identity_of(
    stage: str, settings: Settings, hashes: Mapping[str, str], data: Mapping[str, str]
) -> dict[str, Any]:
    """What makes two runs the same: the stage, its settings, its models and its data.

    Args:
        stage: The verb.
        settings: All of its settings.
        hashes: Of the models it starts from, by their part ("model", "teacher").
        data: Hashes of what the files hold that the settings name, by the setting.
    """
    unused = {name for name in _LATER if not getattr(settings, name, None)}
    relevant = settings.model_dump(mode="json", exclude=_NO_INFLUENCE | unused)
    identity = {
        "stage": stage,
        "settings": relevant,
        "parents": dict(hashes),
        "data": dict(data),
    }
    text = json.dumps(identity, sort_keys=True)
    return {**identity, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def open_workspace(out: str, identity: Mapping[str, Any], *, overwrite: bool) -> Workspace:
    """Opens the working folder of a run: new, or to be resumed.

    Raises:
        InputError: If OUT exists already, if unfinished work of other settings lies there, if
            another process is at work on it, if either holds files of others, or if the folder
            cannot be written.
    """
    final = Path(os.path.abspath(out))
    partial = final.parent / f"{final.name}.partial"
    before = _identity_in(final / PROVENANCE)
    if not before and _holds_files(final):
        raise InputError(
            f"{final}: exists and holds files that Prunella did not make; choose another --out, "
            "or remove them yourself"
        )
    if before and not overwrite:
        if before == identity["sha256"]:
            return Workspace(final, partial, identity, finished=True)
        edited = _edited(final / PROVENANCE, identity)
        raise InputError(
            f"{final}: exists and holds another run's checkpoint{edited}; choose another --out or "
            "pass --overwrite (in a recipe `overwrite: true`)"
        )
    if not _identity_in(partial / _RECORD) and _holds_files(partial):
        raise InputError(
            f"{partial}: the working folder of this run, but it holds files that Prunella did not "
            "make; choose another --out, or remove them yourself"
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / _LOCK).open("w")
    except OSError as error:
        raise InputError(f"{partial}: cannot be written ({error.strerror}); check --out") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(f"{partial}: another process is working on it; wait or stop it") from None
    try:
        _adopt(partial, identity, overwrite)
    except BaseException:
        lock.close()
        raise
    return Workspace(final, partial, identity, finished=False, _lock=lock)


def _adopt(partial: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Takes over unfinished work of the same run; refuses or discards that of another."""
    record = partial / _RECORD
    if record.exists() and _identity_in(record) != identity["sha256"]:
        if not overwrite and _holds_work(partial):
            changed = _difference(json.loads(record.read_text()), identity)
            raise InputError(
                f"{partial}: holds unfinished work of a run with other settings ({changed}). "
                "Repeat those settings to resume it, or pass --overwrite to discard it"
            )
        for entry in partial.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_json(record, dict(identity))


def _holds_work(partial: Path) -> bool:
    """Whether a run got further than to its settings, which may have been refused."""
    return any(entry.name not in (_LOCK, _RECORD, f"{_RECORD}.tmp") for entry in partial.iterdir())


def _holds_files(path: Path) -> bool:
    """Whether anything is there but an empty folder, or one where a run was killed at its start."""
    if not path.is_dir():
        return path.exists()
    return any(entry.name not in (_LOCK, f"{_RECORD}.tmp") for entry in path.iterdir())


def _identity_in(path: Path) -> str | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document.get("identity", document).get("sha256")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _edited(record: Path, identity: Mapping[str, Any]) -> str:
    """How a finished run of the same stage differs, in what this version knows as well."""
    document = json.loads(record.read_text(encoding="utf-8"))
    kept = document.get("identity", document)
    if document.get("stage", identity["stage"]) != identity["stage"]:
        return ""
    before: dict[str, Any] = {}
    now: dict[str, Any] = {}
    for part, values in (("settings", document.get("settings")), ("data", kept.get("data"))):
        left, right = _LATER | (values or {}), _LATER | identity.get(part, {})
        known = left.keys() & right.keys()
        before[part] = {key: left[key] for key in known}
        now[part] = {key: right[key] for key in known}
    changed = _difference(before, now)
    return f" ({changed})" if changed else ""


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    flat_before, flat_now = dict(_flatten(before)), dict(_flatten(now))
    names = [
        key
        for key in sorted(flat_before.keys() | flat_now.keys())
        if key != "sha256" and flat_before.get(key) != flat_now.get(key)
    ]
    shown = [
        f"{n.removeprefix('data.')}: other contents"
        if n.startswith("data.")
        else f"{n.split('.', 1)[-1]}: {flat_before.get(n)} -> {flat_now.get(n)}"
        for n in names[:4]
    ]
    return "; ".join(shown) + ("; ..." if len(names) > 4 else "")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            items += _flatten(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items
