"""What is least important: a score for every weight, the lowest go first.

A criterion is one function in `SCORES`; a new one is one small entry.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Score = Callable[[Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """|w| (gradual magnitude pruning, Zhu & Gupta 2017)."""
    return weight.abs()


SCORES: dict[str, Score] = {"magnitude": magnitude}
