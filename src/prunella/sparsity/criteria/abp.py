"""Adapting by pruning: scores learn through a sigmoid around the threshold (Gao et al. 2021).

arXiv 2105.03343: m = 1[theta > 0] forwards, dL/dtheta = dL/dm * t_s * sigmoid'(t_s * theta)
backwards, so that weights near the threshold learn fastest. The paper freezes the weights, which
`prunella mask --method abp` does, and drives theta down by a constant drift; here the weights train
on and the schedule says the sparsity, so theta is S less the lowest score that is kept. S descends
by its gradient over the root mean square of dL/dm in the matrix, cut to 1, and begins with the
weights' ranks by size, `head_start` steps from the least to the largest. The paper's threshold is
one for all matrices: --scope global. While all S lie within +-1 of it, sigmoid' hardly varies (0.25
to 0.20): `steepness` 1 is close to SMP, above 3 it is not. One float32 a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion
from prunella.sparsity.scale import first_scores, without_scale


class Abp(Criterion):
    """S <- S - rate * (w * dL/d(w * m) / rms) * 4 * sigmoid'(steepness * (S - threshold)).

    The factor 4 makes `rate` that of a weight at the threshold.

    Args:
        context: The run.
        rate: Learning rate of S.
        steepness: t_s.
        head_start: First score of the largest weight less that of the smallest, in steps of `rate`.
    """

    gradients = True
    window = False

    def __init__(
        self,
        context: Context,
        rate: float = 0.02,
        steepness: float = 1.0,
        head_start: float = 100.0,
    ) -> None:
        super().__init__(context)
        if rate <= 0 or steepness <= 0 or head_start < 0:
            raise ValueError("rate and steepness must be above 0, head_start not below")
        self.rate, self.steepness, self.head_start = rate, steepness, head_start

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        weight = self.masks.dense(name).float()
        slope = without_scale(self.state, name, gradient.float() * weight)
        if name not in self.state:
            self.state[name] = first_scores(weight, self.head_start * self.rate)
            self.state[f"{name}|threshold"] = self.state[name].amin()  # nothing is removed yet
        soft = self.state[name].sub(self.state[f"{name}|threshold"]).mul_(self.steepness).sigmoid_()
        self.state[name] -= 4 * self.rate * slope * soft * (1 - soft)

    def score(self, name: str) -> Tensor:
        return self.state[name]

    def after_choice(self, step: int) -> None:
        for name in self.masks.parameters:
            scores, kept = self.state[name], self.masks.kept(name)
            lowest = scores.masked_fill(~kept, torch.inf).amin()
            if lowest.isfinite():
                self.state[f"{name}|threshold"] = lowest


CRITERION = Abp
