"""A tree of names that join by their distance: leaves on the left, as rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from prunella.report.html import environment
from prunella.report.pair_map import LETTER, WIDTH, cut

_ROW, _TOP = 20, 6


@dataclass(frozen=True)
class Branch:
    """Two branches that join.

    Attributes:
        first, second: Where they lie, in rows from the top; a leaf lies on a whole number.
        first_at, second_at: Distances at which they began.
        at: Distance at which they join.
    """

    first: float
    second: float
    first_at: float
    second_at: float
    at: float


def tree(names: Sequence[str], branches: Sequence[Branch], label: str) -> str:
    """An `svg` element.

    Args:
        names: Leaves from top to bottom.
        branches: All joins.
        label: Of the axis: what the distance is.
    """
    left = 8 + LETTER * max(len(cut(name)) for name in names)
    most = max([1.0, *(branch.at for branch in branches)])
    scale = (WIDTH - left - 12) / most

    def x(distance: float) -> float:
        return round(left + scale * distance, 1)

    def y(row: float) -> float:
        return round(_TOP + _ROW * (row + 0.5), 1)

    lines = [
        (
            f"M{x(b.first_at)} {y(b.first)}H{x(b.at)}V{y(b.second)}H{x(b.second_at)}",
            f"joined at {b.at:.3f}",
        )
        for b in branches
    ]
    bottom = _TOP + _ROW * len(names)
    return (
        environment()
        .get_template("tree.svg.jinja")
        .render(
            leaves=[(cut(name), name, y(row)) for row, name in enumerate(names)],
            left=round(left - 6, 1),
            lines=lines,
            ticks=[(x(t), f"{t:g}") for t in (0, 0.25, 0.5, 0.75, 1)],
            bottom=bottom,
            label=label,
        )
    )
