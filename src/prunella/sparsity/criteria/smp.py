"""Static model pruning: scores learn straight through, pulled down together (Jiao et al. 2022).

arXiv 2210.06210, section 3: m = top-k(S), dL/dS = dL/dm, and the loss has lambda * mean sigmoid(S).
The paper freezes the weights, which `prunella mask --method smp` does, with its way of sharing
weights among layers and Adam for S; here the weights train on. S descends by dL/dS over its root
mean square in the matrix, and begins with the weights' ranks by size, `head_start` steps from the
least to the largest. One float32 a weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criteria.soft_movement import SoftMovement
from prunella.sparsity.criterion import Context
from prunella.sparsity.scale import ranks


class Smp(SoftMovement):
    """The steps of soft movement, from first scores by the size of weights.

    Args:
        context: The run.
        rate: Learning rate of S.
        pressure: lambda, per weight.
        head_start: First score of the largest weight less that of the smallest, in steps of `rate`.
    """

    def __init__(
        self,
        context: Context,
        rate: float = 0.02,
        pressure: float = 0.0,
        head_start: float = 100.0,
    ) -> None:
        super().__init__(context, rate, pressure)
        if head_start < 0:
            raise ValueError("head_start must not be below 0")
        self.head_start = head_start

    def first_scores(self, name: str) -> Tensor:
        weight = self.masks.dense(name).float()
        return (ranks(weight.abs()) - 0.5) * (self.head_start * self.rate)


CRITERION = Smp
