"""Lottery ticket: iterative magnitude pruning with rewinding (Frankle & Carbin 2019).

arXiv 1803.03635, and 1903.01611 for rewinding to a later step than the first. Train, remove the
smallest remaining |w|, set everything that remains back to what it was, and repeat. Everything
means all parameters that train, not only the pruned matrices. The values to go back to are those at
--start; a round ends at each choice of masks, so few of them (--update-every 0.1) and a schedule of
the learning rate that rewinds suit it. The optimiser keeps its momentum. Memory: one copy of all
parameters that train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunella.sparsity.criterion import Criterion


class Lottery(Criterion):
    """s = |w|, and what remains goes back to its value at `start` while sparsity grows."""

    window = False
    returns = False
    update_every = 0.1

    def before_step(self, step: int) -> None:
        if step == self.context.schedule.start + 1:
            for name, parameter in self.context.model.named_parameters():
                if parameter.requires_grad:
                    self.state[name] = parameter.detach().clone()

    def score(self, name: str) -> Tensor:
        return self.masks.parameters[name].detach().abs()

    def remaining(self, name: str, keep: Tensor, step: int) -> Tensor | None:
        if step > self.context.schedule.growth_end or name not in self.state:
            return None
        return self.state[name].clone()

    @torch.no_grad()
    def after_choice(self, step: int) -> None:
        if step > self.context.schedule.growth_end:
            return
        for name, parameter in self.context.model.named_parameters():
            if name in self.state and name not in self.masks.parameters:
                parameter.copy_(self.state[name])


CRITERION = Lottery
