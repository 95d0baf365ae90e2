"""One self-contained HTML file a report: no external resource, light and dark, any width."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from prunella.errors import InputError
from prunella.report.tables import MISSING, Cell, Column, Table, format_value, value_of

__all__ = [
    "Cell", "Code", "Column", "Fact", "Facts", "Figure", "Page", "Section", "Table",
    "render", "write",
]  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        svg: Markup from `prunella.report.plots`, put into the page as it is.
        caption: What it shows and what to see in it.
        alt: The same for those who cannot see it.
    """

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Fact:
    """One figure that stands out: its value as text, what it is, and a word of context."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """A row of facts, best at the head of the report."""

    items: Sequence[Fact]


@dataclass(frozen=True)
class Code:
    """Commands or code, with a button that copies them."""

    text: str
    caption: str = ""


Block = Table | Figure | Facts | Code


@dataclass(frozen=True)
class Section:
    """A heading, text (blank lines part paragraphs, backticks mark code) and blocks below it."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: What it is about.
        lead: The result in a sentence or two.
        sections: In the order of reading. One with an empty title comes without a heading.
        footer: Where the numbers come from: versions, machine, seeds, date. Nothing is added to it.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML. The same page gives the same bytes."""
    return environment().get_template("page.html.jinja").render(page=page)


def write(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all, making its folder if needed.

    Returns:
        The path.

    Raises:
        InputError: The file cannot be written. A former file is then still there, unharmed.
    """
    path, text = Path(path), render(page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise InputError(
            f"cannot write the report {path}: {error.strerror or error}. "
            "Choose another file, or free space or permissions there."
        ) from error
    return path


def _replace(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a report is meant to be shown.
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


@cache
def environment() -> jinja2.Environment:
    """Where the templates are found, with the filters they use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        prose=_prose,
        inline=_inline,
        tied=_tied,
        grouped=_grouped,
        shown=format_value,
        sort_key=_sort_key,
        hint=_hint,
    )
    return environment


def _prose(text: str) -> Markup:
    """Paragraphs, parted by blank lines."""
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", text))
    return Markup("\n").join(Markup("<p>{}</p>").format(_inline(p)) for p in paragraphs if p)


def _inline(text: str) -> Markup:
    """Text with `code` between backticks; everything else is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(_tied(text)))))


def _tied(text: str) -> str:
    """Tie a number to the percent sign or unit of bytes after it: no line break comes between."""
    return re.sub(r"(?<=\d) (?=%|[kMGT]?B\b)", "\u00a0", text)


def _grouped(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Runs of blocks of one kind: neighbouring figures share a row."""
    for kind, run in groupby(blocks, key=lambda block: type(block).__name__):
        yield kind, list(run)


def _sort_key(cell: Any, column: Column) -> str:
    """What the script sorts by; empty for what is missing, which stays at the end."""
    if value_of(cell) is None or format_value(cell, column) == MISSING:
        return ""
    return repr(float(value_of(cell))) if column.numeric else str(value_of(cell))


def _hint(cell: Any, column: Column) -> str:
    """What a cell says on hover: its hint, else the number in full where it was rounded."""
    if isinstance(cell, Cell) and (cell.hint or cell.text):
        return cell.hint
    value, shown = value_of(cell), format_value(cell, column)
    if not column.numeric or shown == MISSING:
        return ""
    full = f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return "" if full == shown else f"{full} {'bytes' if column.format == 'bytes' else ''}".strip()
