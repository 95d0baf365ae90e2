"""When learned masks are chosen anew, and how many weights each matrix keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from prunella.roles import role_of
from prunella.sparsity.learned import NEVER, LearnedMasks
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.selection import keep_count, select, top_k_mask


class _Learning:
    """What a training loop asks of an update, where the optimiser's step does all the learning."""

    masks: LearnedMasks

    def before_step(self, step: int) -> None: ...
    def before_forward(self, inputs: Mapping[str, Tensor]) -> None: ...
    def after_backward(self, step: int) -> None: ...

    def state_dict(self) -> dict[str, Tensor]:
        return {"learning": torch.tensor(self.masks.learning)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.masks.learning = bool(state.get("learning", True))


class ScheduledMasks(_Learning):
    """Keeps the highest scores, as many as the schedule says; the same on every process."""

    def __init__(self, masks: LearnedMasks, schedule: PruningSchedule) -> None:
        self.masks, self.schedule = masks, schedule

    def __call__(self, step: int) -> None:
        masks = self.masks
        if self.schedule.updates_at(step):
            scores = {name: s.detach() for name, s in masks.scores.items()}
            kept = 1 - self.schedule.sparsity(step)
            masks.choose(choose_highest(scores, masks.weights, kept, masks.method.scope))
        masks.learning = step < self.schedule.freeze


class DriftingMasks(_Learning):
    """Keeps what is above a threshold that rises by `drift` a step, until `kept` is reached.

    theta <- theta - alpha dtheta - gamma, mask = theta > 0 (arXiv 2105.03343): gamma is the same
    for all, so a threshold of gamma * steps does the same, and is not lost in the rounding of
    scores. Without drift it stays where it is (arXiv 2004.12406).

    Args:
        masks: What it moves.
        start: The threshold before the first step.
        drift: gamma; 0 leaves the threshold where it is.
        kept: Share of the weights at which masks stop, exactly; None never stops.
        every: Steps between choices.
    """

    def __init__(
        self, masks: LearnedMasks, start: float, drift: float, kept: float | None, every: int
    ) -> None:
        self.masks, self.start, self.drift, self.kept, self.every = masks, start, drift, kept, every

    def __call__(self, step: int) -> None:
        if self.kept is not None and self.masks.total_sparsity() >= 1 - self.kept:
            self.masks.learning = False
        elif step % self.every == 0:
            threshold = self.start + self.drift * step
            if self.kept is not None and self._left(threshold) < self.kept:
                scores = {name: s.detach() for name, s in self.masks.scores.items()}
                self.masks.choose(choose_highest(scores, self.masks.weights, self.kept, "global"))
                self.masks.learning = False  # a share may be rounded down: ask no more
            else:
                self.masks.cut(threshold)

    def _left(self, threshold: float) -> float:
        """The share that a threshold would leave."""
        scores = self.masks.scores.values()
        left = sum(int((s.detach() >= threshold).sum()) for s in scores)
        return left / sum(s.numel() for s in scores)


def choose_highest(
    scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], kept: float, scope: str
) -> dict[str, Tensor]:
    """Which weights to keep: a share `kept` of all, with the highest scores.

    Args:
        scores: Of each matrix.
        weights: Of the backbone; its zeros are never kept.
        kept: Share of all weights to keep.
        scope: See `Method.scope`.
    """
    if scope == "global":
        return select(scores, 1 - kept, "global")
    groups: dict[str, list[str]] = {}
    for name in scores:
        groups.setdefault((scope == "role" and role_of(name)) or name, []).append(name)
    found: dict[str, Tensor] = {}
    for names in groups.values():
        sizes = [scores[name].numel() for name in names]
        limits = [_eligible(scores[n], weights[n]) for n in names]
        worth = [scores[name].sigmoid().mean().item() for name in names]
        for name, density in zip(names, shared_out(worth, sizes, limits, kept), strict=True):
            found[name] = top_k_mask(scores[name], keep_count(scores[name].numel(), 1 - density))
    return {name: found[name] for name in scores}


def _eligible(scores: Tensor, weights: Tensor) -> float:
    """Share of the weights that may be kept: neither zeros of the backbone nor gone for good."""
    return ((scores > NEVER / 2) & (weights != 0)).float().mean().item()


def shared_out(
    worth: Sequence[float], sizes: Sequence[int], limits: Sequence[float], kept: float
) -> list[float]:
    """Densities in proportion to `worth`, none above its limit, that keep a share of all weights.

    Density of matrix i: kept * L * R_i / sum R, R the worth (arXiv 2210.06210), and what a full
    matrix cannot take goes to the others, in the same proportion.
    """
    densities = [0.0] * len(worth)
    open_ = [i for i in range(len(worth)) if worth[i] > 0 and limits[i] > 0]
    left = kept * sum(sizes)
    while open_:
        factor = left / sum(sizes[i] * worth[i] for i in open_)
        full = [i for i in open_ if factor * worth[i] >= limits[i]]
        if not full:
            for i in open_:
                densities[i] = factor * worth[i]
            break
        for i in full:
            densities[i] = limits[i]
            left -= limits[i] * sizes[i]
        open_ = [i for i in open_ if i not in full]
        left = max(left, 0.0)
    return densities
