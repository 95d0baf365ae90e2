"""Plots: the right numbers at the right places, in the page's colours, the same every time."""

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from prunella.report import plots

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ET.Element:
    """Inline SVG has no namespace declarations of its own: add them, as a page does."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return ET.fromstring(f"<root {names}>{svg}</root>")


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in parse(svg).iter(f"{SVG}text")]


def hover(svg: str) -> list[list]:
    return json.loads(str(parse(svg)[0].get("data-points")))


def matrices(layers: int) -> tuple[dict[str, float], dict[str, str]]:
    roles, sparsity = {}, {}
    for layer in range(layers):
        for role, module in (("query", "attention.self.query"), ("ffn_in", "intermediate.dense")):
            name = f"bert.encoder.layer.{layer}.{module}.weight"
            roles[name], sparsity[name] = role, 0.8 + 0.01 * layer
    roles["bert.pooler.dense.weight"], sparsity["bert.pooler.dense.weight"] = "pooler", 0.95
    return sparsity, roles


def test_heat_map_has_a_cell_for_each_matrix_in_the_order_of_the_model():
    svg = plots.sparsity_by_matrix(*matrices(11))
    cells = [
        (group[0].text, group[2].text)
        for group in parse(svg).iter(f"{SVG}g")
        if group.get("class") == "mark"
    ]
    assert len(cells) == 23
    assert cells[0] == ("bert.encoder.layer.0.attention.self.query.weight: 80.00% zeros", "80.0")
    assert cells[-1] == ("bert.pooler.dense.weight: 95.00% zeros", "95.0")
    rows = texts(svg)
    # Layers stand in the order of numbers (2 before 10), the pooler below them.
    assert [row for row in rows if re.fullmatch(r"\d+|pooler", row)][:12] == [
        *map(str, range(11)),
        "pooler",
    ]
    assert rows[:3] == ["layer", "query", "FFN in"]


def test_heat_map_is_stronger_where_more_is_zero():
    svg = plots.sparsity_by_matrix(*matrices(4))
    found = re.findall(r"<title>(\S+): [^<]*</title><rect [^>]*fill-opacity: ([\d.]+)", svg)
    strength = {name: float(opacity) for name, opacity in found}
    query = [strength[f"bert.encoder.layer.{n}.attention.self.query.weight"] for n in range(4)]
    assert query == sorted(query) and len(set(query)) == 4
    assert strength["bert.pooler.dense.weight"] == max(strength.values()) <= 1


@pytest.mark.parametrize("value", [0.0, 0.05, 0.5, 0.9, 0.95, 1.0])
def test_heat_map_of_equal_values_keeps_a_scale_inside_0_and_100(value):
    sparsity, roles = matrices(2)
    svg = plots.sparsity_by_matrix(dict.fromkeys(sparsity, value), roles)
    legend = [float(text) for text in texts(svg)[-5:]]
    assert 0 <= legend[0] <= 100 * value <= legend[-1] <= 100
    assert legend[-1] - legend[0] >= 20 - 1e-9
    assert np.allclose(np.diff(legend), (legend[-1] - legend[0]) / 4, rtol=0.05)


def test_matrices_that_share_a_cell_show_their_mean_and_each_name():
    names = ["a.0.x.weight", "a.0.y.weight"]
    svg = plots.sparsity_by_matrix(
        dict(zip(names, (0.8, 0.9), strict=True)), dict.fromkeys(names, "r")
    )
    assert "85.0" in texts(svg)
    assert "a.0.x.weight: 80.00% zeros\na.0.y.weight: 90.00% zeros" in svg


def test_heat_map_without_a_role_is_an_error():
    with pytest.raises(ValueError, match="no matrix with a role"):
        plots.sparsity_by_matrix({"embeddings.weight": 0.0}, {})


def log(steps: int) -> list[dict[str, float | None]]:
    return [
        {"step": s, "loss": 5 - s / steps, "sparsity": s / steps, "learning_rate": 1e-3}
        for s in range(1, steps + 1)
    ]


def test_training_curves_draw_a_panel_for_what_was_logged():
    assert plots.training_curves({"prune": log(9)}).count("data-points") == 3
    only_loss = {"teach": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "sparsity": None}]}
    assert plots.training_curves(only_loss).count("data-points") == 1


def test_training_curves_tell_their_numbers_and_lie_where_they_should():
    svg = parse(plots.training_curves({"prune": log(4)}))
    loss, zeros, _ = [json.loads(p) for node in svg.iter() if (p := node.get("data-points"))]
    assert [text for _, _, text in loss][:2] == ["prune\nstep 1: 4.75", "prune\nstep 2: 4.5"]
    assert [text for _, _, text in zeros][-1] == "prune\nstep 4: 100"
    x, y, _ = map(list, zip(*loss, strict=True))
    assert np.allclose(np.diff(x), x[1] - x[0], atol=0.15)  # evenly spaced steps
    assert y == sorted(y)  # a falling loss goes down the page


def test_hover_points_lie_on_the_drawn_line():
    svg = plots.training_curves({"prune": log(4)})
    path = re.search(r'<path d="(M [\d.]+ [\d.]+ \nL[^"]+)"[^>]*style="[^"]*--series-1', svg)
    assert path is not None
    drawn = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.group(1)), float)
    points = np.array([p[:2] for p in json.loads(parse(svg)[0][1].get("data-points") or "")])
    assert np.allclose(drawn, points, atol=0.06)


def test_unusable_values_are_left_out():
    records = [
        {"step": 1, "loss": math.nan},
        {"step": 2, "loss": math.inf},
        {"step": 3, "loss": None},
        {"step": 4},
        {"step": 5, "loss": 1.0},
    ]
    svg = plots.training_curves({"run": records})
    assert svg.count("run\\nstep") == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.training_curves({"run": records[:4]})


def test_long_curves_are_averaged_down():
    short, long = (len(plots.training_curves({"a": log(n)})) for n in (150, 3_000))
    assert long < 1.3 * short
    panel = json.loads(
        parse(plots.training_curves({"a": log(3_000)}))[0][1].get("data-points") or ""
    )
    assert len(panel) == plots.MOST_POINTS
    assert panel[-1][2].startswith("a\nstep 3,000:")


def test_legend_names_each_run_and_escapes_it():
    svg = plots.training_curves({"a <b> & c": log(2), "d": log(2)})
    names = ["".join(item.itertext()) for item in parse(svg).iter(f"{SVG}li")]
    assert names == ["a <b> & c", "d"]


POINTS = [
    {"label": "dense", "bytes": 6_400_000, "quality": 79.8, "low": 77.9, "high": 81.6},
    {"label": "sparse", "bytes": 900_000, "quality": 78.3, "low": None, "high": None},
]


def test_quality_against_size_names_and_places_each_point():
    svg = plots.quality_against_size(POINTS)
    assert {"dense", "sparse", "bytes on disk"} <= set(texts(svg))
    (x0, y0, tip0), (x1, y1, tip1) = hover(svg)
    assert x0 > x1 and y0 < y1  # bigger is to the right, better is higher
    assert tip0 == "dense\nquality 79.8 (77.9 to 81.6)\n6.40 MB"
    assert tip1 == "sparse\nquality 78.3\n900 kB"
    assert sum(text.endswith("MB") for text in texts(svg)) >= 2


def test_members_of_a_family_share_a_colour():
    alone = plots.quality_against_size(POINTS)
    family = plots.quality_against_size([{**point, "family": "f"} for point in POINTS])
    assert "--series-2" in alone and "--series-2" not in family


def test_families_are_named_in_a_legend_and_on_hover():
    points = [{**p, "family": f"task <{n}>"} for n in (1, 2) for p in POINTS]
    svg = plots.quality_against_size(points)
    legend = parse(svg).find(f"{SVG}ul")
    assert legend is not None
    assert ["".join(item.itertext()) for item in legend] == ["●task <1>", "■task <2>"]
    assert svg.count("task <1>: dense\\n") == 0  # escaped inside the attribute
    tips = json.loads(str(parse(svg)[1].get("data-points")))
    assert tips[0][2].startswith("task <1>: dense\n")
    assert "<ul" not in plots.quality_against_size(POINTS)


def test_more_families_than_colours_still_differ():
    points = [{**POINTS[0], "family": f"f{number}"} for number in range(20)]
    legend = parse(plots.quality_against_size(points)).find(f"{SVG}ul")
    assert legend is not None
    looks = {(item[0].get("style"), item[0].text) for item in legend}
    assert len(legend) == len(looks) == 20


def test_a_point_drawn_aside_tells_its_true_cost():
    points = [{**POINTS[0], "family": "f"}, {**POINTS[0], "family": "g", "aside": 1.05}]
    svg = parse(plots.quality_against_size(points))[1]
    (x0, _, tip0), (x1, _, tip1) = json.loads(str(svg.get("data-points")))
    assert x1 > x0
    assert tip0.splitlines()[1:] == tip1.splitlines()[1:]


def test_one_point_is_enough_and_none_is_an_error():
    assert "dense" in texts(plots.quality_against_size(POINTS[:1]))
    with pytest.raises(ValueError, match="no points"):
        plots.quality_against_size([])


def test_labels_do_not_cover_each_other():
    points = [{"label": f"model {n}", "bytes": 10**6, "quality": 80 + n} for n in range(4)]
    svg = plots.quality_against_size(points)
    heights = [
        float(m) for m in re.findall(r'transform="translate\([\d.]+ ([\d.]+)\)[^>]*>model', svg)
    ] or [float(m) for m in re.findall(r'y="([\d.]+)"[^>]*>model', svg)]
    assert len(heights) == 4
    assert min(np.diff(sorted(heights))) > 8


def test_plots_are_deterministic_and_leave_matplotlib_as_it_was():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    drawn = [
        (plots.training_curves({"a": log(5)}), plots.quality_against_size(POINTS)) for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert dict(mpl.rcParams) == before
