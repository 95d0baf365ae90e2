"""Metrics against hand calculation, scikit-learn and scipy; intervals against theory."""

import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from prunella.data.metrics import (
    bootstrap,
    main_metric,
    metric_names,
    metrics,
    paired_bootstrap,
)
from prunella.data.scoring.classes import classification
from prunella.data.scoring.numbers import regression
from prunella.errors import InputError


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_binary_by_hand() -> None:
    # 2 true positives, 1 false positive, 1 false negative, 1 true negative
    values = metrics("classification", ints(1, 1, 1, 0, 0), ints(1, 1, 0, 1, 0))
    assert values == pytest.approx({"accuracy": 3 / 5, "f1": 4 / 6, "matthews": 1 / 6})


def test_f1_is_macro_by_the_classes_of_the_head_not_by_those_that_occur() -> None:
    gold, two, three = ints(0, 0, 1, 1), ints(0, 1, 1, 1), ints(0, 2, 1, 1)
    assert metrics("classification", gold, two, classes=2)["f1"] == pytest.approx(4 / 5)
    macro = (2 / 3 + 4 / 5) / 2
    assert metrics("classification", gold, two, classes=3)["f1"] == pytest.approx(macro)
    other = metrics("classification", gold, three, classes=3)["f1"]
    assert other == pytest.approx((2 / 3 + 1 + 0) / 3)
    apart = paired_bootstrap("classification", gold, two, three, "f1", classes=3, resamples=20)
    assert apart["difference"] == pytest.approx(macro - other)


def test_three_classes_by_hand() -> None:
    # f1: class 0: 2/3, class 1: 2/3, class 2: 1
    values = metrics("classification", ints(0, 0, 1, 2), ints(0, 1, 1, 2))
    assert values["f1"] == pytest.approx(7 / 9)
    assert values["accuracy"] == 0.75


def test_regression_by_hand() -> None:
    # ranks 1 2 3 against 1 3 2: rho = 1 - 6 * 2 / (3 * 8)
    values = metrics("regression", floats(1, 2, 3), floats(0, 2, 1))
    assert values == pytest.approx({"pearson": 0.5, "spearman": 0.5, "mse": 5 / 3})


def test_log_loss_by_hand() -> None:
    logits = np.array([[0, 0], [np.log(3), 0], [1000, 0]])
    values = metrics("classification", ints(0, 1, 0), ints(0, 0, 0), logits=logits)
    assert values["log_loss"] == pytest.approx((np.log(2) + np.log(4)) / 3)


def test_log_loss_of_choices() -> None:
    logits = np.array([[0, 0, -np.inf], [0, 0, 0]])  # the first question has two choices alone
    values = metrics("multiple-choice", ints(1, 2), ints(0, 2), logits)
    assert values == pytest.approx({"accuracy": 0.5, "log_loss": (np.log(2) + np.log(3)) / 2})


def test_constants_are_zero_and_silent() -> None:
    zeros, ones, both = ints(0, 0, 0, 0), ints(1, 1, 1, 1), ints(0, 1, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics("classification", both, zeros) == {"accuracy": 0.5, "f1": 0, "matthews": 0}
        assert metrics("classification", zeros, zeros) == {"accuracy": 1, "f1": 0, "matthews": 0}
        assert metrics("classification", ones, ones) == {"accuracy": 1, "f1": 1, "matthews": 0}
        assert metrics("classification", zeros, ones) == {"accuracy": 0, "f1": 0, "matthews": 0}
        flat, nearly = np.full(4, 0.1), 0.1 + 1e-16 * np.arange(4)
        for predictions in (flat, nearly, flat.astype(np.float32)):
            for a, b in ((both / 3, predictions), (predictions, both / 3)):
                values = metrics("regression", a, b)
                assert (values["pearson"], values["spearman"]) == (0, 0)
                for name in ("pearson", "spearman"):
                    assert bootstrap("regression", a, b, name, resamples=50) == (0, 0)
        one = metrics("regression", floats(2), floats(3))
        assert one == {"pearson": 0, "spearman": 0, "mse": 1}


def test_main_metrics() -> None:
    assert main_metric("classification", 2) == "accuracy"
    assert main_metric("regression", 1) == "spearman"
    assert main_metric("multi-label") == main_metric("token-classification") == "f1"
    assert main_metric("question-answering") == "f1"
    assert main_metric("multiple-choice") == "accuracy"
    with pytest.raises(ValueError, match=r"unknown kind.*'tagging'"):
        main_metric("tagging", 5)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="no examples"):
        metrics("regression", floats(), floats())
    with pytest.raises(InputError, match="2 of 3 predictions are not finite"):
        metrics("regression", floats(1, 2, 3), floats(np.nan, np.inf, 3))
    with pytest.raises(ValueError, match=r"labels \(2,\) and predictions \(1,\)"):
        metrics("classification", ints(1, 2), ints(1))
    with pytest.raises(ValueError, match="regression has no metric 'accuracy'; known: pearson"):
        bootstrap("regression", floats(1, 2), floats(1, 2), "accuracy")


