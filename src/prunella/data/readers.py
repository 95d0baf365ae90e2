"""Tables from files or from the Hub: csv, tsv, jsonl, json, parquet, plain or .gz or .xz.

Local files are parsed here and kept in memory, not through `datasets.load_dataset`: that keeps a
converted copy of every file in a cache folder, and it cannot say which line is broken.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError

from prunella.errors import InputError

Columns = dict[str, list[Any]]
_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}


def read_table(source: str, split: str | None = None) -> datasets.Dataset:
    """Read one table of examples.

    Args:
        source: A file (csv and tsv with a header line; jsonl; json: a list of objects, an object
            of equally long lists, or objects one a line; parquet), plain or ending in .gz or .xz,
            UTF-8 throughout; or `hub:NAME[/CONFIG]`, a data set of the Hugging Face Hub.
            In csv every cell is text; tsv has no quoting, as in GLUE's own files.
        split: The split of a Hub data set ("train", "validation[:100]"); None for a file.

    Returns:
        The rows, in order, in memory. A key that a JSON object lacks is None there; a column of
        mixed types is text.

    Raises:
        InputError: The file is missing, empty, broken or of an unknown format.
    """
    if source.startswith("hub:"):
        return _from_hub(source, split)
    if split is not None:
        raise InputError(f"{source}: a split ('{split}') is only for 'hub:' sources; leave it out")
    path = Path(source)
    parse = _parser(path)
    data = _read_bytes(path)
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise InputError(f"{source} is empty: it must hold at least one example")
    table = parse(data, source)
    if not table.num_rows:
        raise InputError(f"{source} has no rows: it must hold at least one example")
    try:
        return datasets.Dataset(table, fingerprint=hashlib.sha256(data).hexdigest()[:16])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # A parquet file may carry a description of its columns, written by `datasets`.
        raise InputError(f"{source}: broken description of its columns ({error})") from None


def content_hash(source: str) -> str:
    """A hash of what a file of rows holds; a data set of the Hub counts by its name.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    data = source.encode() if source.startswith("hub:") else _read_bytes(Path(source))
    return hashlib.sha256(data).hexdigest()


def _parser(path: Path) -> Callable[[bytes, str], pa.Table]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _DECOMPRESS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _PARSERS:
        raise InputError(
            f"{path}: unknown format; use one of {', '.join(_PARSERS)}, each also with .gz or .xz"
        )
    return _PARSERS[suffixes[-1]]


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(f"no such file: {path}{hint}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    suffix = path.suffix.lower()
    if suffix not in _DECOMPRESS or not data:
        return data
    try:
        return _DECOMPRESS[suffix](data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} is not a whole {suffix} file: {error}") from None


def _decode(data: bytes, source: str) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def _parse_csv(data: bytes, source: str) -> pa.Table:
    reader = csv.reader(io.StringIO(_decode(data, source), newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for cells in reader:
            lines.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{source}, the row that starts at line {start}: {error} (a quote left open, or a "
            "field too long for csv: then use JSON lines)"
        ) from None
    return _cells_to_table(((n, cells) for n, cells in lines if cells), source)


def _parse_tsv(data: bytes, source: str) -> pa.Table:
    lines = enumerate(_decode(data, source).split("\n"), start=1)
    stripped = ((n, line.removesuffix("\r")) for n, line in lines)
    return _cells_to_table(((n, line.split("\t")) for n, line in stripped if line), source)


def _cells_to_table(lines: Iterable[tuple[int, list[str]]], source: str) -> pa.Table:
    """A table of text cells; the first line names the columns."""
    (_, header), *rows = lines
    if len(set(header)) < len(header):
        raise InputError(f"{source}: the first line names a column twice: {header}")
    for number, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{source}, line {number}: {len(cells)} fields where the first line names "
                f"{len(header)} columns (tsv has no quoting: if texts hold tabs or line breaks, "
                "use csv or JSON lines)"
            )
    columns = zip(*(cells for _, cells in rows), strict=True) if rows else ([] for _ in header)
    return _to_table(dict(zip(header, map(list, columns), strict=True)), source)


def _parse_jsonl(data: bytes, source: str) -> pa.Table:
    # Not splitlines(): a JSON string may hold U+2028 and the like unescaped.
    lines = enumerate(_decode(data, source).split("\n"), start=1)
    rows = [
        _object(_loads(line, source, n), f"{source}, line {n}") for n, line in lines if line.strip()
    ]
    return _to_table(_rows_to_columns(rows), source)


def _parse_json(data: bytes, source: str) -> pa.Table:
    text = _decode(data, source)
    try:
        value = _loads(text, source)
    except InputError as error:
        if "Extra data" in str(error):  # many files called .json hold one object a line
            return _parse_jsonl(data, source)
        raise
    if isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
        if len({len(v) for v in value.values()}) > 1:
            lengths = {name: len(v) for name, v in value.items()}
            raise InputError(f"{source}: columns of different lengths: {lengths}")
        return _to_table(value, source)
    items = value if isinstance(value, list) else [value]
    rows = [_object(item, f"{source}, item {n}") for n, item in enumerate(items, start=1)]
    return _to_table(_rows_to_columns(rows), source)


def _parse_parquet(data: bytes, source: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)  # is the text UTF-8?
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not a whole parquet file: {error}") from None
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{source}: a column name occurs twice: {table.column_names}")
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas categories; `datasets` refuses them
            plain = table.column(i).cast(field.type.value_type)
            table = table.set_column(i, field.name, plain)
    return table


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


def _rows_to_columns(rows: list[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _to_table(columns: Columns, source: str) -> pa.Table:
    return pa.table({name: _array(name, values, source) for name, values in columns.items()})


def _array(name: str, values: list[Any], source: str) -> pa.Array | pa.ChunkedArray:
    try:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types, huge integers
            return pa.array(
                [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            )
    except UnicodeEncodeError as error:
        row = next(i for i, v in enumerate(values, start=1) if v == error.object)
        raise InputError(
            f"{source}, row {row}, column '{name}': half of a surrogate pair, which is no "
            "character; repair the text"
        ) from None


def _from_hub(source: str, split: str | None) -> datasets.Dataset:
    parts = source.removeprefix("hub:").split("/")
    if not all(parts) or len(parts) > 3:
        raise InputError(f"{source}: expected hub:NAME, hub:OWNER/NAME or either with /CONFIG")
    if split is None:
        raise InputError(f"{source}: say which split to read, for instance 'train'")
    # Two parts may mean OWNER/NAME or NAME/CONFIG; today's Hub has an owner for nearly all.
    readings: list[tuple[str, str | None]] = [("/".join(parts[:2]), None)]
    if len(parts) == 3:
        readings = [("/".join(parts[:2]), parts[2])]
    elif len(parts) == 2:
        readings.append((parts[0], parts[1]))
    for name, config in readings:
        try:
            table = datasets.load_dataset(name, config, split=split)
        except DatasetNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {source}, split '{split}': {error}") from error
        if not isinstance(table, datasets.Dataset) or not len(table):
            raise InputError(f"{source}, split '{split}': no rows")
        return table
    raise InputError(
        f"{source}: the Hub has no such data set, or it is private, or you are offline"
    )


_PARSERS: dict[str, Callable[[bytes, str], pa.Table]] = {
    ".csv": _parse_csv,
    ".tsv": _parse_tsv,
    ".jsonl": _parse_jsonl,
    ".json": _parse_json,
    ".parquet": _parse_parquet,
}
