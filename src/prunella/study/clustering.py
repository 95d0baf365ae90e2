"""Which sub-networks belong together, and whether their method or their task says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunella.study.about import About
from prunella.study.overlap import Overlap

ABOUT = About(
    "Sub-networks that join far to the left share more of what they keep; the distance is 1 - "
    "agreement, so 1 is chance. Explained says how much farther apart sub-networks of different "
    "methods (or tasks) are than those of the same one, on average: 0 if it tells nothing.",
    "Average linkage (Sokal and Michener 1958). Test: the labels are permuted among the "
    "sub-networks, 9,999 times, as in Mantel's test (1967); one-sided. Method is that of the last "
    "stage that chose zeros, looked up in its parents where they are still there; task is the "
    "contents of the data trained on last.",
    "A tree joins anything, also noise. A few sub-networks have few permutations, so that no p can "
    "be small. Where method and task go together (one method a task), neither is told from the "
    "other.",
)
_PERMUTATIONS = 9999


@dataclass(frozen=True)
class Join:
    """Two branches become one.

    Attributes:
        first, second: Heights of the two on the page, in leaves from the top.
        first_at, second_at: Distances at which they began.
        at: Distance at which they join.
    """

    first: float
    second: float
    first_at: float
    second_at: float
    at: float


@dataclass(frozen=True)
class Explained:
    """What a label says of the distances.

    Attributes:
        label: "method" or "task".
        values: Of each sub-network; None where the record does not say.
        within, between: Mean distance of sub-networks of the same value, and of different ones.
        p: Chance of a difference as large from labels that mean nothing.
    """

    label: str
    values: Sequence[str | None]
    within: float
    between: float
    p: float


@dataclass(frozen=True)
class Clusters:
    """A tree of all sub-networks.

    Attributes:
        order: Their indices from top to bottom.
        joins: From the nearest to the farthest.
        explained: What labels say; those that tell nothing apart are left out.
        left_out: How many sub-networks have no value, by label: no test counts them.
    """

    order: Sequence[int]
    joins: Sequence[Join]
    explained: Sequence[Explained]
    left_out: Mapping[str, int]

    def left_out_note(self) -> str:
        """How many sub-networks no test counts, for people; empty if there are none."""
        counts = [f"{label} {n}" for label, n in self.left_out.items() if n]
        if not counts:
            return ""
        return (
            f"Left out of the test, of {len(self.order)}, as no record says: {', '.join(counts)}."
        )


def cluster(
    count: int, overlaps: Sequence[Overlap], labels: Mapping[str, Sequence[Any]]
) -> Clusters:
    """Clusters sub-networks by their overlaps.

    Args:
        count: How many there are.
        overlaps: Every pair; one without an agreement counts as chance.
        labels: A value for each sub-network, by label.
    """
    from scipy.cluster.hierarchy import linkage, to_tree
    from scipy.spatial.distance import squareform

    distances = np.ones((count, count))
    np.fill_diagonal(distances, 0)
    for pair in overlaps:
        if pair.agreement is not None:
            distances[pair.first, pair.second] = distances[pair.second, pair.first] = (
                1 - pair.agreement
            )
    order: list[int] = []
    joins: list[Join] = []

    def place(node: Any) -> tuple[float, float]:
        """(height, distance) of a branch; leaves from top to bottom."""
        if node.is_leaf():
            order.append(node.id)
            return len(order) - 1.0, 0.0
        (first, first_at), (second, second_at) = place(node.left), place(node.right)
        joins.append(Join(first, second, first_at, second_at, float(node.dist)))
        return (first + second) / 2, float(node.dist)

    # Rounding makes -1e-17 of nothing, which linkage refuses.
    place(to_tree(linkage(squareform(distances.clip(0), checks=False), "average")))
    found = (_explain(distances, label, values) for label, values in labels.items())
    joins.sort(key=lambda join: join.at)
    left_out = {label: sum(v is None for v in values) for label, values in labels.items()}
    return Clusters(order, joins, [explained for explained in found if explained], left_out)


def _explain(distances: np.ndarray, label: str, values: Sequence[str | None]) -> Explained | None:
    known = [i for i, value in enumerate(values) if value is not None]
    groups = [values[i] for i in known]
    kinds = sorted({str(group) for group in groups})
    if len(kinds) < 2 or len(kinds) == len(groups):
        return None  # nothing within, or nothing between
    codes = np.array([kinds.index(str(group)) for group in groups])
    first, second = np.triu_indices(len(known), 1)
    held = distances[np.ix_(known, known)][first, second]

    def difference(labels: np.ndarray) -> float:
        same = labels[first] == labels[second]
        return float(held[~same].mean() - held[same].mean())

    measured = difference(codes)
    draw = np.random.default_rng(0)
    permuted = [difference(draw.permutation(codes)) for _ in range(_PERMUTATIONS)]
    reached = sum(value >= measured - 1e-12 for value in permuted)
    same = codes[first] == codes[second]
    p = (1 + reached) / (1 + _PERMUTATIONS)
    return Explained(label, values, float(held[same].mean()), float(held[~same].mean()), p)
