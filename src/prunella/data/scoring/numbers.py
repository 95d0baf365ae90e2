"""Metrics of scores.

Where a correlation is undefined, because predictions or labels are constant, it is 0.0: a
constant tells nothing about the order of anything, and a NaN would spread into every mean and
comparison.
"""

from __future__ import annotations

import numpy as np

from prunella.data.scoring.counts import Statistic, checked, mean_of


def regression(gold: np.ndarray, predictions: np.ndarray) -> dict[str, Statistic]:
    """Scores [n]: pearson, spearman, and mse in squared units of the label."""
    gold, predictions = np.asarray(gold, np.float64), np.asarray(predictions, np.float64)
    checked(gold, predictions, ndim=1)

    def pearson(counts: np.ndarray) -> np.ndarray:
        return _correlation(_scaled(gold), _scaled(predictions), counts)

    def spearman(counts: np.ndarray) -> np.ndarray:
        if _is_constant(gold) or _is_constant(predictions):
            return np.zeros(len(counts))
        return _correlation(_ranks(gold, counts), _ranks(predictions, counts), counts)

    return {"pearson": pearson, "spearman": spearman, "mse": mean_of((gold - predictions) ** 2)}


def _is_constant(values: np.ndarray) -> bool:
    """Whether values differ by no more than rounding, so that a correlation has no meaning."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values moved and scaled into [-1, 1], which leaves a correlation as it is; 0 if constant."""
    if _is_constant(values):
        return np.zeros_like(values)
    centred = values - values.mean()
    return centred / np.abs(centred).max()


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks in each resample, ties averaged, scaled to (0, 1]: [resamples, n].

    The values are sorted once: in a resample, the c copies of a value that has s values below it
    share the mean rank s + (c + 1) / 2.
    """
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    copies = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(copies, axis=1) - (copies - 1) / 2
    return ranks[:, group] / counts.shape[1]


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson correlation under counts, for x and y [n] or [resamples, n] within [-1, 1].

    0 where a resample is constant but for rounding.
    """
    n = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / n
    dy = y - (counts * y).sum(axis=1, keepdims=True) / n
    weighted = counts * dx
    covariance = (weighted * dy).sum(axis=1)
    weighted *= dx
    variance_x, variance_y = weighted.sum(axis=1), (counts * dy * dy).sum(axis=1)
    defined = (variance_x > 1e-24) & (variance_y > 1e-24)
    spread = np.sqrt(variance_x) * np.sqrt(variance_y)
    return np.clip(covariance / np.where(defined, spread, np.inf), -1.0, 1.0)
