"""From a matplotlib figure to SVG that takes its colours from the page, light or dark.

Figures are drawn with stand-in colours, which become the page's CSS variables afterwards.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, RULE = "#0b1c01", "#0b1c02", "#0b1c03"
SERIES = tuple(f"#0b1c1{number}" for number in range(1, 9))
DASHES = (
    (),
    (5, 2),
    (1.5, 1.5),
    (6, 2, 1.5, 2),
    (3, 1.5),
    (8, 2),
    (2, 3),
    (6, 1.5, 1.5, 1.5, 1.5, 1.5),
)
"""Dash patterns of the series, in line widths: colour never is the only difference."""

LARGE, SMALL = (5.0, 3.1), (4.0, 2.8)
"""Width and height in inches of a plot, and of a panel of three: readable on a phone as well."""

Point = tuple[float, float, str]

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


@contextmanager
def canvas(size: tuple[float, float] = LARGE) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes in the house style; also save it inside the context."""
    with mpl.rc_context(cast(Any, _STYLE)):
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, points: Sequence[Point] = ()) -> str:
    """The figure as an `svg` element for the inside of a page.

    Args:
        figure: Drawn in the stand-in colours, with one pair of axes.
        points: What the page's script shows on hover: x, y in the units of the data, and text.

    Returns:
        The same text for the same figure: no date, no random ids.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "prunella"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = _own_ids(text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = text.replace("'DejaVu Sans', sans-serif", _FONT)
    box = re.search(r'viewBox="[^"]+"', text)
    attributes = box.group(0) if box else ""
    if points:
        # Only now: saving still moves the axes a little to make room for the labels.
        placed = json.dumps(_positions(figure, points), separators=(",", ":"))
        attributes += f" data-points={quoteattr(placed)}"
        text = text.replace("</svg>", '<circle class="focus" r="4"/></svg>')
    return re.sub(r"<svg[^>]*>", lambda _: f"<svg {attributes}>", text, count=1).strip()


def _own_ids(svg: str) -> str:
    """Drop ids that nothing refers to; name the others so that no other figure has the same."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", svg)
    return re.sub(r'(url\(#|href="#| id=")([^")]+)', rf"\g<1>{mark}-\2", svg)


def _positions(figure: Figure, points: Sequence[Point]) -> list[Point]:
    """From data to the drawing's units: 1/72 inch, which is a pixel here, counted downwards."""
    height = figure.get_figheight() * 72
    pixels = figure.axes[0].transData.transform([(x, y) for x, y, _ in points])
    return [
        (round(float(x), 1), round(height - float(y), 1), text)
        for (x, y), (_, _, text) in zip(pixels, points, strict=True)
    ]