def _as_drawn(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.repeat(values, counts.astype(int))


@given(st.data(), st.integers(1, 4))
@settings(max_examples=60)
def test_resampled_classification_equals_scikit_learn(data: st.DataObject, top: int) -> None:
    n = data.draw(st.integers(2, 25))
    some = st.lists(st.integers(0, top), min_size=n, max_size=n)
    labels, predictions = ints(*data.draw(some)), ints(*data.draw(some))
    counts = np.random.default_rng(n).integers(0, 3, size=(4, n)).astype(float)
    counts[:, 0] += 1  # no empty resample
    binary = max(labels.max(), predictions.max()) <= 1
    results = {name: of(counts) for name, of in classification(labels, predictions).items()}
    for row, count in enumerate(counts):
        y, p = _as_drawn(labels, count), _as_drawn(predictions, count)
        f1 = f1_score(y, p, average="binary" if binary else "macro", zero_division=0)  # pyright: ignore[reportArgumentType]
        assert results["accuracy"][row] == pytest.approx(accuracy_score(y, p))
        assert results["f1"][row] == pytest.approx(f1)
        if len(np.union1d(y, p)) > 1:
            assert results["matthews"][row] == pytest.approx(matthews_corrcoef(y, p))
        else:
            assert results["matthews"][row] == 0


@given(st.data(), st.sampled_from([0, 1, 6]))
@settings(max_examples=60)
def test_resampled_regression_equals_scipy(data: st.DataObject, digits: int) -> None:
    n = data.draw(st.integers(3, 25))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=n).round(digits)
    predictions = (labels + rng.normal(size=n)).round(digits)  # few digits: many ties
    counts = rng.integers(0, 3, size=(4, n)).astype(float)
    counts = counts[counts.sum(axis=1) > 0]
    # Every resample has the same size in a bootstrap; the correlations rely on no such thing.
    assume(len(counts))
    for name, reference in (("pearson", pearsonr), ("spearman", spearmanr)):
        values = regression(labels, predictions)[name](counts)
        for value, count in zip(values, counts, strict=True):
            y, p = _as_drawn(labels, count), _as_drawn(predictions, count)
            if np.ptp(y) == 0 or np.ptp(p) == 0:
                assert value == 0
            else:
                assert value == pytest.approx(reference(y, p)[0])


def test_accuracy_interval_agrees_with_the_binomial() -> None:
    labels = np.zeros(1000, dtype=int)
    predictions = (np.arange(1000) < 100).astype(int)  # 90 % right
    low, high = bootstrap("classification", labels, predictions, "accuracy", resamples=4000)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.002)
    assert high == pytest.approx(0.9 + half, abs=0.002)
    narrow = bootstrap("classification", labels, predictions, "accuracy", level=0.5)
    assert low < narrow[0] < 0.9 < narrow[1] < high


@pytest.mark.parametrize("metric", ["pearson", "spearman", "mse"])
def test_intervals_are_reproducible_and_hold_the_value(metric: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=300).astype(np.float32)
    predictions = labels + rng.normal(size=300).astype(np.float32)
    first = bootstrap("regression", labels, predictions, metric, seed=1)
    assert first == bootstrap("regression", labels, predictions, metric, seed=1)
    assert first != bootstrap("regression", labels, predictions, metric, seed=2)
    assert first[0] < metrics("regression", labels, predictions)[metric] < first[1]


