"""A value of every pair as a heat map: rows with names, columns with their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunella.report.html import environment

WIDTH, LETTER = 360, 6.4
_MOST_LETTERS = 21
# Wider squares look lost, in narrower ones no number fits.
_WIDEST, _LEAST_FOR_TEXT = 46, 23


@dataclass(frozen=True)
class Pair:
    """A value in [-1, 1] of two things, as it is written, and what it says on hover."""

    value: float
    text: str
    tip: str


def pair_map(names: Sequence[str], pairs: Mapping[tuple[int, int], Pair], label: str) -> str:
    """An `svg` element: a square of squares, violet above zero, orange below.

    Args:
        names: What is compared; numbered from 1 in rows and columns.
        pairs: By indices of two names, the lower one first; absent ones stay empty.
        label: Of the legend: what the value is, with its unit.
    """
    shown = [cut(name) for name in names]
    left = 26 + LETTER * max(len(name) for name in shown)
    step = min(_WIDEST, (WIDTH - left) / len(names))
    squares = []
    for (i, j), pair in pairs.items():
        for row, column in ((i, j), (j, i)):
            squares.append((row, column, pair, round(min(1.0, abs(pair.value)), 3)))
    return (
        environment()
        .get_template("pair_map.svg.jinja")
        .render(
            names=shown,
            full=names,
            left=round(left, 1),
            step=round(step, 2),
            height=round(min(step, 30), 2),
            squares=squares,
            written=step >= _LEAST_FOR_TEXT,
            label=label,
        )
    )


def cut(name: str) -> str:
    """Long names lose their middle: beginnings and ends tell runs apart."""
    if len(name) <= _MOST_LETTERS:
        return name
    half = (_MOST_LETTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
