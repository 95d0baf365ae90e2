"""csv and tsv with a header line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

import pyarrow as pa

from prunella.data.formats.text import decode, to_table
from prunella.errors import InputError


def parse_csv(data: bytes, source: str) -> pa.Table:
    """Quoted cells may hold separators and line breaks.

    A first line with semicolons and no comma is a spreadsheet's of a country whose decimals have a
    comma. Cells stay as they are: labels with such numbers are refused where they are read.
    """
    text = decode(data, source)
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
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
    named = {",": "commas", ";": "semicolons"}[separator]
    hint = f"put quotes around texts that hold {named}"
    return _cells_to_table(((n, cells) for n, cells in lines if cells), source, hint)


def parse_tsv(data: bytes, source: str) -> pa.Table:
    """Cells parted by tabs, without quoting."""
    lines = enumerate(decode(data, source).split("\n"), start=1)
    stripped = ((n, line.removesuffix("\r")) for n, line in lines)
    hint = "tsv has no quoting: if texts hold tabs or line breaks, use csv or JSON lines"
    cells = ((n, line.split("\t")) for n, line in stripped if line)
    return _cells_to_table(cells, source, hint)


def _cells_to_table(lines: Iterable[tuple[int, list[str]]], source: str, hint: str) -> pa.Table:
    """A table of text cells; the first line names the columns."""
    (_, header), *rows = lines
    if len(set(header)) < len(header):
        raise InputError(f"{source}: the first line names a column twice: {header}")
    for number, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{source}, line {number}: {len(cells)} fields where the first line names "
                f"{len(header)} columns ({hint})"
            )
    columns = zip(*(cells for _, cells in rows), strict=True) if rows else ([] for _ in header)
    return to_table(dict(zip(header, map(list, columns), strict=True)), source)
