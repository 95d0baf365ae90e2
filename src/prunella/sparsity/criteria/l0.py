"""L0: gates that are open by chance, and cost when they may be (Louizos et al. 2018).

arXiv 1712.01312. A weight is w * z with a gate of the hard concrete distribution (equations 10 to
12): s = sigmoid((log u - log(1 - u) + log_alpha) / temperature) for u ~ U(0, 1), stretched to
z = clamp(1.2 s - 0.1, 0, 1). The loss has pressure * sum P(z > 0), where
P(z > 0) = sigmoid(log_alpha - temperature * log(0.1 / 1.1)). The score is log_alpha, and the
schedule chooses the sparsity, so that it is reached exactly. A step has one gate a weight, for all
of its micro-batches and processes. At the last choice of masks the gates end: each weight is
multiplied by its gate without chance, clamp(1.2 sigmoid(log_alpha) - 0.1), and trains on without.
log_alpha descends as the scores of soft movement, and begins around `start` in the order of the
weights' sizes; in the paper all begin equal. Memory: three float32 a weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion, pseudo_random
from prunella.sparsity.scale import first_scores, without_scale

_LOW, _HIGH = -0.1, 1.1
# A gate that is closed without chance would be a zero beyond the sparsity that was asked for.
_LEAST = 1e-3


class L0(Criterion):
    """s = log_alpha of the gate of each weight.

    Args:
        context: The run.
        rate: Learning rate of log_alpha.
        pressure: Weight of P(z > 0), per weight.
        temperature: Of the concrete distribution.
        start: log_alpha at first, in the middle; 2.2 opens gates by 90 %.
        head_start: First log_alpha of the largest weight less that of the smallest, in steps of
            `rate`.
    """

    gradients = True
    window = False

    def __init__(
        self,
        context: Context,
        rate: float = 0.02,
        pressure: float = 0.1,
        temperature: float = 2 / 3,
        start: float = 2.2,
        head_start: float = 100.0,
    ) -> None:
        super().__init__(context)
        if rate <= 0 or temperature <= 0 or pressure < 0 or head_start < 0:
            raise ValueError(
                "rate and temperature must be above 0, pressure and head_start not below"
            )
        self.rate, self.pressure, self.temperature = rate, pressure, temperature
        self.start, self.head_start = start, head_start
        self._open: dict[str, tuple[Tensor, Tensor]] = {}  # weights and gates within a step

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        if step > self.context.schedule.freeze:
            return
        for name, weight in self.masks.parameters.items():
            uniform = pseudo_random(weight.shape, self.context.seed, step, name).to(weight.device)
            gate = hard_concrete(self._log_alpha(name), uniform, self.temperature)
            self._open[name] = weight.detach().clone(), gate
            weight.mul_(gate)

    @torch.no_grad()
    def see_gradient(self, name: str, gradient: Tensor) -> None:
        weight, gate = self._open.pop(name)
        self.masks.parameters[name].copy_(weight)
        slope = gradient.float() * self.masks.dense(name).float() * _slope(gate, self.temperature)
        slope = without_scale(self.state, name, slope)
        log_alpha = self._log_alpha(name)
        chance = chance_open(log_alpha, self.temperature)
        self.state[name] = log_alpha - self.rate * (slope + self.pressure * chance * (1 - chance))
        gradient.mul_(gate)  # dL/dw

    def score(self, name: str) -> Tensor:
        return self.state[name]

    def remaining(self, name: str, keep: Tensor, step: int) -> Tensor | None:
        if step != self.context.schedule.freeze:
            return None
        gate = (self.state[name].sigmoid() * (_HIGH - _LOW) + _LOW).clamp_(_LEAST, 1)
        return self.masks.dense(name) * gate

    def _log_alpha(self, name: str) -> Tensor:
        if name not in self.state:
            weight = self.masks.dense(name).float()
            self.state[name] = first_scores(weight, self.head_start * self.rate) + self.start
        return self.state[name]


def hard_concrete(log_alpha: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Gates z in [0, 1] from u in [0, 1)."""
    concrete = ((uniform.logit(1e-6) + log_alpha) / temperature).sigmoid()
    return (concrete * (_HIGH - _LOW) + _LOW).clamp_(0, 1)


def chance_open(log_alpha: Tensor, temperature: float) -> Tensor:
    """P(z > 0)."""
    return (log_alpha - temperature * math.log(-_LOW / _HIGH)).sigmoid()


def _slope(gate: Tensor, temperature: float) -> Tensor:
    """dz / dlog_alpha; 0 where the gate is clamped."""
    concrete = (gate - _LOW) / (_HIGH - _LOW)
    inside = (gate > 0) & (gate < 1)
    return inside * concrete * (1 - concrete) * ((_HIGH - _LOW) / temperature)


CRITERION = L0
