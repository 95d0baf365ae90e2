"""One matrix, and a criterion on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunella.sparsity.criterion import Context, Criterion, load_criterion
from prunella.sparsity.masks import Masks
from prunella.sparsity.patterns import Blocks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.shares import Shares

NAME = "linear.weight"


class One(nn.Module):
    """A model of one matrix, with a bias."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.linear.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def shot(sparsity: float, at: int = 1) -> PruningSchedule:
    """One choice, after step `at`."""
    return PruningSchedule(0.0, sparsity, 0, at, at, at, at)


def context_of(weight: Any, schedule: PruningSchedule) -> Context:
    model = One(torch.as_tensor(weight))
    masks = Masks({NAME: model.linear.weight})
    return Context(model, masks, schedule, seed=0)


def criterion(name: str, weight: Any, **options: float) -> Criterion:
    return load_criterion(name, context_of(weight, shot(0.5)), options)


def pruning(name: str, weight: Any, schedule: PruningSchedule, **options: float) -> Pruning:
    context = context_of(weight, schedule)
    made = load_criterion(name, context, options)
    return Pruning(context, made, Shares(Blocks(1, 1), "uniform", {}), window=100)
