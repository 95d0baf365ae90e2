"""The plots of the reports, as SVG that follows the page's colours and tells its numbers."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from prunella.report import drawing
from prunella.report.drawing import DASHES, SERIES, Point
from prunella.report.heat_map import sparsity_by_matrix
from prunella.report.quality import quality_against_size

__all__ = ["quality_against_size", "sparsity_by_matrix", "training_curves"]

MOST_POINTS = 150
"""Longer curves are averaged down to so many points: more is not seen, only heavier."""

_PANELS = (
    ("loss", "Loss", 1.0),
    ("sparsity", "Zeros, %", 100.0),
    ("learning_rate", "Learning rate", 1.0),
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
