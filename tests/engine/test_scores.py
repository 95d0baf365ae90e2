"""Scores from logits, and the best of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.engine import scores
from prunella.engine.scores import best, sigmoid, softmax


def test_softmax_and_sigmoid_never_overflow() -> None:
    logits = np.array([[1e4, -1e4, 1e4], [0, 1, 2]], np.float32)
    found = softmax(logits)
    np.testing.assert_allclose(found[0], [0.5, 0, 0.5])
    np.testing.assert_allclose(found[1], np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())
    np.testing.assert_allclose(sigmoid(logits[0]), [1, 0, 1])
    np.testing.assert_allclose(sigmoid(logits[1]), 1 / (1 + np.exp([0.0, -1, -2])))


@given(st.lists(st.integers(-5, 5), min_size=1), st.none() | st.integers(1, 8), st.booleans())
def test_best(values: list[int], count: int | None, few: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_FEW", 256 if few else 0)
        found = best(np.array(values, np.float64), count)
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert found.tolist() == ranked[:count]


def test_best_takes_minus_infinity_last() -> None:
    values = np.array([-np.inf, 1.0, -np.inf, 2.0])
    assert best(values, 3).tolist() == [3, 1, 0]
