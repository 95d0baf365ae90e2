"""Bootstrap resamples of a metric, many at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunella.data.scoring.counts import Statistic

_BLOCK = 2_000_000  # counts at a time: 16 MB, and a few temporaries of that size


def resampled(
    statistics: Sequence[Statistic], n: int, *, resamples: int, seed: int
) -> list[np.ndarray]:
    """Each of several statistics of n examples on the same bootstrap resamples.

    Returns:
        For each statistic [resamples] values.
    """
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    values: list[list[np.ndarray]] = [[] for _ in statistics]
    for start in range(0, resamples, block):
        counts = _draw(rng, min(block, resamples - start), n)
        for of_statistic, statistic in zip(values, statistics, strict=True):
            of_statistic.append(statistic(counts))
    return [np.concatenate(blocks) for blocks in values]


def _draw(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(-1, n).astype(np.float64)
