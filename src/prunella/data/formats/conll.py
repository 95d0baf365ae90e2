"""CoNLL's format: a word a line, its tag in the last column, a blank line between sentences.

Columns are parted by tabs where the file holds any, else by spaces. Lines that begin with
-DOCSTART- (they part documents) are dropped, and so are comments: lines that begin with "#" and
have no tab in a file that is parted by tabs. Elsewhere "#" may be a word: there a comment stands
before a sentence and does not end in an entity's tag as every other line does.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import dropwhile

import pyarrow as pa

from prunella.data.formats.cells import parse_tsv
from prunella.data.formats.text import decode
from prunella.errors import InputError

_ENTITY_TAG = re.compile(r"O|[BIESLUM]-\S+")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class _Line:
    number: int
    cells: list[str]


def parse_conll(data: bytes, source: str) -> pa.Table:
    """Sentences as the columns `tokens` and `tags`, both lists of text."""
    return _to_sentences(_split(decode(data, source)), source)


def parse_tsv_or_conll(data: bytes, source: str) -> pa.Table:
    """A tsv is a table whose first line names the columns, unless its shape is CoNLL's.

    Raises:
        InputError: It could be either.
    """
    text = decode(data, source)
    if _is_tagged(text):
        return _to_sentences(_split(text), source)
    if _BLANK_LINE.search(text.strip()) and _holds_words(_split(text)):
        raise InputError(
            f"{source}: blank lines between rows of single words: is it one word a line with a tag "
            "behind it (then name the file .conll), or a table (then delete the blank lines)?"
        )
    return parse_tsv(data, source)


def parse_txt(data: bytes, source: str) -> pa.Table:
    """A .txt is read only where its shape is CoNLL's."""
    text = decode(data, source)
    if _is_tagged(text):
        return _to_sentences(_split(text), source)
    raise InputError(
        f"{source}: unknown format; a .txt must hold a word a line with its tag (O, B-X, I-X) in "
        "the last column. Name such a file .conll if its tags look different, and a table by its "
        "format: .csv, .tsv, .jsonl, .json, .parquet"
    )


def _split(text: str) -> list[list[_Line]]:
    """Sentences: blocks of lines with cells, between blank lines."""
    tabs = "\t" in text
    blocks: list[list[_Line]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith(_DOCUMENT):
            blocks.append([])
        elif not (tabs and _is_comment(line)):
            blocks[-1].append(_Line(number, _cells(line, tabs)))
    blocks = blocks if tabs else _without_comments(blocks)
    return [block for block in blocks if block]


def _without_comments(blocks: list[list[_Line]]) -> list[list[_Line]]:
    """The sentences of a file that is parted by spaces, without the comments before them."""
    words = [line for block in blocks for line in block if not _has_hash(line)]
    if not words or not all(_ends_in_tag(line.cells) for line in words):
        return blocks
    return [
        list(dropwhile(lambda line: _has_hash(line) and not _ends_in_tag(line.cells), block))
        for block in blocks
    ]


def _has_hash(line: _Line) -> bool:
    return line.cells[0].startswith("#")


def _cells(line: str, tabs: bool) -> list[str]:
    cells = line.split("\t") if tabs else line.split(" ")
    # Not strip(): a word may be another kind of space.
    return [cell.strip(" \r\n") for cell in cells if tabs or cell.strip(" \r\n")]


def _is_tagged(text: str) -> bool:
    """Whether documents are parted as in CoNLL-2003, or every line ends in an entity's tag.

    The first line need not: it may name columns, which `_to_sentences` then tells.
    """
    if text.startswith(_DOCUMENT):
        return True
    lines = (line for line in io.StringIO(text) if line.strip() and not _is_comment(line))
    rows = (_cells(line, "\t" in line) for line in lines)
    first, second = next(rows, []), next(rows, None)
    return _ends_in_tag(first if second is None else second) and all(map(_ends_in_tag, rows))


def _is_comment(line: str) -> bool:
    """In files that are parted by tabs alone: elsewhere "#" may be a word."""
    return line.startswith("#") and "\t" not in line


def _ends_in_tag(cells: list[str]) -> bool:
    return len(cells) > 1 and _ENTITY_TAG.fullmatch(cells[-1]) is not None


def _holds_words(blocks: list[list[_Line]]) -> bool:
    """Whether first cells are single words, and every line has the same number of cells."""
    lines = [line for block in blocks for line in block]
    widths = {len(line.cells) for line in lines}
    return len(widths) == 1 and min(widths) > 1 and all(" " not in line.cells[0] for line in lines)


def _to_sentences(blocks: list[list[_Line]], source: str) -> pa.Table:
    if not blocks:
        raise InputError(f"{source} has no rows: it must hold at least one example")
    width = len(blocks[0][0].cells)
    lines = [line for block in blocks for line in block]
    for line in lines:
        _check(line, width, f"{source}, line {line.number}")
    rest = lines[1:]
    named = not _ends_in_tag(lines[0].cells) and all(_ends_in_tag(line.cells) for line in rest)
    if rest and named:
        raise InputError(
            f"{source}, line {lines[0].number}: {' '.join(lines[0].cells)!r} is no word with its "
            "tag; delete it if it names the columns (sentences have no such line)"
        )
    if any(len(block) > 1 for block in blocks) and all(map(_is_numbered, blocks)):
        raise InputError(
            f"{source}: the first column counts the words; the word itself must come first, "
            "its tag last: delete that column"
        )
    tokens = [[line.cells[0] for line in block] for block in blocks]
    tags = [[line.cells[-1] for line in block] for block in blocks]
    lists = pa.list_(pa.string())
    return pa.table({"tokens": pa.array(tokens, lists), "tags": pa.array(tags, lists)})


def _check(line: _Line, width: int, where: str) -> None:
    if len(line.cells) < 2:
        raise InputError(f"{where}: no tag behind {line.cells[0]!r}")
    if len(line.cells) != width:
        raise InputError(
            f"{where}: {len(line.cells)} columns where the first line has {width} (a line is a "
            "word and its tag, with the same columns everywhere)"
        )
    if not line.cells[0] or not line.cells[-1]:
        what = "word" if not line.cells[0] else "tag"
        raise InputError(f"{where}: the {what} is empty")


def _is_numbered(block: list[_Line]) -> bool:
    return [line.cells[0] for line in block] == [str(i + 1) for i in range(len(block))]
