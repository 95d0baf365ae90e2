"""Gradual pruning: schedule, score and selection joined, called once after every step."""

from __future__ import annotations

import torch
import torch.distributed as dist

from prunella.errors import InputError
from prunella.settings import PruningSettings
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.scores import SCORES
from prunella.sparsity.selection import select


def resolve_schedule(settings: PruningSettings, steps: int, current: float) -> PruningSchedule:
    """Turns the settings into steps of a run of `steps`.

    Args:
        settings: Shares of the run or steps, as the user gave them.
        steps: Optimiser steps of the whole run.
        current: The sparsity that the model has before the run.

    Raises:
        InputError: If a window ends after training does, windows are out of order, or the model
            is sparser already than asked for.
    """
    start, growth_end, freeze = (
        round(value * steps) if value <= 1 else round(value)
        for value in (settings.start, settings.growth_end, settings.freeze)
    )
    every = settings.update_every
    interval = max(1, round(every * steps) if every < 1 else round(every))
    initial = current if settings.initial_sparsity is None else settings.initial_sparsity
    growth_end = max(growth_end, 1)
    if max(growth_end, freeze) > steps:
        raise InputError(
            f"the pruning schedule ends after training does: growth_end is step {growth_end} and "
            f"freeze step {freeze}, but there are {steps} steps; raise --steps or lower them"
        )
    if not start < growth_end <= freeze:
        raise InputError(
            f"the pruning windows are out of order: start {start}, growth_end {growth_end}, freeze "
            f"{freeze} (steps); they must rise in this order"
        )
    if initial > settings.sparsity:
        raise InputError(
            f"sparsity {settings.sparsity:g} is below the {initial:.3f} that the model starts "
            "from; pruning only removes weights: raise --sparsity or start from a denser model"
        )
    return PruningSchedule(initial, settings.sparsity, start, growth_end, freeze, steps, interval)


class GradualPruning:
    """Chooses masks anew when the schedule says so; the same on every process."""

    def __init__(self, masks: Masks, schedule: PruningSchedule, score: str, scope: str) -> None:
        self.masks, self.schedule, self.scope = masks, schedule, scope
        self.score = SCORES[score]

    def __call__(self, step: int) -> None:
        if not self.schedule.updates_at(step):
            return
        scores = {name: self.score(self.masks.dense(name)) for name in self.masks.codes}
        keep = select(scores, self.schedule.sparsity(step), self.scope)
        for mask in keep.values():
            _broadcast(mask)
        self.masks.move(keep)


def _broadcast(mask: torch.Tensor) -> None:
    """Every process takes the first one's mask, so that a differing last bit cannot split them."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        as_bytes = mask.view(torch.uint8)
        dist.broadcast(as_bytes, src=0)
