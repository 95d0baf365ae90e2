"""Static model pruning: scores learn straight through, pulled down together (Jiao et al. 2022).

arXiv 2210.06210, section 3: m = top-k(S), dL/dS = dL/dm, and the loss has lambda * mean sigmoid(S).
The paper freezes the weights, which `prunella mask --method smp` does, with its way of sharing
weights among layers and Adam for S; here the weights train on, and S takes the steps of soft
movement. One float32 a weight.
"""

from __future__ import annotations

from prunella.sparsity.criteria.soft_movement import SoftMovement
from prunella.sparsity.criterion import Context


class Smp(SoftMovement):
    """The steps of soft movement, by default without its pressure.

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
        super().__init__(context, rate, pressure, head_start)


CRITERION = Smp
