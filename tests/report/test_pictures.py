"""Pictures of their own: whole SVG files, in colours of their own, with a mark to find again."""

import re
import xml.etree.ElementTree as ET

import pytest

from prunella.report.pictures import picture, stamp_of
from prunella.report.quality import BYTES, Cost, quality_against

POINTS = [
    {"label": "dense", "family": "dense & small", "bytes": 20_000_000, "quality": 90.0},
    {
        "label": "",
        "family": "sparse",
        "bytes": 14_000_000,
        "quality": 89.0,
        "low": 88.0,
        "high": 90.0,
    },
]
MILLISECONDS = Cost("bytes", "time", lambda value: f"{value:g} ms", logarithmic=False)


def test_a_picture_stands_alone() -> None:
    svg = quality_against(POINTS, BYTES, legend_inside=True)
    text = picture(svg, 'quality & "size"', "abc")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].text == 'quality & "size"'
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert used and all(f"{name}: #" in text for name in used)
    assert stamp_of(text) == "abc" and stamp_of(picture(svg, "t")) is None
    assert "data-points" not in text
    written = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"dense & small", "sparse", "dense"} <= written


def test_a_legend_for_pages_would_be_lost() -> None:
    with pytest.raises(ValueError, match="draw the legend inside"):
        picture(quality_against(POINTS, BYTES), "t")


@pytest.mark.parametrize("cost", [BYTES, MILLISECONDS], ids=["logarithmic", "even"])
def test_the_axis_has_some_round_marks_however_narrow_it_is(cost: Cost) -> None:
    svg = quality_against(POINTS, cost, legend_inside=True)
    unit = "MB" if cost is BYTES else "ms"
    marks = re.findall(rf">([\d.e+]+) {unit}<", svg)
    assert 2 <= len(marks) <= 8


def test_a_point_without_a_label_is_named_by_its_family_on_hover() -> None:
    svg = quality_against(POINTS, BYTES, legend_inside=True)
    assert "sparse\\nquality 89 (88 to 90)" in svg
    assert "dense &amp; small: dense\\n" in svg