def test_the_same_model_twice_does_not_differ() -> None:
    labels, predictions = ints(0, 1, 0, 1, 1), ints(0, 1, 1, 1, 0)
    result = paired_bootstrap("classification", labels, predictions, predictions, "accuracy")
    assert result == {"difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_pairing_sees_what_separate_intervals_hide() -> None:
    labels = np.zeros(1000, dtype=int)
    worse = (np.arange(1000) < 110).astype(int)
    better = (np.arange(1000) < 100).astype(int)  # right wherever `worse` is, and on 10 more
    result = paired_bootstrap("classification", labels, better, worse, "accuracy")
    assert result["difference"] == pytest.approx(0.01)
    # Only 10 examples disagree: the difference is Poisson of mean 10, over 1000.
    assert result["low"] == pytest.approx(0.004, abs=0.0015)
    assert result["high"] == pytest.approx(0.017, abs=0.0015)
    assert result["p_value"] == pytest.approx(2 / 1001)
    alone = bootstrap("classification", labels, better, "accuracy")
    assert alone[0] < 0.89 < alone[1]
    reverse = paired_bootstrap("classification", labels, worse, better, "accuracy")
    assert reverse["high"] == pytest.approx(-result["low"])


def _examples(kind: str, n: int) -> tuple[Any, Any, Any]:
    """Gold, and the predictions of a better and of a worse model."""
    rng = np.random.default_rng(2)
    right, wrong = _right_and_wrong(kind, n, rng)
    good, bad = (
        [r if drawn < share else w for r, w, drawn in zip(right, wrong, rng.random(n), strict=True)]
        for share in (0.9, 0.6)
    )
    gold = [["the blue dog", "dog"], []] * (n // 2) if kind == "question-answering" else right
    return gold, good, bad


def _right_and_wrong(kind: str, n: int, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    if kind == "token-classification":
        return [["B-X", "I-X", "O"], ["O", "B-Y"]] * (n // 2), [
            ["B-X", "O", "O"],
            ["O", "B-X"],
        ] * (n // 2)
    if kind == "question-answering":
        return ["blue dog", ""] * (n // 2), ["blue cat", "dog"] * (n // 2)
    ids = rng.integers(4, size=(n, 4)) // 2 if kind == "multi-label" else rng.integers(4, size=n)
    return list(ids), list(1 - ids if kind == "multi-label" else (ids + 1) % 4)


EVERY_KIND = ["multi-label", "token-classification", "question-answering", "multiple-choice"]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_intervals_of_every_metric_of_every_kind(kind: str) -> None:
    gold, good, bad = _examples(kind, 300)
    assert main_metric(kind) in metrics(kind, gold, good)
    assert metric_names(kind, gold) == list(metrics(kind, gold, good))
    for name, value in metrics(kind, gold, good).items():
        low, high = bootstrap(kind, gold, good, name, resamples=200)
        assert low < value < high, name
        compared = paired_bootstrap(kind, gold, good, bad, name, resamples=200)
        assert compared["difference"] == pytest.approx(value - metrics(kind, gold, bad)[name])
        assert compared["low"] > 0, name


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_ten_thousand_examples_take_about_a_second(kind: str) -> None:
    gold, good, _ = _examples(kind, 10_000)
    begun = time.process_time()
    bootstrap(kind, gold, good, main_metric(kind))
    assert time.process_time() - begun < 5  # half a second alone on a core; tests run beside others


def test_chance_differences_are_called_so_as_often_as_promised() -> None:
    """Two models of equal quality: p < 0.1 must come up in about one comparison of ten."""
    rng = np.random.default_rng(5)
    labels = np.zeros(200, dtype=int)
    p_values = [
        paired_bootstrap(
            "classification",
            labels,
            (rng.random(200) < 0.3).astype(int),
            (rng.random(200) < 0.3).astype(int),
            "accuracy",
            resamples=200,
        )["p_value"]
        for _ in range(200)
    ]
    assert 0.04 < np.mean(np.array(p_values) < 0.1) < 0.17
