"""The results as one self-contained page, with the templates of all reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from prunella.report.html import Block, Code, Figure, Page, Section
from prunella.report.tables import MISSING, Cell, Column, Table

_NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")


def page_of(document: str, picture: Callable[[str], str]) -> Page:
    """A page with the text, tables and pictures of a document.

    Args:
        document: Markdown: one title, then text; headings part it into sections.
        picture: From the target of an image to its SVG.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(document)
    title, lead, sections = "", "", list[Section]()
    for piece in _pieces(tokens, picture):
        if isinstance(piece, _Heading):
            if piece.level == 1:
                title = piece.text
            else:
                sections.append(Section(piece.text))
        elif not sections:  # what stands before the first heading is text
            lead += f"{piece}\n\n" if isinstance(piece, str) else ""
        else:
            sections += _with(sections.pop(), piece)
    return Page(title, lead, sections)


class _Heading:
    def __init__(self, level: int, text: str) -> None:
        self.level, self.text = level, text


def _with(section: Section, piece: str | Block) -> list[Section]:
    """A section and what comes next; text behind a block is a section without a heading."""
    if not isinstance(piece, str):
        return [Section(section.title, section.text, [*section.blocks, piece])]
    if section.blocks:
        return [section, Section("", piece)]
    return [Section(section.title, f"{section.text}\n\n{piece}".strip())]


def _pieces(
    tokens: Sequence[Token], picture: Callable[[str], str]
) -> Iterator[_Heading | str | Block]:
    position = 0
    while position < len(tokens):
        token, inner = tokens[position], tokens[position + 1 : position + 2]
        if token.type == "heading_open":
            yield _Heading(int(token.tag[1:]), _plain(inner[0]))
        elif token.type == "paragraph_open":
            images = [child for child in inner[0].children or () if child.type == "image"]
            for image in images:
                told = image.content
                yield Figure(picture(str(image.attrs["src"])), told, told)
            if not images:
                yield _plain(inner[0])
        elif token.type == "fence":
            yield Code(token.content.strip())
        elif token.type == "table_open":
            end = next(n for n in range(position, len(tokens)) if tokens[n].type == "table_close")
            yield _table(tokens[position:end])
            position = end
        position += 1


def _plain(token: Token) -> str:
    """Text with code between backticks: what the templates set."""
    told = []
    for child in token.children or ():
        if child.type == "code_inline":
            told.append(f"`{child.content}`")
        elif child.type in ("softbreak", "hardbreak"):
            told.append(" ")
        else:
            told.append(child.content)
    return "".join(told)


def _table(tokens: Sequence[Token]) -> Table:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_plain(token).replace("`", ""))
    titles, *body = rows
    columns = [
        Column(title, numeric=_is_numeric([row[place] for row in body]))
        for place, title in enumerate(titles)
    ]
    cells = [[_cell(text, c) for text, c in zip(row, columns, strict=True)] for row in body]
    return Table(columns, cells)


def _is_numeric(texts: Sequence[str]) -> bool:
    said = [text for text in texts if text and text != MISSING]
    return bool(said) and all(_NUMBER.match(text) for text in said)


def _cell(text: str, column: Column) -> Cell | str:
    if not column.numeric:
        return text
    found = _NUMBER.match(text)
    value = float(found.group().replace("−", "-").replace(",", "")) if found else None
    return Cell(value, text=text)
