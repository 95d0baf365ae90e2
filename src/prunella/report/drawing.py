"""From a matplotlib figure to SVG that takes its colours from the page, light or dark.

Figures are drawn with stand-in colours, which become the page's CSS variables afterwards.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
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
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def positions(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """From data to the drawing's units (1/72 inch, downwards), the texts kept.

    The figure must have its final layout: call `figure.draw_without_rendering()` before.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return []
    height = figure.get_figheight() * 72
    scale = 72 / figure.dpi
    pixels = axes.transData.transform([(x, y) for x, y, _ in points])
    return [
        (round(float(x) * scale, 1), round(height - float(y) * scale, 1), text)
        for (x, y), (_, _, text) in zip(pixels, points, strict=True)
    ]


def to_svg(figure: Figure, points: Sequence[Point] = ()) -> str:
    """The figure as an `svg` element for the inside of a page.

    Args:
        figure: Drawn in the stand-in colours.
        points: What the page's script shows on hover, from `positions`.

    Returns:
        The same text for the same figure: no date, no random ids.
    """
    text = _save(figure, "prunella")
    # Two figures in one page must not share ids: salt them with what the figure holds.
    text = _save(figure, hashlib.sha256(text.encode()).hexdigest()[:12])
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = text.replace("'DejaVu Sans', sans-serif", _FONT)
    box = re.search(r'viewBox="[^"]+"', text)
    attributes = box.group(0) if box else ""
    if points:
        attributes += f" data-points={quoteattr(json.dumps(points, separators=(',', ':')))}"
        text = text.replace("</svg>", '<circle class="focus" r="4"/></svg>')
    return re.sub(r"<svg[^>]*>", lambda _: f"<svg {attributes}>", text, count=1).strip()


def _save(figure: Figure, salt: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return buffer.getvalue()
