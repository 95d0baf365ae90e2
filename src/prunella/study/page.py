"""The page of a study: a section a measure, with its pictures and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.checkpoint import versions
from prunella.report.heat_map import Entry, Scale, heat_map, share_range
from prunella.report.html import Fact, Facts, Figure, Page, Section, write
from prunella.report.pair_map import Pair, pair_map
from prunella.report.tables import Column, Table
from prunella.report.tree import Branch, tree
from prunella.study import clustering, connections, fan, outputs, overlap, spectrum
from prunella.study.about import About
from prunella.study.figures import Matrix
from prunella.study.networks import EMBEDDINGS, Place
from prunella.study.outputs import Outputs

if TYPE_CHECKING:
    from prunella.study.run import Study

DENSITY = About(
    "Density is the share of weights that are not zero, of every matrix. It shows where a "
    "sub-network keeps what it keeps: what is dense was found useful, or was never pruned.",
    "Gao et al. 2021, Adapting by Pruning (arXiv 2105.03343), compares tasks by it.",
    "It says how many weights a matrix keeps, not which, nor how much they matter. With uniform "
    "scope every matrix has the same density by construction, and nothing can be learnt from it.",
)


def write_page(study: Study, path: Path) -> Path:
    """Writes the page; see `prunella.report.html.write`."""
    return write(page(study), path)


def page(study: Study) -> Page:
    """The page of a study."""
    sections = [
        Section("", blocks=[_facts(study)]),
        Section("Density", DENSITY.text, _maps(study, _density, "density", "kept, %")),
    ]
    if study.figures.overlaps:
        sections.append(Section("Overlap", overlap.ABOUT.text, _overlaps(study)))
    if study.clusters is not None:
        sections.append(Section("Clusters", clustering.ABOUT.text, _clusters(study)))
    if study.outputs is not None:
        sections.append(Section("Outputs", outputs.ABOUT.text, _outputs(study, study.outputs)))
    sections += [
        Section("Disconnected weights", connections.ABOUT.text, [_connections(study)]),
        Section("Fan-in and fan-out", fan.ABOUT.text, _fans(study)),
    ]
    if study.spectra:
        blocks = _maps(study, _ratio, "second singular value / bound", "value / bound")
        sections.append(Section("Spectral gap", spectrum.ABOUT.text, blocks))
    return Page("Sub-networks compared", _lead(study), sections, _footer(study))


def _lead(study: Study) -> str:
    count = len(study.networks)
    if count == 1:
        return f"One sub-network: {study.networks[0].name}."
    known = [p for p in study.figures.overlaps if p.agreement is not None]
    if not known:
        return f"{count} sub-networks; there is no pair whose pruned matrices could be compared."
    low, high = (pick(known, key=lambda p: p.agreement or 0.0) for pick in (min, max))
    names = [network.name for network in study.networks]
    text = (
        f"{count} sub-networks. Most alike are {names[high.first]} and {names[high.second]}: "
        f"{100 * (high.agreement or 0):.1f} % of the way from chance to the most possible overlap"
    )
    if low.agreement != high.agreement:
        text += (
            f"; least alike are {names[low.first]} and {names[low.second]} "
            f"({100 * (low.agreement or 0):.1f} %)"
        )
    return text + "."


def _facts(study: Study) -> Facts:
    items = []
    for number, network in enumerate(study.networks):
        size, kept = study.encoder(number)
        items.append(Fact(f"{100 * kept / size:.1f} %", network.name, "of the layers kept"))
    return Facts(items)


def _maps(
    study: Study,
    value: Callable[[Place, Matrix], tuple[float, str, str] | None],
    what: str,
    label: str,
) -> list[Figure]:
    """A heat map for each sub-network, all with one scale."""
    held = [
        {p: found for p, m in matrices.items() if (found := value(p, m)) is not None}
        for matrices in study.figures.matrices
    ]
    values = [found[0] for places in held for found in places.values()]
    if not values:
        return []
    if label.endswith("%"):
        scale = Scale(*share_range(values), label, 100)
    else:
        scale = Scale(min(0.8, *values), max(1.2, *values), label)
    figures = []
    for network, places in zip(study.networks, held, strict=True):
        if not places:  # a dense model has no spread of fans, for one
            continue
        entries = [
            Entry(p.layer, p.part if p.component == EMBEDDINGS else p.component, *places[p])
            for p in places
        ]
        alt = f"Heat map of {network.name}: {what} of every matrix, layer by component."
        figures.append(Figure(heat_map(entries, scale), f"{network.name}: {what}", alt))
    return figures


def _density(place: Place, matrix: Matrix) -> tuple[float, str, str]:
    tip = f"{place}: {matrix.density:.3%} kept\n{matrix.kept:,} of {matrix.size:,} weights"
    return matrix.density, f"{100 * matrix.density:.1f}", tip


def _ratio(place: Place, matrix: Matrix) -> tuple[float, str, str] | None:
    found = matrix.spectrum
    if found is None:
        return None
    tip = (
        f"{place}: {found.ratio:.3f} of the bound (random mask: {found.random:.3f})\n"
        f"singular values {found.first:.4g} and {found.second:.4g}, bound {found.bound:.4g}, "
        f"gap {found.gap:.3f}"
    )
    return found.ratio, f"{found.ratio:.2f}", tip


def _overlaps(study: Study) -> list[Any]:
    names = [network.name for network in study.networks]
    pairs = {}
    for pair in study.figures.overlaps:
        if pair.agreement is None:
            continue
        tip = (
            f"{names[pair.first]} and {names[pair.second]}\nagreement {pair.agreement:.2%}, "
            f"IoU {pair.iou:.4f}\nchance {pair.chance:.4f}, matched {pair.matched:.4f}, rows and "
            f"columns matched {pair.margins:.4f}\np {written_p(pair.log10_p_corrected)}"
        )
        text = f"{100 * pair.agreement:.0f}"
        pairs[pair.first, pair.second] = Pair(pair.agreement, text, tip)
    caption = (
        "Agreement of every pair, in percent: 0 is what random masks of the same densities share, "
        "100 the most possible; orange is less than chance."
    )
    alt = "Heat map of pairs: how far their overlap lies above chance."
    figure = Figure(pair_map(names, pairs, "agreement above chance, %"), caption, alt)
    return [figure, _overlap_table(study, names)] if pairs else [_overlap_table(study, names)]


def _overlap_table(study: Study, names: Sequence[str]) -> Table:
    def number(label: str, format: str, help: str, unit: str = "") -> Column:
        return Column(label, unit, help, format, numeric=True)

    columns = [
        Column("Pair"),
        number("Agreement", ".1%", "from matched chance (0 %) to the most possible (100 %)"),
        number("IoU", ".4f", "kept by both / kept by either"),
        number("Chance", ".4f", "of random masks of the same total densities"),
        number("Matched", ".4f", "of random masks with each matrix's density"),
        number(
            "Rows, columns", ".4f", "of random masks with each row's and column's count, roughly"
        ),
        number("z", "+.1f", "standard deviations above matched chance"),
        number("log10 p", ".1f", "two-sided, Holm's correction over all pairs"),
    ]
    rows = [
        (
            f"{names[p.first]} · {names[p.second]}",
            *(p.agreement, p.iou, p.chance, p.matched, p.margins, p.z, p.log10_p_corrected),
        )
        for p in study.figures.overlaps
    ]
    note = (
        f"Over {len(study.figures.compared)} matrices that at least one of the sub-networks "
        "pruned. A dash: all weights kept, so nothing could differ."
    )
    return Table(columns, rows, "Every pair", note)


def _clusters(study: Study) -> list[Any]:
    found = study.clusters
    assert found is not None
    names = [study.networks[i].name for i in found.order]
    branches = [Branch(j.first, j.second, j.first_at, j.second_at, j.at) for j in found.joins]
    caption = "Sub-networks by their overlap: 0 is as alike as their densities allow, 1 is chance."
    alt = "Tree of sub-networks: " + ", ".join(names) + "."
    note = found.left_out_note()
    if not found.explained:
        caption = f"{caption} {note}".strip()
        return [Figure(tree(names, branches, "distance, 1 - agreement"), caption, alt)]
    figure = Figure(tree(names, branches, "distance, 1 - agreement"), caption, alt)
    columns = [
        Column("Label"),
        Column("Within", "", "mean distance of the same value", ".3f", numeric=True),
        Column("Between", "", "mean distance of different values", ".3f", numeric=True),
        Column("p", "", "one-sided, by permutation", ".4f", numeric=True),
        Column("Values"),
    ]
    rows = [
        (e.label, e.within, e.between, e.p, "; ".join(sorted({v for v in e.values if v})))
        for e in found.explained
    ]
    return [figure, Table(columns, rows, "Does method or task explain it?", note)]


def _outputs(study: Study, found: Outputs) -> list[Any]:
    names = [network.name for network in study.networks]
    depth = max(len(pair.cka) for pair in found.pairs)

    def number(label: str, format: str, help: str) -> Column:
        return Column(label, "", help, format, numeric=True)

    pairs = {
        (p.first, p.second): Pair(
            p.cka[-1],
            f"{p.cka[-1]:.2f}",
            f"{names[p.first]} and {names[p.second]}\nCKA after each layer: "
            + " ".join(f"{value:.3f}" for value in p.cka),
        )
        for p in found.pairs
    }
    figure = Figure(
        pair_map(names, pairs, "linear CKA of the last layer's outputs"),
        "What two sub-networks compute at the end: 1 is the same up to rotation and scale.",
        "Heat map of pairs: linear CKA of the last layer's outputs.",
    )
    columns = [
        Column("Pair"),
        *(
            number("Embeddings" if i == 0 else f"Layer {i - 1}", ".3f", "linear CKA")
            for i in range(depth)
        ),
        number("Same answers", ".1%", "share of texts with the same label, or set of labels"),
        number("r", ".3f", "correlation of predicted numbers"),
    ]
    rows = [
        (f"{names[p.first]} · {names[p.second]}", *p.cka, p.same_answers, p.r) for p in found.pairs
    ]
    note = f"{found.texts:,} texts, {found.tokens:,} tokens. A dash: no task in common."
    for told in found.told(names):
        note += f" {told}"
    return [figure, Table(columns, rows, "Every pair, layer by layer", note)]


def _connections(study: Study) -> Table:
    def number(label: str, format: str, help: str) -> Column:
        return Column(label, "", help, format, numeric=True)

    columns = [
        Column("Sub-network"),
        number("Density", ".2%", "of the layers' matrices"),
        number("Effective", ".2%", "of weights on a path"),
        number("Disconnected", ",d", "kept weights on no path"),
        number("Neurons gone", ",d", "of the FFN: no path leads through"),
        number("of them empty", ",d", "no kept weight at all"),
        number("Heads gone", ",d", "none of their values gets through"),
        number("of them empty", ",d", "no kept weight at all"),
        number("Uniform heads", ",d", "scores that are the same for every token"),
    ]
    rows = [(network.name, *study.connected(n)) for n, network in enumerate(study.networks)]
    return Table(columns, rows, "Kept but disconnected; heads and neurons that are gone")


def _fans(study: Study) -> list[Any]:
    blocks: list[Any] = []
    for label, side in (("fan-in", "fan_in"), ("fan-out", "fan_out")):

        def spread(place: Place, matrix: Matrix, side: str = side) -> tuple[float, str, str] | None:
            found = getattr(matrix, side)
            if found is None or found.spread is None:
                return None
            tip = (
                f"{place}: spread {found.spread:.2f} times that of a random mask\n"
                f"{found.mean:.1f} on average, {found.least:,} to {found.most:,}, "
                f"{found.empty:,} empty"
            )
            return found.spread, f"{found.spread:.1f}", tip

        blocks += _maps(study, spread, f"spread of {label}", "× random")
    return blocks


def written_p(log10_p: float | None) -> str:
    """A probability that may be too small for a float."""
    if log10_p is None:
        return "unknown"
    return f"{10**log10_p:.2g}" if log10_p > -4 else f"10^{log10_p:.0f}"


def _footer(study: Study) -> str:
    paths = "; ".join(f"{network.name}: {network.path}" for network in study.networks)
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{paths}\n\nMasks are what is not zero. {packages}."
