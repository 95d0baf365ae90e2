"""Scores from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
_FEW = 256  # sorting all of so few is faster than looking for the best first


def softmax(logits: NDArray[np.floating]) -> Doubles:
    """Probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray[np.floating]) -> Doubles:
    """Each by itself, in float64."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))  # never overflows


def best(scores: NDArray[np.floating], count: int | None) -> NDArray[np.intp]:
    """Indices of the `count` highest scores [n], highest first; equal ones in their order."""
    if count is None or len(scores) <= max(count, _FEW):
        return np.argsort(-scores, kind="stable")[:count]
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    chosen = np.flatnonzero(scores >= threshold)
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count]
