"""One pass over the masks, a matrix at a time: all that a study counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from prunella.study.connections import Connections, Margins, connections
from prunella.study.fan import Fan, fan
from prunella.study.networks import EMBEDDINGS, Network, Place
from prunella.study.overlap import Bits, Common, Overlap, common, holm, overlap, to_bits, whole
from prunella.study.spectrum import Spectrum, spectrum

# Below this share of zeros a matrix counts as never pruned: a few weights are zero by accident.
# Rounding to int8 makes more, and `networks` sees to these.
_PRUNED_FROM = 0.001


@dataclass(frozen=True)
class Matrix:
    """One matrix of one sub-network. `fan_in`, `fan_out` and `spectrum` are None of embeddings."""

    size: int
    kept: int
    fan_in: Fan | None
    fan_out: Fan | None
    spectrum: Spectrum | None

    @property
    def density(self) -> float:
        return self.kept / self.size


@dataclass(frozen=True)
class Figures:
    """What the pass found.

    Attributes:
        matrices: For each sub-network its matrices by place.
        layers: For each sub-network its layers' connections; None where they cannot be judged.
        overlaps: Every pair.
        compared: The places that some sub-network pruned; a pair is compared over those of them
            that one of the two pruned.
    """

    matrices: list[dict[Place, Matrix]]
    layers: list[dict[int, Connections | None]]
    overlaps: list[Overlap]
    compared: list[Place]


@dataclass(frozen=True)
class _Shared:
    """A matrix of a pair: what each keeps of it, and whether one of them pruned it."""

    place: Place
    common: Common
    a: int
    b: int
    size: int
    pruned: bool


def count(
    networks: Sequence[Network], *, spectra: bool = True, before: Callable[[str], None]
) -> Figures:
    """Reads every mask once.

    Args:
        networks: What to study.
        spectra: Whether to find singular values, which takes most of the time.
        before: Told what comes next.
    """
    places = sorted({p for network in networks for p in network.shapes}, key=lambda p: p.order)
    matrices: list[dict[Place, Matrix]] = [{} for _ in networks]
    margins: list[dict[int, dict[str, Margins]]] = [defaultdict(dict) for _ in networks]
    shared: dict[tuple[int, int], list[_Shared]] = defaultdict(list)
    compared: list[Place] = []
    for place in places:
        before(str(place))
        bits: dict[int, Bits] = {}
        for number, network in enumerate(networks):
            if place not in network.shapes:
                continue
            mask = network.read(place)
            found = bits[number] = to_bits(mask)
            matrices[number][place] = _matrix(place, mask, found, spectra)
            if place.layer is not None:
                held = Margins(found.fan_in, found.fan_out)
                margins[number][place.layer].setdefault(place.component, held)
        pruned = {i for i, b in bits.items() if b.kept <= (1 - _PRUNED_FROM) * b.size}
        if not pruned:
            continue
        compared.append(place)
        # A row that is zero by accident, as of padding, would make all that have it look alike.
        counted = {i: b if i in pruned else whole(b) for i, b in bits.items()}
        unnamed = [i for i, n in enumerate(networks) if n.names_pruned and i not in counted]
        counted |= dict.fromkeys(unnamed, whole(bits[min(pruned)]))
        for i, j in combinations(sorted(counted), 2):
            a, b = counted[i], counted[j]
            if len(a.fan_in) == len(b.fan_in) and a.size == b.size:
                item = _Shared(place, common(a, b), a.kept, b.kept, a.size, bool(pruned & {i, j}))
                shared[i, j].append(item)
    return Figures(
        matrices,
        [
            {
                layer: connections(held, network.heads, _biased(network, Place(layer, "query")))
                for layer, held in layers.items()
            }
            for network, layers in zip(networks, margins, strict=True)
        ],
        _overlaps(shared),
        compared,
    )


def _biased(network: Network, place: Place) -> np.ndarray | None:
    return network.biased(place) if place in network.shapes else None


def _matrix(place: Place, mask: np.ndarray, bits: Bits, spectra: bool) -> Matrix:
    if place.component == EMBEDDINGS:
        return Matrix(bits.size, bits.kept, None, None, None)
    outputs, inputs = mask.shape
    return Matrix(
        bits.size,
        bits.kept,
        fan(bits.fan_in, inputs),
        fan(bits.fan_out, outputs),
        spectrum(mask) if spectra else None,
    )


def _overlaps(shared: dict[tuple[int, int], list[_Shared]]) -> list[Overlap]:
    """Every pair, with p corrected for how many pairs there are.

    What neither of a pair pruned would make the two look alike, and is left out, whatever a third
    one did; two that pruned nothing are compared over all that others pruned.
    """
    found = []
    for pair, every in sorted(shared.items()):
        items = [item for item in every if item.pruned] or every
        parts = [(item.place.component, item.common) for item in items]
        found.append(overlap(pair, parts, [(item.a, item.b, item.size) for item in items]))
    corrected = holm([pair.log10_p for pair in found])
    return [replace(pair, log10_p_corrected=p) for pair, p in zip(found, corrected, strict=True)]
