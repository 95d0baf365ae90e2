"""Two models on the same rows: how far apart they are, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prunella.data.metrics import metrics, paired_bootstrap
from prunella.errors import InputError


@dataclass(frozen=True)
class Answers:
    """What one model says of labelled rows.

    Attributes:
        model: Its name.
        names: Of its classes, in the order of their ids.
        gold: What is right, as `prunella.data.metrics` takes it, in this model's ids.
        values: What it says, likewise.
        metrics: How good that is.
        counts: What was odd about the rows, as this model reads them.
    """

    model: str
    names: Sequence[str]
    gold: Any
    values: Any
    metrics: dict[str, float]
    counts: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """Figures of two models on the same rows.

    Attributes:
        model, against: The two models.
        data: Where the rows are.
        kind: Of task.
        rows: How many.
        metrics, against_metrics: Of each model; classes in the order of the first one's.
        counts, against_counts: What was odd about the rows ("rows_cut"), as each model reads them.
        main: The metric that is compared.
        difference: Of the main metric: model - against.
        interval: Its percentile interval, from resamples that both models share.
        p_value: Two-sided, of no difference.
        level: Of the interval.
        differing: Rows on which the two say different things; None for scores, which always do.
        predictions: File that was written, if any.
    """

    model: str
    against: str
    data: str
    kind: str
    rows: int
    metrics: dict[str, float]
    against_metrics: dict[str, float]
    counts: dict[str, int]
    against_counts: dict[str, int]
    main: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    level: float
    differing: int | None
    predictions: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    kind: str,
    data: str,
    a: Answers,
    b: Answers,
    metric: str,
    *,
    resamples: int,
    seed: int,
    level: float,
    predictions: str | None,
) -> Comparison:
    """Compares two models by a metric.

    Raises:
        InputError: If they were asked about different rows or classes.
    """
    if kind == "token-classification" and not _common_tags(a, b):
        raise InputError(
            f"{a.model} and {b.model} know no tag in common ({', '.join(a.names)} and "
            f"{', '.join(b.names)}); compare models of one task"
        )
    values, against_metrics = _in_ids_of(a, b, kind)
    found = paired_bootstrap(
        kind,
        a.gold,
        a.values,
        values,
        metric,
        classes=len(a.names) or None,
        resamples=resamples,
        seed=seed,
        level=level,
    )
    differing = [not _equal(x, y) for x, y in zip(a.values, values, strict=True)]
    return Comparison(
        model=a.model,
        against=b.model,
        data=data,
        kind=kind,
        rows=len(a.gold),
        metrics=a.metrics,
        against_metrics=against_metrics,
        counts=a.counts,
        against_counts=b.counts,
        main=metric,
        difference=found["difference"],
        interval=(found["low"], found["high"]),
        p_value=found["p_value"],
        level=level,
        differing=None if kind == "regression" else sum(differing),
        predictions=predictions,
    )


def _in_ids_of(a: Answers, b: Answers, kind: str) -> tuple[Any, dict[str, float]]:
    """What b says and how good that is, in the ids of a.

    The same classes in another order are translated. Their metrics are then those of the order of
    a: f1 is that of one class, the second, which would be another one in the order of b.
    """
    turned = list(a.names) != list(b.names) and sorted(a.names) == sorted(b.names)
    if kind in ("classification", "multi-label") and turned:
        order = np.array([a.names.index(name) for name in b.names])
        places = np.argsort(order)
        gold, values = (
            order[x] if kind == "classification" else np.asarray(x)[:, places]
            for x in (b.gold, b.values)
        )
        if _equal(a.gold, gold):
            return values, b.metrics | metrics(kind, gold, values, classes=len(a.names))
    elif _equal(a.gold, b.gold):
        return b.values, b.metrics
    theirs = f" ({', '.join(a.names)} and {', '.join(b.names)})" if a.names != b.names else ""
    raise InputError(
        f"{a.model} and {b.model} read different labels from the same rows{theirs}: set the "
        "columns with --text, --pair and --label, or compare models of one task"
    )


def _common_tags(a: Answers, b: Answers) -> set[str]:
    return set(a.names) & set(b.names) - {"O"}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)
