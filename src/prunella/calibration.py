"""Text and ranges for static 8-bit activations: what reaches each Linear on ordinary input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunella.checkpoint import Checkpoint
from prunella.data.readers import read_table
from prunella.data.sources import resolve
from prunella.data.tasks import PAIR_COLUMNS, TEXT_COLUMNS
from prunella.errors import InputError

Row = tuple[str, str | None]
# Questions with contexts, and lists of words.
_OF_OTHER_KINDS = (("question", "context"), ("tokens", None), ("words", None))
_TABLES = {".csv", ".tsv", ".jsonl", ".json", ".parquet"}


def calibration_rows(checkpoint: Checkpoint, source: str | None, count: int) -> list[Row]:
    """Texts (and second texts) to find ranges on, evenly spaced over the source.

    Args:
        checkpoint: Its provenance names the rows it was trained on, and their columns.
        source: A table with a text column, or plain text, a text a line; None takes those rows.
        count: No more than this many.

    Raises:
        InputError: If there is no text, or it cannot be read.
    """
    record = checkpoint.provenance or {}
    found = source or _training_rows(record)
    if found is None:
        raise InputError(
            f"{checkpoint.path}: int8 with static ranges needs text, and prunella.json names no "
            "training rows that are still there; give some with --calibrate FILE (a hundred usual "
            "texts do), or choose --activations dynamic, which needs none"
        )
    rows = _table_rows(found, record.get("task") or {}) if _is_table(found) else _lines(found)
    if not rows:
        raise InputError(f"{found}: holds no text")
    step = max(1, len(rows) // count)
    return rows[::step][:count]


def _training_rows(record: dict[str, Any]) -> str | None:
    train = (record.get("settings") or {}).get("train")
    return train if isinstance(train, str) and Path(train).is_file() else None


def _is_table(source: str) -> bool:
    return bool({suffix.lower() for suffix in Path(source).suffixes[-2:]} & _TABLES)


def _table_rows(source: str, task: dict[str, Any]) -> list[Row]:
    table = read_table(source)
    columns = table.column_names
    text, pair = task.get("text"), task.get("pair")
    if text not in columns or (pair and pair not in columns):
        layouts = [*PAIR_COLUMNS, *((name, None) for name in TEXT_COLUMNS), *_OF_OTHER_KINDS]
        usual = [(a, b) for a, b in layouts if a in columns and (b is None or b in columns)]
        if not usual:
            raise InputError(
                f"{source}: no text column; the columns are {', '.join(columns)}, looked for are "
                f"{', '.join(a if b is None else f'{a} and {b}' for a, b in layouts)}"
            )
        text, pair = usual[0]
    texts, pairs = table[text][:], table[pair][:] if pair else [None] * len(table)
    both = zip(texts, pairs, strict=True)
    return [(_text(a), None if b is None else _text(b)) for a, b in both if a is not None]


def _text(value: Any) -> str:
    """A text; words of token classification are joined as in training."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _lines(source: str) -> list[Row]:
    pieces = (piece for found in resolve([source]) for piece in found.pieces())
    return [(piece.text, None) for piece in pieces if piece.text.strip()]


@torch.no_grad()
def activation_ranges(
    model: nn.Module, names: Sequence[str], inputs: Iterator[dict[str, Tensor]]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value that reaches each Linear, 0 included.

    Args:
        model: As it predicts.
        names: Module names of the Linears.
        inputs: What the model is called with; no padding, or that counts as well.
    """
    ranges = dict.fromkeys(names, (0.0, 0.0))
    with _watching(model, ranges):
        for batch in inputs:
            model(**batch)
    return ranges


@contextmanager
def _watching(model: nn.Module, ranges: dict[str, tuple[float, float]]) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            low, high = ranges[name]
            x = arguments[0]
            ranges[name] = (min(low, x.min().item()), max(high, x.max().item()))

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in ranges]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
