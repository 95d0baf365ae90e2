"""A plot as a file of its own, for documents that show pictures."""

import re

from markupsafe import Markup

from prunella.report.html import environment


def picture(svg: str, title: str, stamp: str = "") -> str:
    """A whole SVG file of an `svg` element for pages: with colours and a background of its own.

    Args:
        svg: One `svg` element, as `drawing.to_svg` makes it.
        title: What it shows, for those who cannot see it.
        stamp: A mark that a program finds again (`stamp_of`), such as a hash of the data.

    Raises:
        ValueError: If it is not one `svg` element: a legend for pages, say, would be lost.
    """
    match = re.fullmatch(r"<svg ([^>]*)>(.*)</svg>", svg, flags=re.DOTALL)
    if match is None or "<svg" in match.group(2):
        raise ValueError("expected one svg element; draw the legend inside")
    attributes = re.sub(r""" data-points=("[^"]*"|'[^']*')""", "", match.group(1))
    if stamp:
        attributes += f' data-stamp="{stamp}"'
    return (
        environment()
        .get_template("picture.svg.jinja")
        .render(attributes=Markup(attributes), body=Markup(match.group(2)), title=title)
    )


def stamp_of(text: str) -> str | None:
    """The mark in a file that `picture` made."""
    match = re.search(r' data-stamp="([^"]*)"', text)
    return match.group(1) if match else None
