"""The official metrics of a task, and how sure one can be of them.

Every value is a fraction (accuracy, f1), a correlation in [-1, 1] (matthews, pearson, spearman)
or in squared units of the label (mse). Where a correlation is undefined, because predictions or
labels are constant, it is 0.0: a constant tells nothing about the order of anything, and a NaN
would spread into every mean and comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from prunella.data.resampling import is_constant, resampled
from prunella.errors import InputError


def main_metric(kind: str, n_labels: int) -> str:
    """The one metric that decides, for a kind of task (whatever its number of labels)."""
    return _METRICS[_known(kind)][1]


def metrics(
    kind: str, labels: np.ndarray, predictions: np.ndarray, *, logits: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of a kind of task.

    Args:
        kind: "classification" or "regression".
        labels: [n] class ids or scores.
        predictions: [n] class ids or scores.
        logits: [n, classes] of a classifier; adds "log_loss", the mean negative log-likelihood
            in nats, which shows lost calibration before accuracy does.

    Returns:
        Classification: accuracy; f1 of class 1 if ids are all 0 or 1, else the mean f1 of the
        classes that occur (macro); matthews. Regression: pearson, spearman, mse.

    Raises:
        InputError: No examples, or predictions that are not finite.
    """
    labels, predictions = _checked(labels, predictions)
    values = _METRICS[_known(kind)][0](labels, predictions)
    if logits is not None and kind == "classification":
        log_likelihood = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
        values["log_loss"] = -float(log_likelihood[np.arange(len(labels)), labels].mean())
    return values


def bootstrap(
    kind: str,
    labels: np.ndarray,
    predictions: np.ndarray,
    metric: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over the examples (Efron & Tibshirani 1993, 13).

    It covers the choice of examples only, not training seeds.
    """
    _point(kind, labels, predictions, metric)
    (values,) = resampled(metric, *_checked(labels, predictions), resamples=resamples, seed=seed)
    return _interval(values, level)


def paired_bootstrap(
    kind: str,
    labels: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    metric: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Compare two models on the same examples: both are scored on the same resamples.

    Returns:
        difference: metric(a) - metric(b). low, high: its percentile interval. p_value: two-sided,
        of no difference: twice the share of resamples on the far side of zero, at most 1; never
        below 2 / (resamples + 1), because no finite number of resamples shows 0.
    """
    difference = _point(kind, labels, predictions_a, metric) - _point(
        kind, labels, predictions_b, metric
    )
    a, b = resampled(
        metric,
        np.asarray(labels),
        np.asarray(predictions_a),
        np.asarray(predictions_b),
        resamples=resamples,
        seed=seed,
    )
    low, high = _interval(a - b, level)
    tail = min(np.count_nonzero(a <= b), np.count_nonzero(a >= b))
    p_value = min(1.0, float(2 * (tail + 1) / (resamples + 1)))
    return {"difference": difference, "low": low, "high": high, "p_value": p_value}


def _point(kind: str, labels: np.ndarray, predictions: np.ndarray, metric: str) -> float:
    values = metrics(kind, labels, predictions)
    if metric not in values:
        raise ValueError(f"{kind} has no metric '{metric}'; known: {', '.join(values)}")
    return values[metric]


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(kind: str) -> str:
    if kind not in _METRICS:
        raise ValueError(f"unknown kind of task '{kind}'; known: {', '.join(_METRICS)}")
    return kind


def _checked(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must be [n]")
    if not len(labels):
        raise InputError("no examples to score: the evaluation data is empty")
    wrong = np.count_nonzero(~np.isfinite(predictions))
    if wrong:
        raise InputError(
            f"{wrong} of {len(predictions)} predictions are not finite: the model has diverged or "
            "is damaged; train it again with a lower learning rate"
        )
    return labels, predictions


def _classification(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    binary = max(labels.max(), predictions.max()) <= 1
    average = "binary" if binary else "macro"
    f1 = f1_score(labels, predictions, average=average, zero_division=0)  # pyright: ignore[reportArgumentType]
    # scikit-learn gives 0 too where only one class occurs, but with a warning.
    one_class = is_constant(labels) and is_constant(predictions)
    matthews = 0.0 if one_class else matthews_corrcoef(labels, predictions)
    return {
        "accuracy": float(np.mean(labels == predictions)),
        "f1": float(f1),
        "matthews": float(matthews),
    }


def _regression(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    pearson = spearman = 0.0
    if not is_constant(labels) and not is_constant(predictions):
        pearson = pearsonr(labels, predictions).statistic  # pyright: ignore[reportAttributeAccessIssue]
        spearman = spearmanr(labels, predictions).statistic  # pyright: ignore[reportAttributeAccessIssue]
    mse = np.mean((labels - predictions) ** 2)
    return {"pearson": float(pearson), "spearman": float(spearman), "mse": float(mse)}


# A new kind of task adds a line here and its statistics to `prunella.data.resampling`.
_METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], dict[str, float]], str]] = {
    "classification": (_classification, "accuracy"),
    "regression": (_regression, "spearman"),
}
