"""The plots of the reports, as SVG that follows the page's colours and tells its numbers."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from prunella.report import drawing
from prunella.report.drawing import DASHES, INK, SERIES, Point
from prunella.report.heat_map import sparsity_by_matrix
from prunella.report.tables import human_bytes

__all__ = ["quality_against_size", "sparsity_by_matrix", "training_curves"]

MOST_POINTS = 150
"""Longer curves are averaged down to so many points: more is not seen, only heavier."""

_PANELS = (
    ("loss", "Loss", 1.0),
    ("sparsity", "Zeros, %", 100.0),
    ("learning_rate", "Learning rate", 1.0),
)
_MARKERS, _SIGNS = "osD^vPX*", "●■◆▲▼✚✖★"
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


def training_curves(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss, sparsity and learning rate over steps: a panel each, a line a run.

    Args:
        series: For each run its log: records with "step" and any of "loss", "sparsity" (share in
            [0, 1]) and "learning_rate". What is absent, None or not finite is left out.

    Returns:
        Markup: a legend and an `svg` element for each quantity that was logged. Loss is drawn
        on a logarithmic scale where it spans more than a factor of 20.

    Raises:
        ValueError: Nothing was logged.
    """
    panels = []
    for key, title, factor in _PANELS:
        lines = {name: _line(records, key, factor) for name, records in series.items()}
        if any(lines.values()):
            panels.append(_curves(title, lines))
    if not panels:
        raise ValueError("no record with a step and a loss, so there is nothing to draw")
    legend = "".join(map(_legend_item, range(len(series)), series))
    return f'<div class="panels"><ul class="legend">{legend}</ul>{"".join(panels)}</div>'


def quality_against_size(points: Sequence[Mapping[str, Any]]) -> str:
    """Quality against bytes on disk (logarithmic), with intervals.

    Args:
        points: Mappings with "label", "bytes", "quality", and "low" and "high" of its interval
            (None or absent: no interval). Points of one "family" (optional) share colour and
            mark, are joined by a line and have an entry in a legend.

    Returns:
        Markup: an `svg` element, after a legend where families were named.

    Raises:
        ValueError: No points.
    """
    if not points:
        raise ValueError("no points, so there is nothing to draw")
    families = list(dict.fromkeys(point.get("family", point["label"]) for point in points))
    with drawing.canvas() as (figure, axes):
        for number, family in enumerate(families):
            members = [p for p in points if p.get("family", p["label"]) == family]
            _family(axes, sorted(members, key=lambda p: p["bytes"]), number)
        axes.set_title("Quality")
        axes.set_xlabel("bytes on disk")
        _size_axis(axes, [point["bytes"] for point in points])
        axes.margins(y=0.14)
        figure.draw_without_rendering()
        _name_points(axes, points)
        tips = [(point["bytes"], point["quality"], _tip(point)) for point in points]
        svg = drawing.to_svg(figure, tips)
    if not any("family" in point for point in points):
        return svg
    return (
        f'<ul class="legend">{"".join(map(_family_item, range(len(families)), families))}</ul>{svg}'
    )


def _line(
    records: Sequence[Mapping[str, Any]], key: str, factor: float
) -> list[tuple[float, float]]:
    """The points of one curve, averaged over equal runs of records if they are too many."""
    pairs = [
        (float(record["step"]), factor * float(record[key]))
        for record in records
        if record.get(key) is not None and math.isfinite(record[key])
    ]
    size = math.ceil(len(pairs) / MOST_POINTS)
    runs = (pairs[start : start + size] for start in range(0, len(pairs), size or 1))
    return [(run[-1][0], math.fsum(value for _, value in run) / len(run)) for run in runs]


def _curves(title: str, lines: Mapping[str, list[tuple[float, float]]]) -> str:
    with drawing.canvas(drawing.SMALL) as (figure, axes):
        tips: list[Point] = []
        for number, (name, line) in enumerate(lines.items()):
            if not line:
                continue
            steps, values = zip(*line, strict=True)
            axes.plot(steps, values, **_stroke(number), marker="o" if len(line) == 1 else "")
            tips += [(x, y, f"{name}\nstep {x:,.0f}: {y:.4g}") for x, y in line]
        values = [y for line in lines.values() for _, y in line]
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        if title == "Loss" and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        elif title != "Loss":
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        return drawing.to_svg(figure, tips)


