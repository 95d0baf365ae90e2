"""The report's tables in a terminal of 80 columns."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from prunella.report.tables import Cell, Column, check_rows, format_value, human_bytes

__all__ = ["human_bytes", "table"]

WIDTH = 80
GAP = 2
"""Blanks between two columns."""

LEAST_TEXT_WIDTH = 12
"""Letters that a text column keeps in one line, however many numbers stand beside it."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], title: str = "") -> RichTable:
    """The table for `rich.print`, at most 80 wide: headings and texts wrap, numbers do not.

    Args:
        columns: As in `prunella.report.tables.Table`; units stand below the labels.
        rows: One value a column, as in `prunella.report.tables.Table`.
        title: Heading of the table.

    Raises:
        ValueError: A row has another number of values than there are columns.
    """
    check_rows(columns, rows)
    drawn = RichTable(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for column, width in zip(columns, _widths(columns, rows), strict=True):
        heading = Text(column.label, style="bold")
        if column.unit:
            heading.append(f"\n{column.unit}", style="not bold dim")
        drawn.add_column(
            heading,
            justify="right" if column.numeric else "left",
            width=width,
            overflow="fold",
            vertical="bottom",
        )
    for row in rows:
        drawn.add_row(*(_text(cell, column) for cell, column in zip(row, columns, strict=True)))
    return drawn


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[int]:
    """A width for each column: as wide as it likes, the one with most to spare narrowed first."""
    widths, least = [], []
    for position, column in enumerate(columns):
        longest = max((len(format_value(row[position], column)) for row in rows), default=0)
        widths.append(max(longest, len(column.label), len(column.unit)))
        words = max(map(len, f"{column.label} {column.unit}".split()), default=1)
        least.append(max(words, longest if column.numeric else min(longest, LEAST_TEXT_WIDTH)))
    while sum(widths) + GAP * (len(widths) - 1) > WIDTH:
        spare = [width - floor for width, floor in zip(widths, least, strict=True)]
        if max(spare) <= 0:
            break
        widths[spare.index(max(spare))] -= 1
    return widths


def _text(cell: Any, column: Column) -> Text:
    best = isinstance(cell, Cell) and cell.best
    return Text(format_value(cell, column), style="bold" if best else "")
