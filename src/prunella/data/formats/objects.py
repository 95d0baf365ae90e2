"""JSON: objects one a line, a list of them, columns, or SQuAD's nesting."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from prunella.data.formats.squad import is_squad, squad_table
from prunella.data.formats.text import Columns, decode, to_table
from prunella.errors import InputError


def parse_jsonl(data: bytes, source: str) -> pa.Table:
    """One object a line; blank lines do not count."""
    # Not splitlines(): a JSON string may hold U+2028 and the like unescaped.
    lines = enumerate(decode(data, source).split("\n"), start=1)
    rows = [
        _object(_loads(line, source, n), f"{source}, line {n}") for n, line in lines if line.strip()
    ]
    return to_table(_columns(rows), source)


def parse_json(data: bytes, source: str) -> pa.Table:
    """A list of objects, an object of columns, a SQuAD document, or one object a line."""
    text = decode(data, source)
    try:
        value = _loads(text, source)
    except InputError as error:
        if "Extra data" in str(error):  # many files called .json hold one object a line
            return parse_jsonl(data, source)
        raise
    if is_squad(value):
        return squad_table(value, source)
    if isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
        if len({len(v) for v in value.values()}) > 1:
            lengths = {name: len(v) for name, v in value.items()}
            raise InputError(f"{source}: columns of different lengths: {lengths}")
        return to_table(value, source)
    items = value if isinstance(value, list) else [value]
    rows = [_object(item, f"{source}, item {n}") for n, item in enumerate(items, start=1)]
    return to_table(_columns(rows), source)


def _loads(text: str, source: str, line: int = 0) -> Any:
    """`json.loads`; `line` is the text's place in the file, 0 if it is the whole file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, character {error.colno}"
        raise InputError(f"{source}, {where}: not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deep; a number of >4300 digits
        raise InputError(f"{source}, line {line or 1}: unreadable JSON ({error})") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f'{where}: expected an object such as {{"text": "...", "label": 1}}, '
            f"found {type(value).__name__}"
        )
    return value


def _columns(rows: list[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
