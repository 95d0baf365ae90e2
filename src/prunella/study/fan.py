"""How unevenly the kept weights lie on rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prunella.study.about import About

ABOUT = About(
    "Fan-in is how many inputs an output keeps, fan-out how many outputs an input reaches. The "
    "spread is their standard deviation divided by that of a random mask of the same density: 1 "
    "is chance, more means that some rows or columns are kept at the cost of others.",
    "fan-in of sparse layers: Evci et al. 2022 (arXiv 2010.03533). The random mask's variance is "
    "hypergeometric: for rows of m of n weights, k kept, m (k/n) (1 - k/n) (n - m) / (n - 1).",
    "A spread is no verdict: it grows with the size of a matrix at the same unevenness in "
    "percent, and trained masks are always uneven because a few dimensions of BERT's residual "
    "stream carry far larger values than the rest.",
)


@dataclass(frozen=True)
class Fan:
    """Kept weights of rows, or of columns.

    Attributes:
        mean, least, most: Weights.
        empty: Rows or columns without any.
        spread: Standard deviation, as a multiple of that of a random mask; None where a random
            mask has none (all weights kept, or none).
    """

    mean: float
    least: int
    most: int
    empty: int
    spread: float | None


def fan(counts: np.ndarray, length: int) -> Fan:
    """Sums up.

    Args:
        counts: [lines] kept weights of each row, or of each column.
        length: Weights of a line, kept or not.
    """
    size, kept = counts.size * length, int(counts.sum())
    share = kept / size
    variance = length * share * (1 - share) * (size - length) / max(1, size - 1)
    spread = float(counts.std()) / math.sqrt(variance) if variance > 0 else None
    return Fan(
        float(counts.mean()),
        int(counts.min()),
        int(counts.max()),
        int(np.count_nonzero(counts == 0)),
        spread,
    )
