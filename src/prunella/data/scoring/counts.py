"""What metrics of all kinds share.

A resample of n examples is a row of n counts: how often each example was drawn. Every metric is
computed from such counts, for a whole block of resamples at once. The metric itself is that of
one row of ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunella.errors import InputError

# counts [resamples, n] float64 -> [resamples]
Statistic = Callable[[np.ndarray], np.ndarray]


def checked(gold: np.ndarray, predictions: np.ndarray, *, ndim: int) -> None:
    """Refuses what cannot be scored.

    Raises:
        InputError: No examples, or predictions that are not finite.
    """
    if gold.shape != predictions.shape or gold.ndim != ndim:
        shape = "[n]" if ndim == 1 else "[n, classes]"
        raise ValueError(f"labels {gold.shape} and predictions {predictions.shape} must be {shape}")
    check_number(len(gold))
    wrong = np.count_nonzero(~np.isfinite(predictions))
    if wrong:
        raise InputError(
            f"{wrong} of {len(predictions)} predictions are not finite: the model has diverged or "
            "is damaged; train it again with a lower learning rate"
        )


def check_number(n: int) -> None:
    """Refuses an empty evaluation."""
    if not n:
        raise InputError("no examples to score: the evaluation data is empty")


def mean_of(values: np.ndarray) -> Statistic:
    """The mean of values [n], one for each example."""
    return lambda counts: counts @ values.astype(np.float64) / counts.sum(axis=1)


def share(part: np.ndarray, whole: np.ndarray) -> Statistic:
    """The sum of `part` [n] as a share of the sum of `whole` [n]; 0 of nothing."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        return counts @ part.astype(np.float64) / np.maximum(counts @ whole.astype(np.float64), 1)

    return statistic


def f1_of(hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), element by element; 0 where there is nothing at all."""
    return 2 * hits / np.maximum(gold + predicted, 1)


def mean_f1(hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Macro F1: the mean over the classes that occur; sums [resamples, classes] -> [resamples]."""
    occurs = np.count_nonzero(gold + predicted, axis=1)
    return f1_of(hits, gold, predicted).sum(axis=1) / np.maximum(occurs, 1)
