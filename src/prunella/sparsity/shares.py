"""How many weights stay where: a scope for all matrices, and densities of their own for some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunella.errors import InputError
from prunella.sparsity.masks import Masks
from prunella.sparsity.patterns import Pattern
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.selection import select
from prunella.sparsity.targets import Target, is_within, name_hint


@dataclass(frozen=True)
class Shares:
    """How many groups stay where: a scope, and matrices with a final sparsity of their own."""

    pattern: Pattern
    scope: str
    finals: Mapping[str, float]

    def choose(
        self,
        scores: Mapping[str, Tensor],
        schedule: PruningSchedule,
        step: int,
        gone: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks of weights at a step of a schedule.

        Args:
            scores: Of each weight, by matrix.
            schedule: Says how much is to go.
            step: When.
            gone: True where a weight cannot be kept: it counts for nothing in its group, and groups
                that have no other come last.
        """
        if gone is None or not any(of.any() for of in gone.values()):  # as from a dense start
            groups = self.pattern.groups(scores)
        else:
            there = {name: score.masked_fill(gone[name], 0.0) for name, score in scores.items()}
            left = self.pattern.groups({name: (~of).float() for name, of in gone.items()})
            groups = self.pattern.groups(there)
            groups = {key: _last(group, left[key] == 0) for key, group in groups.items()}
        first = self.pattern.first(groups)
        keep: dict[str, Tensor] = {}
        for final in dict.fromkeys(self.finals.get(key) for key in groups):
            part = {key: group for key, group in groups.items() if self.finals.get(key) == final}
            scope = self.scope if final is None or self.scope == "row" else "uniform"
            keep |= select(part, schedule.sparsity(step, final), scope, first)
        return self.pattern.masks({key: keep[key] for key in groups})

    def asked(self, masks: Masks, sparsity: float) -> tuple[float, float]:
        """The sparsity of all matrices together, and how far whole groups may be from it."""
        ones = {name: torch.ones(weight.shape) for name, weight in masks.parameters.items()}
        sizes = {key: group.shape for key, group in self.pattern.groups(ones).items()}
        total = sum(shape.numel() for shape in sizes.values())
        wanted = sum(shape.numel() * self.finals.get(key, sparsity) for key, shape in sizes.items())
        rounded = sum(shape[0] if self.scope == "row" else 1 for shape in sizes.values())
        return wanted / total, rounded / total


def _last(scores: Tensor, which: Tensor) -> Tensor:
    """Some of the scores, set below all others."""
    lowest = scores.amin()
    below = torch.nextafter(lowest, lowest.new_tensor(-torch.inf))
    return scores.masked_fill(which, below.item()) if which.any() else scores


def named_densities(densities: Mapping[str, float], targets: Sequence[Target]) -> dict[str, float]:
    """The densities given by role, module or sub-tree, for each matrix by parameter name.

    A module's own name decides before that of its sub-tree, and both before its role.

    Raises:
        InputError: If a key means no matrix that is pruned.
    """
    pruned = [target for target in targets if target.pruned]
    roles = dict.fromkeys(target.role for target in pruned if target.role)
    found: dict[str, float] = {}
    for key in sorted(densities, key=lambda key: (not _is_role(key, pruned), len(key))):
        meant = [t for t in pruned if t.role == key or is_within(t.name, key)]
        if not meant:
            raise InputError(
                f"densities: '{key}' is neither a role nor a module of the matrices that are "
                f"pruned; {name_hint(key, [*roles, *(target.name for target in pruned)])}"
            )
        found |= {target.parameter: densities[key] for target in meant}
    return found


def _is_role(key: str, targets: Sequence[Target]) -> bool:
    return any(target.role == key for target in targets)
