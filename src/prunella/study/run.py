"""study: what differs between sub-networks, as one page and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from prunella.errors import InputError
from prunella.report.tables import Column
from prunella.report.terminal import table
from prunella.settings import StudySettings
from prunella.study.clustering import Clusters, cluster
from prunella.study.figures import Figures, Matrix, count
from prunella.study.networks import Network, Place, open_networks
from prunella.study.outputs import Outputs, outputs
from prunella.study.records import labels_of


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        networks: What was studied.
        figures: All that was counted.
        spectra: Whether singular values were asked for.
        clusters: A tree of all of them; None of fewer than three.
        outputs: What they compute on given text, if there was one.
        out: The page, if one was asked for.
    """

    networks: Sequence[Network]
    figures: Figures
    spectra: bool
    clusters: Clusters | None
    outputs: Outputs | None
    out: Path | None

    def encoder(self, number: int) -> tuple[int, int]:
        """(weights, kept weights) of the matrices of a sub-network's layers.

        A pooler is left out: it is the task's where the backbone has none, and not in its mask.
        A matrix that a mask does not name is whole, and as large as its like in another layer or
        sub-network; where no matrix of its kind is named at all, it is left out.
        """
        network = self.networks[number]
        stack = {p: m for p, m in self.figures.matrices[number].items() if p.layer is not None}
        size, kept = sum(m.size for m in stack.values()), sum(m.kept for m in stack.values())
        if network.names_pruned:
            alike = {
                place.component: matrix.size
                for matrices in self.figures.matrices
                for place, matrix in matrices.items()
                if place.layer is not None
            }
            layers = range(network.layers)
            whole = sum(
                alike[component]
                for layer in layers
                for component in alike
                if Place(layer, component) not in stack
            )
            size, kept = size + whole, kept + whole
        return size, kept

    def connected(self, number: int) -> tuple[Any, ...]:
        """Density, effective density and counts over all layers; None where they are unknown."""
        layers = list(self.figures.layers[number].values())
        known = [layer for layer in layers if layer is not None]
        if not known or len(known) < len(layers):
            return (None,) * 8
        matrices = self.figures.matrices[number].items()
        size = sum(matrix.size for place, matrix in matrices if place.layer is not None)
        kept = sum(layer.kept for layer in known)
        lost = sum(layer.disconnected_total for layer in known)
        with_heads = self.networks[number].heads is not None
        return (
            kept / size,
            (kept - lost) / size,
            lost,
            sum(layer.neurons_gone for layer in known),
            sum(layer.neurons_empty for layer in known),
            sum(layer.heads_gone for layer in known) if with_heads else None,
            sum(layer.heads_empty for layer in known) if with_heads else None,
            sum(layer.uniform_heads for layer in known) if with_heads else None,
        )

    def to_json(self) -> dict[str, Any]:
        names = [network.name for network in self.networks]
        return {
            "out": str(self.out) if self.out else None,
            "networks": [self._network(number) for number in range(len(names))],
            "overlaps": [
                {
                    **asdict(pair),
                    "first": names[pair.first],
                    "second": names[pair.second],
                }
                for pair in self.figures.overlaps
            ],
            "compared": [str(place) for place in self.figures.compared],
            "clusters": self._clusters(names),
            "outputs": self._outputs(names),
        }

    def _clusters(self, names: Sequence[str]) -> dict[str, Any] | None:
        if self.clusters is None:
            return None
        return {**asdict(self.clusters), "order": [names[i] for i in self.clusters.order]}

    def _outputs(self, names: Sequence[str]) -> dict[str, Any] | None:
        if self.outputs is None:
            return None
        pairs = [
            {**asdict(pair), "first": names[pair.first], "second": names[pair.second]}
            for pair in self.outputs.pairs
        ]
        unasked = {names[number]: reason for number, reason in self.outputs.unasked.items()}
        return {**asdict(self.outputs), "pairs": pairs, "unasked": unasked}

    def _network(self, number: int) -> dict[str, Any]:
        network, (size, kept) = self.networks[number], self.encoder(number)
        layers = self.figures.layers[number]
        return {
            "name": network.name,
            "path": str(network.path),
            "stage": network.record.get("stage"),
            "weights": size,
            "kept": kept,
            "density": kept / size,
            "matrices": [
                {
                    "matrix": str(place),
                    "layer": place.layer,
                    "component": place.component,
                    **_matrix(matrix),
                }
                for place, matrix in self.figures.matrices[number].items()
            ],
            "layers": [
                {"layer": layer, **asdict(found)} if found else {"layer": layer}
                for layer, found in layers.items()
            ],
        }

    def show(self, console: Console) -> None:
        """Prints densities and overlaps."""
        rows = []
        for number, network in enumerate(self.networks):
            size, kept = self.encoder(number)
            connected = self.connected(number)
            rows.append(
                (f"{number + 1} {network.name}", kept / size, *connected[1:4], connected[5])
            )
        console.print(table(_COLUMNS, rows))
        pairs = [
            (f"{p.first + 1} · {p.second + 1}", p.iou, p.chance, p.matched, p.agreement, p.z)
            for p in self.figures.overlaps
        ]
        if pairs:
            console.print()
            console.print(table(_PAIR_COLUMNS, pairs))
        for explained in self.clusters.explained if self.clusters else ():
            console.print(
                f"\n{explained.label}: distance {explained.within:.3f} within, "
                f"{explained.between:.3f} between, p {explained.p:.4f}"
            )
        if self.clusters and (note := self.clusters.left_out_note()):
            console.print(f"\n{note}")
        if self.outputs:
            console.print()
            console.print(table(_OUTPUT_COLUMNS, self._likeness_rows()))
            for told in self.outputs.told([str(n + 1) for n in range(len(self.networks))]):
                console.print(told)
        if self.out:
            console.print(f"\nwritten: {self.out}", markup=False, soft_wrap=True)

    def _likeness_rows(self) -> list[tuple[Any, ...]]:
        return [
            (f"{p.first + 1} · {p.second + 1}", min(p.cka), p.cka[-1], p.same_answers, p.r)
            for p in (self.outputs.pairs if self.outputs else ())
        ]


