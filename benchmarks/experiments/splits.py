"""Rows of train set aside to choose settings on."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

from prunella.errors import InputError

SHARE = 0.1


def set_aside(source: Path, folder: Path, group: str | None) -> tuple[Path, Path]:
    """Splits a .jsonl(.gz) file into FOLDER/NAME-train.jsonl and FOLDER/NAME-held-out.jsonl.

    A row's side is a function of its text alone (or of its column `group`), so it is the same on
    every machine, and equal rows are never on both sides.

    Raises:
        InputError: If the file is no jsonl, or a row has no such column.
    """
    name = source.name.removesuffix(".gz")
    if not name.endswith(".jsonl"):
        raise InputError(
            f"{source}: rows can be set aside from .jsonl files only; name a file for them in "
            "tasks.yaml (held_out)"
        )
    name = name.removesuffix(".jsonl")
    train, held_out = folder / f"{name}-train.jsonl", folder / f"{name}-held-out.jsonl"
    if train.exists() and held_out.exists():
        return train, held_out
    sides: tuple[list[str], list[str]] = [], []
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            sides[_is_held_out(_key(line, group, f"{source}, line {number}"))].append(line)
    folder.mkdir(parents=True, exist_ok=True)
    for path, side in zip((train, held_out), sides, strict=True):
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # others may be at it as well
        draft.write_text("".join(side), encoding="utf-8")
        draft.replace(path)
    return train, held_out


def _key(line: str, group: str | None, where: str) -> str:
    if group is None:
        return line.strip()
    row = json.loads(line)
    if group not in row:
        raise InputError(f"{where}: no column '{group}'; it has {', '.join(row)}")
    return str(row[group])


def _is_held_out(key: str) -> bool:
    first = hashlib.sha256(key.encode()).digest()[:8]
    return int.from_bytes(first, "big") < SHARE * 2**64
