"""Metrics of classes: one of several, any of several, one of several choices."""

from __future__ import annotations

import numpy as np

from prunella.data.scoring.counts import Statistic, checked, f1_of, mean_f1, mean_of


def classification(
    gold: np.ndarray, predictions: np.ndarray, count: int | None = None
) -> dict[str, Statistic]:
    """Class ids [n] of `count` classes: accuracy; f1 of class 1 of two classes, else the macro mean
    over those that occur; matthews.

    Without `count` there are two if all ids are 0 or 1. Then one prediction may change what f1
    means, so a model's classes are to be counted by its head.
    """
    gold, predictions = np.asarray(gold), np.asarray(predictions)
    checked(gold, predictions, ndim=1)
    classes = np.union1d(gold, predictions)
    labelled = (gold[:, None] == classes).astype(np.float64)
    predicted = (predictions[:, None] == classes).astype(np.float64)
    binary = classes[-1] <= 1 if count is None else count <= 2
    decisive = classes == 1 if binary else np.ones(len(classes), dtype=bool)

    def f1(counts: np.ndarray) -> np.ndarray:
        of = labelled[:, decisive], predicted[:, decisive]
        return mean_f1(counts @ (of[0] * of[1]), counts @ of[0], counts @ of[1])

    def matthews(counts: np.ndarray) -> np.ndarray:
        return _matthews(counts, labelled, predicted)

    return {"accuracy": mean_of(gold == predictions), "f1": f1, "matthews": matthews}


def multiple_choice(gold: np.ndarray, predictions: np.ndarray) -> dict[str, Statistic]:
    """Ids of choices [n]: accuracy alone, since the second choice of two questions has nothing in
    common."""
    gold, predictions = np.asarray(gold), np.asarray(predictions)
    checked(gold, predictions, ndim=1)
    return {"accuracy": mean_of(gold == predictions)}


def multi_label(gold: np.ndarray, predictions: np.ndarray) -> dict[str, Statistic]:
    """Flags [n, classes], 0 or 1: micro f1 ("f1"); f1_macro, over the classes that occur; and
    subset_accuracy, the share of examples with every flag right."""
    gold, predictions = np.asarray(gold, np.float64), np.asarray(predictions, np.float64)
    checked(gold, predictions, ndim=2)

    def f1(counts: np.ndarray) -> np.ndarray:
        sums = (counts @ part.sum(axis=1) for part in (gold * predictions, gold, predictions))
        return f1_of(*sums)

    def f1_macro(counts: np.ndarray) -> np.ndarray:
        return mean_f1(counts @ (gold * predictions), counts @ gold, counts @ predictions)

    right = (gold == predictions).all(axis=1)
    return {"f1": f1, "f1_macro": f1_macro, "subset_accuracy": mean_of(right)}


def _matthews(counts: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Correlation of class memberships (Gorodkin 2004, the R_K statistic); 0 if undefined."""
    hits = (counts @ (labelled * predicted)).sum(axis=1)
    labels, guesses = counts @ labelled, counts @ predicted
    n = counts.sum(axis=1)
    covariance = n * hits - (labels * guesses).sum(axis=1)
    spread = (n**2 - (labels**2).sum(axis=1)) * (n**2 - (guesses**2).sum(axis=1))
    return covariance / np.sqrt(np.where(spread > 0, spread, np.inf))