def _number(label: str, format: str, unit: str = "") -> Column:
    return Column(label, unit, format=format, numeric=True)


_COLUMNS = (
    Column("Sub-network"),
    _number("Kept", ".2%", "layers"),
    _number("Effective", ".2%", "layers"),
    _number("Disconnected", ",d", "weights"),
    _number("Neurons", ",d", "gone"),
    _number("Heads", ",d", "gone"),
)
_PAIR_COLUMNS = (
    Column("Pair"),
    _number("IoU", ".4f"),
    _number("Chance", ".4f"),
    _number("Matched", ".4f", "chance"),
    _number("Agreement", ".1%", "above chance"),
    _number("z", "+.1f"),
)
_OUTPUT_COLUMNS = (
    Column("Pair"),
    _number("CKA", ".3f", "lowest layer"),
    _number("CKA", ".3f", "last layer"),
    _number("Same answers", ".1%"),
    _number("r", ".3f", "of numbers"),
)


def _matrix(matrix: Matrix) -> dict[str, Any]:
    found = matrix.spectrum
    return {
        **asdict(matrix),
        "density": matrix.density,
        "spectrum": {**asdict(found), "ratio": found.ratio, "gap": found.gap} if found else None,
    }


def study(settings: StudySettings) -> Study:
    """Compares sub-networks.

    Raises:
        InputError: If one cannot be read, if they are of different architectures, or if the page
            is there already.
    """
    _check_installed(("torch", "transformers") if settings.text else ())
    out = _free_place(settings)
    networks = open_networks(settings.models)
    console = Console(stderr=True, highlight=False)
    with console.status("reading masks") as status:
        figures = count(
            networks,
            spectra=settings.spectra,
            before=lambda place: status.update(f"reading masks: {place}"),
        )
        found = None
        if settings.text:
            status.update("computing layer outputs")
            found = outputs([n.path for n in networks], settings.text, settings.texts)
        clusters = None
        if len(networks) > 2:
            status.update("clustering")
            labels = labels_of([n.record for n in networks], [n.path.parent for n in networks])
            clusters = cluster(len(networks), figures.overlaps, labels)
    done = Study(networks, figures, settings.spectra, clusters, found, out)
    if out is not None:
        from prunella.study.page import write_page

        write_page(done, out)
    return done


def _check_installed(more: Sequence[str]) -> None:
    for package in ("scipy", "jinja2", *more):
        if find_spec(package) is None:
            raise InputError(
                f"`prunella study` needs the package '{package}', which the base installation "
                'leaves out; install "prunella[train]"'
            )


def _free_place(settings: StudySettings) -> Path | None:
    if settings.out is None:
        return None
    out = Path(settings.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give --out the name of a file, usually *.html")
    if out.exists() and not settings.overwrite:
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    return out
