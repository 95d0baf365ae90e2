"""Soft movement: movement under a pressure that falls on weak scores (Sanh et al. 2020).

arXiv 2005.07683, section 4.2: m = 1[sigmoid(S) > tau], and the loss has lambda * sum sigmoid(S).
The paper chooses tau and takes the sparsity that follows; here the schedule chooses the sparsity,
and tau follows, so that it is reached exactly. The paper's tau is one for all matrices: --scope
global. S descends by dL/dS over its root mean square in the matrix, so that `rate` does not depend
on the scale of the loss. One float32 a weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion
from prunella.sparsity.scale import without_scale


class SoftMovement(Criterion):
    """S <- S - rate * (w * dL/d(w * m) / rms + pressure * sigmoid'(S)), over all steps.

    Args:
        context: The run.
        rate: Learning rate of S.
        pressure: lambda, per weight.
    """

    gradients = True
    window = False

    def __init__(self, context: Context, rate: float = 0.05, pressure: float = 0.1) -> None:
        super().__init__(context)
        if rate <= 0 or pressure < 0:
            raise ValueError("rate must be above 0, pressure not below")
        self.rate, self.pressure = rate, pressure

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        slope = gradient.float() * self.masks.dense(name).float()
        slope = without_scale(self.state, name, slope)
        if name not in self.state:
            self.state[name] = self.first_scores(name)
        chance = self.state[name].sigmoid()
        self.state[name] -= self.rate * (slope + self.pressure * chance * (1 - chance))

    def first_scores(self, name: str) -> Tensor:
        """S before the first step, [out, in]."""
        return self.masks.dense(name).float().zero_()

    def score(self, name: str) -> Tensor:
        return self.state[name]


CRITERION = SoftMovement
