"""Rows of text one after another, in constant memory: JSON lines, csv, tsv, plain lines.

What is wrong with a row is handed out in the row's place, so that the reader may go on.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from prunella.errors import InputError

Format = Literal["auto", "jsonl", "csv", "tsv", "text"]
Record = dict[str, Any] | str

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
_LONGEST_LINE = 1 << 24
_TOO_LONG = b"\xff\xff"  # stands for such a line; never valid UTF-8


@dataclass(frozen=True)
class Row:
    """A row, or what is wrong with it. `line` is where it begins, from 1."""

    line: int
    record: Record | InputError


class Rows:
    """Iterates over the rows of a file or of standard input ("-"); blank lines are no rows.

    A record is a dictionary by column, or a text: of a plain line, or of a JSON string.
    """

    def __init__(self, source: str, format: Format = "auto") -> None:
        """Opens the source.

        Raises:
            InputError: If it is missing or of an unknown format.
        """
        self.source = source
        self.name = name_of(source)
        self.format = _format_of(source, format)
        self.total: int | None = None
        self._raw: IO[bytes] = sys.stdin.buffer
        if source != "-":
            self._raw = _open(Path(source))
            self.total = os.fstat(self._raw.fileno()).st_size
        self._stream = _decompressed(self._raw, source)

    @property
    def position(self) -> int:
        """Bytes read so far, of `total`; read ahead by a buffer at most."""
        return self._raw.tell() if self.total is not None else 0

    def close(self) -> None:
        if self.source != "-":
            self._stream.close()
            self._raw.close()

    def __iter__(self) -> Iterator[Row]:
        lines = self._lines()
        if self.format == "csv":
            return self._csv(lines)
        if self.format == "tsv":
            return self._tsv(lines)
        return self._plain(lines)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """(number, line without its end). Bytes that are not UTF-8 become lone surrogates."""
        number = 0
        while True:
            number += 1
            try:
                line = part = self._stream.readline(_LONGEST_LINE)
                while len(part) == _LONGEST_LINE and not part.endswith(b"\n"):
                    part, line = self._stream.readline(_LONGEST_LINE), _TOO_LONG
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise InputError(f"{self.name}, line {number}: cannot be read ({error})") from None
            if not line:
                return
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line.decode("utf-8", "surrogateescape").rstrip("\r\n")

    def _plain(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        for number, line in lines:
            if not line.strip():
                continue
            if self.format == "auto":  # standard input: its first line tells
                self.format = "jsonl" if line.lstrip()[0] in '{"' else "text"
            broken = _not_utf8(line)
            if broken or self.format == "text":
                yield Row(number, broken or line)
            else:
                yield Row(number, _parse_json(line))

    def _tsv(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        filled = ((number, line.split("\t")) for number, line in lines if line)
        yield from self._cells(filled)

    def _csv(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        yield from self._cells(_csv_cells(line + "\n" for _, line in lines))

    def _cells(self, rows: Iterator[tuple[int, list[str] | InputError]]) -> Iterator[Row]:
        """Records by the names in the first row."""
        _, header = next(rows, (0, []))
        if isinstance(header, InputError) or _not_utf8("".join(header)):
            raise InputError(f"{self.name}, line 1: its column names cannot be read")
        if len(set(header)) < len(header):
            raise InputError(f"{self.name}: the first line names a column twice: {header}")
        for number, cells in rows:
            if isinstance(cells, InputError):
                yield Row(number, cells)
            elif len(cells) != len(header):
                wrong = f"{len(cells)} fields where the first line names {len(header)} columns"
                yield Row(number, InputError(wrong))
            else:
                broken = _not_utf8("".join(cells))
                yield Row(number, broken or dict(zip(header, cells, strict=True)))


def name_of(source: str) -> str:
    """What to call a source in a message."""
    return "standard input" if source == "-" else source


def _csv_cells(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | InputError]]:
    reader = csv.reader(lines, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, InputError(f"{error} (a quote left open, or a field too long for csv)")
            continue
        if cells:
            yield start, cells


def _parse_json(line: str) -> Record | InputError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return InputError(f"not valid JSON ({error.msg}, character {error.colno})")
    except (RecursionError, ValueError) as error:  # nested too deep; a number of >4300 digits
        return InputError(f"unreadable JSON ({error})")
    if isinstance(value, (dict, str)):
        return value
    return InputError(f'expected an object such as {{"text": "..."}}, not {type(value).__name__}')


def _not_utf8(text: str) -> InputError | None:
    """The error for a line with bytes that are not UTF-8; None if all is well."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return None
    if text == _TOO_LONG.decode("utf-8", "surrogateescape"):
        return InputError(f"longer than {_LONGEST_LINE >> 20} MB; split it")
    return InputError("not UTF-8; convert the file to UTF-8")


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        siblings = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(f"no such file: {path}{hint}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _decompressed(raw: IO[bytes], name: str) -> IO[bytes]:
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
    if name.endswith(".xz"):
        return io.BufferedReader(lzma.LZMAFile(raw))  # type: ignore[arg-type]
    return raw


def _format_of(name: str, wanted: Format) -> Format:
    if wanted != "auto" or name == "-":
        return wanted
    if Path(name).is_dir():
        raise InputError(f"{name}: is a folder; give one file of texts")
    suffix = Path(name.removesuffix(".gz").removesuffix(".xz")).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{name}: unknown format; name it with --format (jsonl, csv, tsv, text), or by one of "
            f"{', '.join(_SUFFIXES)}, each also with .gz or .xz"
        )
    return _SUFFIXES[suffix]
