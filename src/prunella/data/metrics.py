"""The official metrics of a task, and how sure one can be of them.

Every value is a fraction (accuracy, f1, exact, ...), a correlation in [-1, 1] (matthews, pearson,
spearman) or in squared units of the label (mse).

    kind                   gold                          predictions
    classification         [n] class ids                 [n] class ids
    regression             [n] scores                    [n] scores
    multi-label            [n, classes] 0 or 1           [n, classes] 0 or 1
    token-classification   n lists of tags, one a word   n lists of tags of the same lengths
    question-answering     n lists of accepted answers;  n texts; "" is "no answer"
                           an empty one: no answer
    multiple-choice        [n] ids of choices            [n] ids of choices
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax

from prunella.data.resampling import resampled
from prunella.data.scoring import answers, classes, entities, numbers
from prunella.data.scoring.counts import Statistic

# A new kind of task adds a line here: its statistics, and the one that decides.
_KINDS: dict[str, tuple[Callable[[Any, Any], dict[str, Statistic]], str]] = {
    "classification": (classes.classification, "accuracy"),
    "regression": (numbers.regression, "spearman"),
    "multi-label": (classes.multi_label, "f1"),
    "token-classification": (entities.token_classification, "f1"),
    "question-answering": (answers.question_answering, "f1"),
    "multiple-choice": (classes.multiple_choice, "accuracy"),
}
_HAS_LOG_LOSS = ("classification", "multiple-choice")


def main_metric(kind: str, n_labels: int = 0) -> str:
    """The one metric that decides, for a kind of task (whatever its number of labels)."""
    return _KINDS[_known(kind)][1]


def metric_names(kind: str, gold: Any) -> list[str]:
    """The metrics of a kind of task that have an interval, for examples with these gold labels."""
    right = gold
    if kind == "question-answering":
        right = [answers[0] if answers else "" for answers in gold]
    return list(_statistics(kind, gold, right))


def metrics(
    kind: str,
    gold: Any,
    predictions: Any,
    logits: np.ndarray | None = None,
    *,
    classes: int | None = None,
) -> dict[str, float]:
    """All metrics of a kind of task.

    Args:
        kind: One of the table above.
        gold: What is right, see there.
        predictions: What a model said.
        logits: [n, classes] of a classifier or of choices (-inf where there is no choice); adds
            "log_loss", the mean negative log-likelihood in nats, which shows lost calibration
            before accuracy does.
        classes: How many a classifier's head has, whichever occur here.

    Returns:
        What the kind's function in `prunella.data.scoring` says.

    Raises:
        InputError: No examples, or predictions that are not finite.
    """
    once = np.ones((1, len(gold)))
    statistics = _statistics(kind, gold, predictions, classes)
    values = {name: float(of(once)[0]) for name, of in statistics.items()}
    if logits is not None and kind in _HAS_LOG_LOSS:
        log_likelihood = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
        values["log_loss"] = -float(log_likelihood[np.arange(len(gold)), gold].mean())
    return values


def bootstrap(
    kind: str,
    gold: Any,
    predictions: Any,
    metric: str,
    *,
    classes: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over the examples (Efron & Tibshirani 1993, 13).

    It covers the choice of examples only, not training seeds.
    """
    statistic = _statistic(kind, gold, predictions, metric, classes)
    (values,) = resampled([statistic], len(gold), resamples=resamples, seed=seed)
    return _interval(values, level)


def paired_bootstrap(
    kind: str,
    gold: Any,
    predictions_a: Any,
    predictions_b: Any,
    metric: str,
    *,
    classes: int | None = None,
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
    both = [_statistic(kind, gold, p, metric, classes) for p in (predictions_a, predictions_b)]
    whole_a, whole_b = (float(statistic(np.ones((1, len(gold))))[0]) for statistic in both)
    a, b = resampled(both, len(gold), resamples=resamples, seed=seed)
    low, high = _interval(a - b, level)
    tail = min(np.count_nonzero(a <= b), np.count_nonzero(a >= b))
    p_value = min(1.0, float(2 * (tail + 1) / (resamples + 1)))
    return {"difference": whole_a - whole_b, "low": low, "high": high, "p_value": p_value}


def _statistic(
    kind: str, gold: Any, predictions: Any, metric: str, classes: int | None
) -> Statistic:
    statistics = _statistics(kind, gold, predictions, classes)
    if metric not in statistics:
        raise ValueError(f"{kind} has no metric '{metric}'; known: {', '.join(statistics)}")
    return statistics[metric]


def _statistics(
    kind: str, gold: Any, predictions: Any, count: int | None = None
) -> dict[str, Statistic]:
    if kind == "classification":
        return classes.classification(gold, predictions, count)
    return _KINDS[_known(kind)][0](gold, predictions)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(kind: str) -> str:
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of task '{kind}'; known: {', '.join(_KINDS)}")
    return kind
