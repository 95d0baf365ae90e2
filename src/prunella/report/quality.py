"""Quality against what it costs: bytes, milliseconds or weights, with intervals."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from prunella.report import drawing
from prunella.report.drawing import INK, MUTED, SERIES
from prunella.report.tables import human_bytes

_MARKERS, _SIGNS = "osD^vPX*", "●■◆▲▼✚✖★"
_SHORT_NAME = 20  # letters: three columns of such names fit into a legend
# Where a label may stand: offset in points, and how the text is anchored there. Best first.
_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (7, 7, "left", "bottom"),
    (7, -7, "left", "top"),
    (-7, 7, "right", "bottom"),
    (-7, -7, "right", "top"),
    (6, 20, "left", "bottom"),
    (6, -20, "left", "top"),
    (-6, 20, "right", "bottom"),
    (-6, -20, "right", "top"),
)


@dataclass(frozen=True)
class Cost:
    """What quality is drawn against.

    Attributes:
        key: Where the points have it.
        label: Of the axis.
        written: How a value is written on hover and at the axis.
        logarithmic: Marks at 1, 2, 5, 10, 20, ...; otherwise evenly spaced ones.
    """

    key: str
    label: str
    written: Callable[[float], str]
    logarithmic: bool = True


BYTES = Cost("bytes", "bytes on disk", human_bytes)


def quality_against_size(points: Sequence[Mapping[str, Any]]) -> str:
    """Quality against bytes on disk (logarithmic), with intervals: see `quality_against`."""
    return quality_against(points, BYTES)


def quality_against(
    points: Sequence[Mapping[str, Any]],
    cost: Cost,
    *,
    title: str = "Quality",
    legend_inside: bool = False,
    size: tuple[float, float] = drawing.LARGE,
) -> str:
    """Quality against a cost, with intervals.

    Args:
        points: Mappings with "label" (may be empty), the cost, "quality", and "low" and "high" of
            its interval (None or absent: no interval). Points of one "family" (optional) share
            colour and mark, are joined by a line and have an entry in a legend. "aside" (optional,
            a factor) draws a point beside its cost, so that equal ones do not hide each other.
        cost: What it is drawn against.
        title: Heading: what quality means.
        legend_inside: Draw the legend into the picture; otherwise it is a list before it, for a
            page.
        size: Width and height in inches.

    Returns:
        Markup: an `svg` element, after a legend where families were named.

    Raises:
        ValueError: No points.
    """
    if not points:
        raise ValueError("no points, so there is nothing to draw")
    families = list(dict.fromkeys(point.get("family", point["label"]) for point in points))
    named = any("family" in point for point in points)
    with drawing.canvas(size) as (figure, axes):
        for number, family in enumerate(families):
            members = [p for p in points if p.get("family", p["label"]) == family]
            _family(axes, sorted(members, key=lambda p: p[cost.key]), cost, number)
        axes.set_title(title)
        axes.set_xlabel(cost.label)
        _cost_axis(axes, [_place(point, cost) for point in points], cost)
        axes.margins(y=0.14)
        if named and legend_inside:
            _legend(figure, families)
        figure.draw_without_rendering()
        _name_points(axes, [point for point in points if point["label"]], cost)
        tips = [(_place(point, cost), point["quality"], _tip(point, cost)) for point in points]
        svg = drawing.to_svg(figure, tips)
    if not named or legend_inside:
        return svg
    return (
        f'<ul class="legend">{"".join(map(_family_item, range(len(families)), families))}</ul>{svg}'
    )


def _place(point: Mapping[str, Any], cost: Cost) -> float:
    """Where a point stands on the axis of costs."""
    return point[cost.key] * point.get("aside", 1.0)


def _look(number: int) -> tuple[int, int]:
    """Indices of the nth family's colour and mark: no two of the first 64 share both."""
    rounds, colour = divmod(number, len(SERIES))
    return colour, (colour + rounds) % len(_MARKERS)


