"""What provenance says of a sub-network: what chose its mask, on which data, for which task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.errors import InputError

Record = Mapping[str, Any]

# Stages that lock the zeros they find: what chose these is then said by a parent.
_KEEPING = {"adapt", "teach", "transfer", "quantize"}
_DEEPEST = 32
_TWO_TEXTS = ("question-answering", "multiple-choice")


def labels_of(records: Sequence[Record], folders: Sequence[Path]) -> dict[str, list[str | None]]:
    """Method and data of each sub-network; None where no record says.

    Args:
        records: Provenance of each.
        folders: Where each one lies.
    """
    opened: dict[Path, Checkpoint] = {}
    methods = [_method(r, folder, opened) for r, folder in zip(records, folders, strict=True)]
    return {"method": methods, "task": _tasks(records)}


def same_task(first: Record, second: Record) -> bool:
    """Whether two records name one task: one kind, the same labels, and rows in common.

    Labels alone do not tell: those of many tasks are 0 and 1, and scores have none.
    """
    tasks = [_block(record, "task") for record in (first, second)]
    if not all(tasks) or any(tasks[0].get(k) != tasks[1].get(k) for k in ("kind", "labels")):
        return False
    ours, theirs = _hashes(first), _hashes(second)
    if any(ours.get(p) and ours.get(p) == theirs.get(p) for p in ("train", "validation")):
        return True
    data = _data(first), _data(second)
    return bool(data[0] and data[1] and data[0][0] == data[1][0])


def reads_pairs(record: Record) -> bool | None:
    """Whether a task's model reads pairs of texts; None where its record does not say."""
    task = _block(record, "task")
    if isinstance(task.get("pairs"), bool):
        return task["pairs"]
    if task.get("pair") or task.get("kind") in _TWO_TEXTS:
        return True
    if task.get("text"):  # a column named alone is a single text
        return False
    data = _data(record)
    preset = _preset(data[1][0]) if data else None
    return bool(preset.columns.pair) if preset else None


def _method(record: Record, folder: Path, opened: dict[Path, Checkpoint]) -> str | None:
    """What chose the mask: the last stage that did, among the record's and its parents'."""
    for _ in range(_DEEPEST):
        settings = _block(record, "settings")
        found = (
            _block(record, "mask").get("method")
            or settings.get("method")
            or settings.get("score")
            or _block(settings, "prune").get("score")
        )
        if found:
            return str(found)
        parent = _parent(record, folder, opened) if record.get("stage") in _KEEPING else None
        if parent is None:
            return None
        record, folder = parent.provenance or {}, parent.path.parent
    return None


def _parent(record: Record, folder: Path, opened: dict[Path, Checkpoint]) -> Checkpoint | None:
    """The model that a stage started from, if it is still there and the same."""
    named = _block(_block(record, "parents"), "model")
    if not named.get("stage"):  # others made it, and left no record
        return None
    path = Path(str(named.get("path")))
    # A relative path was one of the folder where the command ran, often that of the models.
    for place in (path, folder / path.name):
        try:
            found = opened.setdefault(place.resolve(), open_checkpoint(place))
            if found.weights_hash == named.get("sha256"):
                return found if found.provenance else None
        except (InputError, OSError):
            continue
    return None


def _tasks(records: Sequence[Record]) -> list[str | None]:
    """A name for each data set: of its files, as long as it takes to tell data sets apart."""
    found = [_data(record) for record in records]
    files: dict[str, Sequence[str]] = {}
    for data in found:
        if data:
            files.setdefault(*data)
    names = {key: _named(held, 1) for key, held in files.items()}
    deepest = max((len(Path(f).parts) for held in files.values() for f in held), default=0)
    for depth in range(2, deepest + 1):
        counts = Counter(names.values())
        names |= {k: _named(files[k], depth) for k, name in names.items() if counts[name] > 1}
    counts = Counter(names.values())  # one file whose contents have changed since
    names |= {k: f"{name} ({k[:8]})" for k, name in names.items() if counts[name] > 1}
    return [names[data[0]] if data else None for data in found]


def _named(files: Sequence[str], depth: int) -> str:
    return ", ".join(sorted("/".join(Path(file).parts[-depth:]) for file in files))


def _data(record: Record) -> tuple[str, Sequence[str]] | None:
    """(what tells the data from other data, its files) of what a model was trained on.

    That is the hash of what the files held. Data sets of the Hub count by their names, and so do
    files in records that have no hashes.
    """
    said = _block(record, "mask") or _block(record, "settings")
    part = "train" if said.get("train") else "text"
    named = said.get(part)
    if not named or not isinstance(named, str | list | tuple):
        return None
    files = [named] if isinstance(named, str) else [str(file) for file in named]
    if preset := _preset(files[0]):
        return f"hub:{preset.name}", files
    return str(_hashes(record).get(part) or ", ".join(sorted(files))), files


def _hashes(record: Record) -> Mapping[str, Any]:
    """Hashes of the data by the setting that names it."""
    return _block(_block(record, "mask") or _block(record, "identity"), "data")


def _preset(source: str) -> Any:
    """The data set of the Hub that a source names; each has several names."""
    if not source.startswith("hub:"):
        return None
    from prunella.data.presets import preset_of

    return preset_of(source)


def _block(record: Record, name: str) -> Mapping[str, Any]:
    """A block of a record; empty if it is not there, or nothing that this version writes."""
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}
