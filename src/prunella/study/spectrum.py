"""The spectral gap of a mask as a bipartite graph, against its Ramanujan bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunella.study.about import About

ABOUT = About(
    "A mask is a graph: inputs on one side, outputs on the other, a kept weight an edge. The "
    "second largest singular value of its 0/1 matrix tells how far it is from mixing everything "
    "with everything. A graph whose vertices have d_L and d_R edges is Ramanujan, as good an "
    "expander as there can be, if that value is at most sqrt(d_L - 1) + sqrt(d_R - 1). Shown is "
    "value / bound, with average degrees: at most 1 is Ramanujan. The gap is 1 - second / first.",
    "Ramanujan graphs: Hoory, Linial and Wigderson 2006 (Expander graphs and their applications); "
    "of masks: Pal et al. 2022 (A study on the Ramanujan graph property of winning lottery "
    "tickets, ICML), Hoang et al. 2023 (ICLR).",
    "The bound is made for regular graphs, and masks are irregular: uneven rows alone push the "
    "value above it. A random mask of density p comes to about sqrt(1 - p) of the bound, so dense "
    "masks pass easily. No one has shown that passing it makes a better model.",
)
_SMALL = 128
# Of the singular values, relative; the picture shows two digits.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Spectrum:
    """Of one mask.

    Attributes:
        first, second: The two largest singular values.
        bound: sqrt(d_L - 1) + sqrt(d_R - 1) with average degrees.
        random: What second / bound is for a random mask, sqrt(1 - density).
    """

    first: float
    second: float
    bound: float
    random: float

    @property
    def ratio(self) -> float:
        return self.second / self.bound

    @property
    def gap(self) -> float:
        return 1 - self.second / self.first


def spectrum(mask: np.ndarray) -> Spectrum | None:
    """The spectrum of a mask, [outputs, inputs] bool.

    Returns:
        None where it says nothing: all weights kept, or at most one a row or a column on average.
    """
    outputs, inputs = mask.shape
    kept = int(np.count_nonzero(mask))
    left, right = kept / outputs, kept / inputs
    if kept == mask.size or min(left, right) <= 1 or min(mask.shape) < 2:
        return None
    first, second = _largest_two(mask)
    bound = math.sqrt(left - 1) + math.sqrt(right - 1)
    return Spectrum(first, second, bound, math.sqrt(1 - kept / mask.size))


def _largest_two(mask: np.ndarray) -> tuple[float, float]:
    if min(mask.shape) <= _SMALL:
        values = np.linalg.svd(mask.astype(np.float64), compute_uv=False)
        return float(values[0]), float(values[1])
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    # Lanczos needs a beginning; one of its own choice would differ from run to run.
    start = np.random.default_rng(0).standard_normal(min(mask.shape)).astype(np.float32)
    found: Any = svds(
        csr_array(mask, dtype=np.float32),
        k=2,
        tol=_TOLERANCE,  # type: ignore[arg-type]
        v0=start,
        return_singular_vectors=False,
    )
    second, first = sorted(float(value) for value in found)
    return first, second