def _stroke(number: int) -> dict[str, Any]:
    """Colour and dashes of a series: the nth has its own, in every panel and in the legend."""
    return {"color": SERIES[number % len(SERIES)], "dashes": DASHES[number % len(DASHES)]}


def _legend_item(number: int, name: str) -> str:
    dashes = " ".join(f"{1.6 * length:g}" for length in DASHES[number % len(DASHES)])
    return (
        f'<li><svg viewBox="0 0 28 12" aria-hidden="true"><path d="M1 6H27" fill="none" '
        f'style="stroke: var(--series-{number % len(SERIES) + 1}); stroke-width: 2.5; '
        f'stroke-dasharray: {dashes or "none"}"/></svg>{escape(name)}</li>'
    )


def _family_item(number: int, name: str) -> str:
    colour = f"var(--series-{number % len(SERIES) + 1})"
    sign = f'<span aria-hidden="true" style="color: {colour}">{_SIGNS[number % len(_SIGNS)]}</span>'
    return f"<li>{sign}{escape(name)}</li>"


def _family(axes: Axes, members: Sequence[Mapping[str, Any]], number: int) -> None:
    colour = SERIES[number % len(SERIES)]
    sizes, quality = [p["bytes"] for p in members], [p["quality"] for p in members]
    for point in members:
        if point.get("low") is not None and point.get("high") is not None:
            axes.plot([point["bytes"]] * 2, [point["low"], point["high"]], color=colour, lw=1.3)
    axes.plot(
        sizes, quality, color=colour, lw=1, ls="-", marker=_MARKERS[number % len(_MARKERS)], ms=6.5
    )


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """A logarithmic axis whose marks are round numbers of bytes: 1, 2, 5, 10, 20, ..."""
    axes.set_xscale("log")
    low, high = min(sizes), max(sizes)
    decades = range(math.floor(math.log10(max(low, 1))) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    while len([tick for tick in ticks if low / 1.5 <= tick <= high * 1.5]) > 6:
        ticks = ticks[::2] if len(ticks) % 3 else ticks[::3]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _round_bytes(size)))
    # Room for the labels beside the outermost points.
    room = max(1.3, (high / low) ** 0.2)
    axes.set_xlim(low / 1.3, high * room)


def _along(path: Path, axes: Axes) -> np.ndarray:
    """Pixels along a line, (n, 2): what a label should not cover."""
    corners = axes.transData.transform(path.vertices)
    shares = np.linspace(0, 1, 12)[:, None]
    pieces = [a + (b - a) * shares for a, b in itertools.pairwise(corners)]
    return np.concatenate([corners, *pieces])


def _round_bytes(size: float) -> str:
    return re.sub(r"\.0+(?= )", "", human_bytes(size))


def _name_points(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Write each label beside its point, where it hides least of labels, points and intervals."""
    frame = axes.get_window_extent()
    obstacles = np.concatenate([_along(line.get_path(), axes) for line in axes.lines])
    taken: list[Any] = []
    for point in points:
        options = []
        for x, y, horizontal, vertical in _PLACES:
            text = axes.annotate(
                point["label"], (point["bytes"], point["quality"]), (x, y),
                textcoords="offset points", ha=horizontal, va=vertical, color=INK, fontsize=9,
                annotation_clip=False, in_layout=False,
            )  # fmt: skip
            box = text.get_window_extent()
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 + 4
            outside = outside or box.y0 < frame.y0 or box.y1 > frame.y1
            cost = 4 * outside + 3 * sum(box.overlaps(other) for other in taken)
            cost += math.hypot(x, y) / 20 + 0.3 * box.count_contains(obstacles)
            options.append((cost, len(options), text, box))
        best, *others = sorted(options, key=lambda option: option[:2])
        taken.append(best[3])
        for other in others:
            other[2].remove()


def _tip(point: Mapping[str, Any]) -> str:
    name = f"{point['family']}: {point['label']}" if "family" in point else point["label"]
    lines = [name, f"quality {point['quality']:.4g}"]
    if point.get("low") is not None and point.get("high") is not None:
        lines[1] += f" ({point['low']:.4g} to {point['high']:.4g})"
    return "\n".join([*lines, human_bytes(point["bytes"])])
