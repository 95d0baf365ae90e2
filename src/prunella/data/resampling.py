"""Bootstrap resamples of a metric, many at a time.

A resample of n examples is a row of n counts: how often each example was drawn. Every metric
here is computed from such counts for a whole block of resamples at once; with all counts 1 it
equals the value that scikit-learn or scipy give, which the tests hold it to.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# labels [n], predictions [n], counts [resamples, n] float64 -> [resamples]
Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_BLOCK = 2_000_000  # counts at a time: 16 MB, and a few temporaries of that size


def resampled(
    metric: str,
    labels: np.ndarray,
    *predictions: np.ndarray,
    resamples: int,
    seed: int,
) -> list[np.ndarray]:
    """A metric of each of several models' predictions on the same bootstrap resamples.

    Returns:
        For each model [resamples] values.
    """
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    n = len(labels)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    values: list[list[np.ndarray]] = [[] for _ in predictions]
    for start in range(0, resamples, block):
        counts = _draw(rng, min(block, resamples - start), n)
        for model, predicted in enumerate(predictions):
            values[model].append(STATISTICS[metric](labels, predicted, counts))
    return [np.concatenate(blocks) for blocks in values]


def is_constant(values: np.ndarray) -> bool:
    """Whether values differ by no more than rounding, so that a correlation has no meaning."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _draw(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(-1, n).astype(np.float64)


def _accuracy(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts @ (labels == predictions) / counts.sum(axis=1)


def _per_class(
    labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Classes [k]; true positives, labelled and predicted as each: [resamples, k]."""
    classes = np.union1d(labels, predictions)
    labelled = (labels[:, None] == classes).astype(np.float64)
    predicted = (predictions[:, None] == classes).astype(np.float64)
    return classes, counts @ (labelled * predicted), counts @ labelled, counts @ predicted


def _f1(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), of class 1, or its mean over the classes that occur (macro)."""
    classes, hits, labelled, predicted = _per_class(labels, predictions, counts)
    if classes[-1] <= 1:
        positive = classes == 1
        hits, labelled, predicted = hits[:, positive], labelled[:, positive], predicted[:, positive]
    total = labelled + predicted
    occurs = np.count_nonzero(total, axis=1)
    return (2 * hits / np.maximum(total, 1)).sum(axis=1) / np.maximum(occurs, 1)


def _matthews(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Correlation of class memberships (Gorodkin 2004, the R_K statistic); 0 if undefined."""
    _, hits, labelled, predicted = _per_class(labels, predictions, counts)
    n = counts.sum(axis=1)
    covariance = n * hits.sum(axis=1) - (labelled * predicted).sum(axis=1)
    spread = (n**2 - (labelled**2).sum(axis=1)) * (n**2 - (predicted**2).sum(axis=1))
    return covariance / np.sqrt(np.where(spread > 0, spread, np.inf))


def _pearson(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _correlation(_scaled(labels), _scaled(predictions), counts)


def _spearman(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if is_constant(labels) or is_constant(predictions):
        return np.zeros(len(counts))
    return _correlation(_ranks(labels, counts), _ranks(predictions, counts), counts)


def _mse(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    errors = labels.astype(np.float64) - predictions.astype(np.float64)
    return counts @ errors**2 / counts.sum(axis=1)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values moved and scaled into [-1, 1], which leaves a correlation as it is; 0 if constant."""
    values = values.astype(np.float64)
    if is_constant(values):
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


STATISTICS: dict[str, Statistic] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}
