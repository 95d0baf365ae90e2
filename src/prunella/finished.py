"""Steps of a recipe that have written already what they write.

Stages and `pack` know their own results. The other verbs write plain files, from which nobody can
tell what they were made of: steps.json, in the recipe's folder, says it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.checkpoint import Checkpoint, write_json
from prunella.data.digests import contents_digest
from prunella.errors import InputError
from prunella.grid import SCALES_FILE
from prunella.packing import CARRIED
from prunella.settings import Settings

RECORD = "steps.json"
# The setting that names what a verb writes, of verbs that refuse to write it twice.
_WRITES = {
    "apply-mask": "out",
    "bench": "out",
    "export": "onnx",
    "predict": "out",
    "study": "out",
    "unpack": "out",
}
# What may differ between two runs with one result.
_FREE = {"predict": {"threads", "batch_tokens", "skip_bad"}}


@dataclass(frozen=True)
class Finished:
    """The result of a step that an earlier run has finished, as that one described it."""

    document: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**self.document, "finished_before": True}


def target_of(verb: str, settings: Settings) -> Path | None:
    """What a verb writes, if it does not know it again; None for the others, and for streams."""
    out = getattr(settings, _WRITES.get(verb, ""), None)
    streams = "-" in (out, getattr(settings, "file", None))
    return None if out is None or streams else Path(out)


def run_once(verb: str, settings: Settings, out: Path, folder: Path, run: Callable[[], Any]) -> Any:
    """Runs a step, or says what came of it if it is finished.

    Args:
        verb: Its name.
        settings: Its settings.
        out: From `target_of`.
        folder: That of the recipe.
        run: Does it.

    Raises:
        InputError: As `run` does; and if OUT was made with other settings, or of files whose
            contents have changed.
    """
    record, key = folder / RECORD, str(out)
    known, made_of = _read(record), _made_of(verb, settings, out)
    others = {name: note for name, note in known.items() if name != key}
    overwrite = getattr(settings, "overwrite", False)
    if out.exists() and not overwrite and (note := _note(known, key, out)):
        if changed := _changed(note["made_of"], made_of):
            raise InputError(
                f"{out}: exists, and was made of something else ({', '.join(changed)}); choose "
                "another place for it, or pass `overwrite: true`"
            )
        return Finished(note.get("result") or {"out": key})
    # Before it runs: it may be killed between writing OUT, which is whole or absent, and the note.
    _write(record, others if out.exists() else others | {key: {"made_of": made_of}})
    try:
        result = run()
    except InputError:
        _write(record, known)
        raise
    document = result.to_json() if hasattr(result, "to_json") else {"out": str(result)}
    note = {"made_of": made_of, "contents": _digest(out), "result": document}
    _write(record, others | {key: note})
    return result


def _note(known: Mapping[str, Any], key: str, out: Path) -> dict[str, Any] | None:
    """What is known of OUT as it is; None if nothing is."""
    note = known.get(key)
    if not isinstance(note, dict) or not isinstance(note.get("made_of"), dict):
        return None
    return note if note.get("contents") in (None, _digest(out)) else None


def _made_of(verb: str, settings: Settings, out: Path) -> dict[str, Any]:
    """The settings that count, and digests of the files and model directories that they name."""
    free = {"overwrite", *_FREE.get(verb, ())}
    values = settings.model_dump(mode="json", exclude=free, exclude_defaults=True)
    named = {text for text in _texts(values) if text != str(out) and _exists(text)}
    files = {text: _digest(Path(text)) for text in sorted(named)}
    return {"settings": {"verb": verb, **values}, "files": files}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else []:
        yield from _texts(item)
    for item in value if isinstance(value, list) else []:
        yield from _texts(item)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # it can be no name of a file
        return False


def _digest(path: Path) -> str:
    """Of what a file holds, or of a model directory's own files: others may come into it."""
    try:
        if path.is_file():
            return contents_digest(path)
        own = [path / name for name in (*CARRIED, SCALES_FILE)]
        files = [file for file in (*own, *Checkpoint(path).weight_files) if file.exists()]
        lines = [f"{file.name}: {contents_digest(file)}" for file in files]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, and the files whose contents do; empty if none does."""
    if before == now:
        return []
    settings, files = before.get("settings") or {}, before.get("files") or {}
    names = settings.keys() | now["settings"].keys()
    other = [name for name in sorted(names) if settings.get(name) != now["settings"].get(name)]
    edited = [
        f"{path} was changed"
        for path, digest in now["files"].items()
        if files.get(path, digest) != digest
    ]
    return [*other, *edited] or ["other files"]


def _read(record: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(record.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _write(record: Path, known: Mapping[str, Any]) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, known)
    except OSError as error:
        raise InputError(f"{record}: cannot be written ({error.strerror or error})") from None