def _legend(figure: Figure, families: Sequence[str]) -> None:
    looks = [_look(number) for number in range(len(families))]
    handles = [
        Line2D([], [], color=SERIES[colour], marker=_MARKERS[mark], lw=1) for colour, mark in looks
    ]
    columns = 3 if max(map(len, families)) <= _SHORT_NAME else 2
    figure.legend(
        handles, families, loc="outside upper left", ncols=columns, frameon=False, labelcolor=MUTED,
        fontsize=9, handlelength=1.6, columnspacing=1.4, borderaxespad=0,
    )  # fmt: skip


def _family_item(number: int, name: str) -> str:
    colour, mark = _look(number)
    style = f"color: var(--series-{colour + 1})"
    sign = f'<span aria-hidden="true" style="{style}">{_SIGNS[mark]}</span>'
    return f"<li>{sign}{escape(name)}</li>"


def _family(axes: Axes, members: Sequence[Mapping[str, Any]], cost: Cost, number: int) -> None:
    colour, mark = _look(number)
    costs, quality = [_place(p, cost) for p in members], [p["quality"] for p in members]
    for point in members:
        if point.get("low") is not None and point.get("high") is not None:
            ends = [point["low"], point["high"]]
            axes.plot([_place(point, cost)] * 2, ends, color=SERIES[colour], lw=1.3)
    axes.plot(costs, quality, color=SERIES[colour], lw=1, ls="-", marker=_MARKERS[mark], ms=6.5)


def _cost_axis(axes: Axes, values: Sequence[float], cost: Cost) -> None:
    """Marks at round numbers, and room for the labels beside the outermost points."""
    axes.set_xscale("log" if cost.logarithmic else "linear")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _round(cost.written(value))))
    if not cost.logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(x=0.1)
        return
    low, high = min(values), max(values)
    lowest = math.floor(math.log10(low)) - 1
    decades = range(lowest, math.ceil(math.log10(high)) + 1)
    left, right = low / 1.3, high * max(1.3, (high / low) ** 0.2)
    factors = (1, 2, 5) if right / left > 5 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    while len([tick for tick in ticks if low / 1.5 <= tick <= high * 1.5]) > 6:
        ticks = ticks[::2] if len(ticks) % 3 else ticks[::3]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left, right)


def _along(path: Path, axes: Axes) -> np.ndarray:
    """Pixels along a line, (n, 2): what a label should not cover."""
    corners = axes.transData.transform(path.vertices)
    shares = np.linspace(0, 1, 12)[:, None]
    pieces = [a + (b - a) * shares for a, b in itertools.pairwise(corners)]
    return np.concatenate([corners, *pieces])


def _round(written: str) -> str:
    """Without a fraction of zeros: "1.00 MB" is "1 MB"."""
    return re.sub(r"\.0+(?= |$)", "", written)


def _name_points(axes: Axes, points: Sequence[Mapping[str, Any]], cost: Cost) -> None:
    """Write each label beside its point, where it hides least of labels, points and intervals."""
    frame = axes.get_window_extent()
    obstacles = np.concatenate([_along(line.get_path(), axes) for line in axes.lines])
    taken: list[Any] = []
    for point in points:
        options = []
        for x, y, horizontal, vertical in _PLACES:
            text = axes.annotate(
                point["label"], (_place(point, cost), point["quality"]), (x, y),
                textcoords="offset points", ha=horizontal, va=vertical, color=INK, fontsize=9,
                annotation_clip=False, in_layout=False,
            )  # fmt: skip
            box = text.get_window_extent()
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 + 4
            outside = outside or box.y0 < frame.y0 or box.y1 > frame.y1
            hidden = 4 * outside + 3 * sum(box.overlaps(other) for other in taken)
            hidden += math.hypot(x, y) / 20 + 0.3 * box.count_contains(obstacles)
            options.append((hidden, len(options), text, box))
        best, *others = sorted(options, key=lambda option: option[:2])
        taken.append(best[3])
        for other in others:
            other[2].remove()


def _tip(point: Mapping[str, Any], cost: Cost) -> str:
    names = [name for name in (point.get("family"), point["label"]) if name]
    lines = [": ".join(names), f"quality {point['quality']:.4g}"]
    if point.get("low") is not None and point.get("high") is not None:
        lines[1] += f" ({point['low']:.4g} to {point['high']:.4g})"
    return "\n".join([*lines, cost.written(point[cost.key])])
