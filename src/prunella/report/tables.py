"""Tables, described once and shown in HTML and in the terminal alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column: what it holds and how its values are written.

    Attributes:
        label: Heading.
        unit: Unit of the values, shown in the heading ("ms").
        help: A sentence that explains the column, shown on hover.
        format: A format specification (".1f", ".1%", ",d"), or "bytes" for `human_bytes`.
        numeric: Right-aligned and sorted as a number.
    """

    label: str
    unit: str = ""
    help: str = ""
    format: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """A value with more to say about it.

    Attributes:
        value: What is formatted and sorted by.
        hint: Shown on hover, e.g. an interval: "95 % interval 0.89 to 0.92".
        best: Whether to set it in bold.
        text: How it is written, instead of as the column says ("85.8 ± 0.3").
    """

    value: Any
    hint: str = ""
    best: bool = False
    text: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        columns: The columns, in order.
        rows: Each row has one value a column: plain values, None where there is none, or `Cell`.
        caption: What the table shows.
        note: Small print below it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Check that every row fits the columns.

        Raises:
            ValueError: A row has another number of values than there are columns.
        """
        check_rows(self.columns, self.rows)


def check_rows(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError, naming the row, unless each row has one value a column."""
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(
                f"row {number} has {len(row)} values for {len(columns)} columns: {row}"
            )


def value_of(cell: Any) -> Any:
    """The bare value of a cell or of a plain value."""
    return cell.value if isinstance(cell, Cell) else cell


def format_value(cell: Any, column: Column) -> str:
    """Write a value as its column says; what is missing or not a number becomes a dash."""
    if isinstance(cell, Cell) and cell.text:
        return cell.text
    value = value_of(cell)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if column.format == "bytes":
        return human_bytes(value)
    return format(value, column.format) if column.format else str(value)


def human_bytes(count: float) -> str:
    """Bytes with a decimal unit and three significant digits: 17_400_000 -> "17.4 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        # 999.5 would print as 1000: the next unit takes over before that.
        if abs(size) < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{_three_digits(size)} TB"


def human_duration(seconds: float) -> str:
    """Two units of a time, the larger ones first: 4_350 -> "1 h 12 min", 75 -> "1 min 15 s"."""
    whole = round(seconds)
    if whole >= 3600:
        hours, minutes = divmod(whole // 60, 60)
        return f"{hours} h {minutes} min"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _three_digits(size: float) -> str:
    decimals = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    return f"{size:.{decimals}f}"
