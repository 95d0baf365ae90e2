"""What every format of text shares: bytes to characters, columns to a table."""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

import pyarrow as pa

from prunella.errors import InputError

Columns = dict[str, list[Any]]


def decode(data: bytes, source: str) -> str:
    """The text of a file, which must be UTF-8; a byte order mark is dropped."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def to_table(columns: Columns, source: str) -> pa.Table:
    """Columns as a table; a column of mixed types becomes text."""
    return pa.table({name: _array(name, values, source) for name, values in columns.items()})


def _array(name: str, values: list[Any], source: str) -> pa.Array | pa.ChunkedArray:
    try:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types, huge integers
            return pa.array([_as_text(value) for value in values])
    except UnicodeEncodeError as error:
        row = next(i for i, v in enumerate(values, start=1) if _holds(v, error.object))
        raise InputError(
            f"{source}, row {row}, column '{name}': half of a surrogate pair, which is no "
            "character; repair the text"
        ) from None


def _as_text(value: Any) -> str | None:
    """A value of a column of mixed types; what pandas writes as NaN is missing."""
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, float) and math.isnan(value) else json.dumps(value)


def _holds(value: Any, text: str) -> bool:
    """Whether a value, or anything inside it, is this text."""
    if isinstance(value, dict):
        return any(_holds(part, text) for item in value.items() for part in item)
    if isinstance(value, list):
        return any(_holds(part, text) for part in value)
    return value == text
