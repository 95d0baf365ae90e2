"""Static model pruning: scores learn straight through, pulled down together (Jiao et al. 2022).

arXiv 2210.06210, section 3: m = top-k(S), dL/dS = dL/dm, and the loss has lambda * mean sigmoid(S).
The paper freezes the weights, which `prunella mask --method smp` does, with its way of sharing
weights among layers and Adam for S; here the weights train on. S descends by dL/dS over its root
mean square in the matrix, and begins with the weights' ranks by size, `head_start` steps from the
least to the largest. One float32 a weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion
from prunella.sparsity.scale import ranks, without_scale


class Smp(Criterion):
    """S <- S - rate * (w * dL/d(w * m) / rms + pressure * sigmoid'(S)), over all steps.

    Args:
        context: The run.
        rate: Learning rate of S.
        pressure: lambda, per weight.
        head_start: First score of the largest weight less that of the smallest, in steps of `rate`.
    """

    gradients = True
    window = False

    def __init__(
        self,
        context: Context,
        rate: float = 0.02,
        pressure: float = 0.0,
        head_start: float = 100.0,
    ) -> None:
        super().__init__(context)
        if rate <= 0 or pressure < 0 or head_start < 0:
            raise ValueError("rate must be above 0, pressure and head_start not below")
        self.rate, self.pressure, self.head_start = rate, pressure, head_start

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        weight = self.masks.dense(name).float()
        slope = without_scale(self.state, name, gradient.float() * weight)
        if name not in self.state:
            self.state[name] = (ranks(weight.abs()) - 0.5) * (self.head_start * self.rate)
        if self.pressure:
            chance = self.state[name].sigmoid()
            slope = slope + self.pressure * chance * (1 - chance)
        self.state[name] -= self.rate * slope

    def score(self, name: str) -> Tensor:
        return self.state[name]


CRITERION = Smp
