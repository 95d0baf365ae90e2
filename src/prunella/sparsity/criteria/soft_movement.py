"""Soft movement: movement under a pressure that falls on weak scores (Sanh et al. 2020).

arXiv 2005.07683, section 4.2: m = 1[sigmoid(S) > tau], and the loss has lambda * sum sigmoid(S).
The paper chooses tau and takes the sparsity that follows; here the schedule chooses the sparsity,
and tau follows, so that it is reached exactly. The paper's tau is one for all matrices: --scope
global. S descends by dL/dS over its root mean square in the matrix, cut to 1, so that `rate` does
not depend on the scale of the loss. In the paper all S begin equal, and thousands of steps pass
before anything goes (`head_start` 0 and a late --start); on a task of a thousand steps that removes
weights of any size, so S begins with the weights' ranks by size. One float32 a weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion
from prunella.sparsity.scale import first_scores, without_scale


class SoftMovement(Criterion):
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
        pressure: float = 0.1,
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
            self.state[name] = first_scores(weight, self.head_start * self.rate)
        chance = self.state[name].sigmoid()
        self.state[name] -= self.rate * (slope + self.pressure * chance * (1 - chance))

    def score(self, name: str) -> Tensor:
        return self.state[name]


CRITERION = SoftMovement
