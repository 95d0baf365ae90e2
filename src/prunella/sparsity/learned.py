"""Masks that learn while the weights stay as they are: a score for each weight says if it is kept.

A parameter holds w0 * m in place, under its ordinary name, so after the backward pass its gradient
is dL/d(w0 * m), for removed weights as well, and dL/dm = gradient * w0. The step that makes m of a
score has no derivative; instead of it stands 1 (straight-through: SMP, Zhao) or that of a sigmoid
(ABP). No function of autograd is replaced, and no weight gets another name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunella.sparsity.scale import first_scores

# The score of a weight that must not be kept; finite, as the optimiser multiplies it by 0.
NEVER = -1e30


@dataclass(frozen=True)
class Method:
    """How scores begin and learn.

    Attributes:
        rate: Learning rate of the scores, at its peak.
        initial: Mean of the first scores.
        spread: Their standard deviation.
        steepness: t_s of a sigmoid whose derivative stands for the step's; None stands for 1.
        regularizer: Weight of the mean of sigmoid(scores) in the loss.
        scope: Who shares the kept weights: "global" all matrices, "role" the layers' matrices of
            one role, "uniform" nobody.
        threshold: A fixed one, instead of the highest scores.
        head_start: How many steps at `rate` the first score of a matrix's largest weight lies above
            that of its smallest.
    """

    rate: float
    initial: float = 0.0
    spread: float = 0.0
    steepness: float | None = None
    regularizer: float = 0.0
    scope: Literal["uniform", "role", "global"] = "uniform"
    threshold: float | None = None
    head_start: float = 0.0


# Without it the first removals fall on weights of any size, before the scores have learned much,
# and the model hardly recovers from them.
_HEAD_START = 100.0

METHODS: Mapping[str, Method] = {
    # arXiv 2210.06210: top-k, identity, the layers share by mean sigmoid(S).
    "smp": Method(rate=2e-2, regularizer=400.0, scope="role", head_start=_HEAD_START),
    # arXiv 2105.03343: the derivative of a sigmoid at t_s = 1. Published are a rate of 2e-5, one
    # threshold for all and no regulariser; with Adam that removes weights whatever they matter. The
    # regulariser is a quarter of SMP's, as the sigmoid's derivative makes gradients a quarter.
    "abp": Method(
        rate=2e-2,
        initial=0.01,
        spread=0.001,
        steepness=1.0,
        regularizer=100.0,
        scope="role",
        head_start=_HEAD_START,
    ),
    # arXiv 2004.12406: a threshold that stays, identity.
    "zhao": Method(rate=2e-4, initial=0.01, spread=0.001, threshold=0.005),
}


class LearnedMasks:
    """Scores over a fixed set of parameters, and the masks made of them.

    A kept weight is one that is not zero: weights that were zero before are never kept.

    Args:
        parameters: The weights by parameter name; they are masked in place.
        method: How the scores begin and learn.
        seed: Of the first scores.
        recovery: Whether a removed weight may come back.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        method: Method,
        seed: int,
        recovery: bool = True,
    ) -> None:
        self.parameters = dict(parameters)
        self.method, self.recovery = method, recovery
        self.learning = True
        self.weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.thresholds = dict.fromkeys(self.parameters, -inf)
        self.left = {
            name: torch.zeros_like(w, dtype=torch.bool) for name, w in self.weights.items()
        }
        generator = torch.Generator().manual_seed(seed)
        self.scores = {
            name: nn.Parameter(_first_scores(weight, method, generator))
            for name, weight in self.weights.items()
        }

    def kept(self, name: str) -> Tensor:
        """Boolean tensor of the parameter's shape, True where the weight is kept."""
        return self.parameters[name].detach() != 0

    def counts(self) -> dict[str, tuple[int, int]]:
        """(kept weights, all weights) of each matrix."""
        return {
            name: (int(p.detach().count_nonzero()), p.numel())
            for name, p in self.parameters.items()
        }

    def total_sparsity(self) -> float:
        """Share of removed weights over all matrices."""
        counts = self.counts().values()
        total = sum(n for _, n in counts)
        return 1 - sum(kept for kept, _ in counts) / total if total else 0.0

    def recovered(self) -> float:
        """Share of the kept weights that were removed at some time, and came back."""
        kept = sum(found for found, _ in self.counts().values())
        back = sum(int((self.left[name] & self.kept(name)).sum()) for name in self.parameters)
        return back / kept if kept else 0.0

    def optimizer(self, others: Sequence[nn.Parameter], rate: float, decay: float) -> Any:
        """AdamW over the scores, and over other parameters at a rate and decay of their own.

        Before its step it takes the scores' gradients from those of the weights.
        """
        for name, parameter in self.parameters.items():  # a trainer moves the model late
            self.weights[name] = self.weights[name].to(parameter.device)
            self.left[name] = self.left[name].to(parameter.device)
            self.scores[name].data = self.scores[name].data.to(parameter.device)
        found = torch.optim.AdamW(
            [  # a trainer logs the rate of the first
                {"params": list(others), "lr": rate, "weight_decay": decay},
                {"params": list(self.scores.values()), "lr": self.method.rate, "weight_decay": 0.0},
            ],
            fused=True,
        )
        found.register_step_pre_hook(lambda *_: self.take_gradients())
        return found

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Makes the scores' gradients of the weights', in the memory of these."""
        total = sum(p.numel() for p in self.parameters.values())
        for name, parameter in self.parameters.items():
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and self.learning:
                gradient.mul_(self.weights[name])
                self._shape(gradient, name, total)
            self.scores[name].grad = gradient if self.learning else None

    def _shape(self, gradient: Tensor, name: str, total: int) -> None:
        """dL/dm -> dL/dS, in place."""
        scores, method = self.scores[name].detach(), self.method
        if method.steepness is not None:
            threshold = self.thresholds[name]
            centre = threshold if threshold > NEVER / 2 else 0.0  # nothing is removed yet
            soft = scores.sub(centre).mul_(method.steepness).sigmoid_()
            gradient.mul_(_slope(soft)).mul_(method.steepness)
        if method.regularizer:
            gradient.add_(_slope(scores.sigmoid()), alpha=method.regularizer / total)

    @torch.no_grad()
    def choose(self, keep: Mapping[str, Tensor]) -> None:
        """Takes new masks; the lowest score kept becomes the threshold."""
        for name, kept in keep.items():
            scores = self.scores[name].detach()
            lowest = scores.masked_fill(~kept, inf).amin()
            self.thresholds[name] = lowest.item()
            if not self.recovery:
                scores.masked_fill_(~kept, NEVER)
            weight = self.weights[name]
            self.left[name] |= ~kept
            torch.where(kept, weight, weight.new_zeros(()), out=self.parameters[name].data)

    def cut(self, threshold: float) -> None:
        """Keeps what has a score of at least `threshold`."""
        self.choose({name: s.detach() >= threshold for name, s in self.scores.items()})
        self.thresholds = dict.fromkeys(self.parameters, threshold)

    def zero_gradients(self) -> None:
        """Nothing: what is removed learns too."""

    def zero_weights(self) -> None:
        """Nothing: the optimiser does not touch the weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """Scores, thresholds and what was ever removed; the masks are in the weights."""
        thresholds = {
            f"{name}|threshold": torch.tensor(value, dtype=torch.float64)
            for name, value in self.thresholds.items()
        }
        left = {f"{name}|left": left for name, left in self.left.items()}
        return {name: scores.detach() for name, scores in self.scores.items()} | thresholds | left

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, scores in self.scores.items():
            scores.data.copy_(state[name])
            self.thresholds[name] = state[f"{name}|threshold"].item()
            self.left[name].copy_(state[f"{name}|left"])


def _first_scores(weight: Tensor, method: Method, generator: torch.Generator) -> Tensor:
    scores = torch.full(weight.shape, method.initial)
    if method.spread:
        scores.normal_(method.initial, method.spread, generator=generator)
    if method.head_start:
        scores += first_scores(weight.cpu(), method.head_start * method.rate)
    return scores.to(weight.device).masked_fill_(weight == 0, NEVER)


def _slope(sigmoid: Tensor) -> Tensor:
    """The derivative of a sigmoid from its value."""
    return torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1)
