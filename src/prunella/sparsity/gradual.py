"""From settings to pruning: which matrices, in which steps, by which criterion and pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from prunella.errors import InputError
from prunella.settings import PruningSettings
from prunella.sparsity.criterion import Context, criterion_kind, learns, load_criterion
from prunella.sparsity.masks import Masks
from prunella.sparsity.patterns import NEURONS, NOfM, Pattern, Units, make_pattern, pattern_roles
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.removal import check_removal
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.shares import Shares, named_densities
from prunella.sparsity.targets import Target, find_targets


def targets_to_prune(model: nn.Module, settings: PruningSettings) -> list[Target]:
    """Every weight matrix, and whether the roles, exclusions and pattern of `settings` prune it.

    Raises:
        InputError: As `find_targets`, or if nothing is left to prune.
    """
    roles = [role for role in settings.roles if role in pattern_roles(settings.pattern)]
    targets = find_targets(model, roles, settings.exclude)
    if not any(target.pruned for target in targets):
        raise InputError("nothing to prune: --pattern, --roles and --exclude leave no matrix")
    return targets


def resolve_schedule(
    settings: PruningSettings, steps: int, current: float, window: int = 1
) -> PruningSchedule:
    """Turns the settings into steps of a run of `steps`.

    Args:
        settings: Shares of the run or steps, as the user gave them.
        steps: Optimiser steps of the whole run.
        current: The sparsity that the model has before the run.
        window: Steps that the score sees before a choice.

    Raises:
        InputError: If a window ends after training does, windows are out of order, or the model
            is sparser already than asked for.
    """
    initial = current if settings.initial_sparsity is None else settings.initial_sparsity
    if initial > settings.sparsity:
        raise InputError(
            f"sparsity {settings.sparsity:g} is below the {initial:.3f} that the model starts "
            "from; pruning only removes weights: raise --sparsity or start from a denser model"
        )
    if settings.one_shot:
        if learns(settings.score):
            raise InputError(
                f"--one-shot: '{settings.score}' learns its scores while the model trains, so one "
                "choice before training means nothing; prune gradually, or choose snip, obert, "
                "wanda, sparsegpt or magnitude"
            )
        if window > steps:
            raise InputError(
                f"one-shot pruning first takes {window} steps to gather what the score needs, but "
                f"there are {steps} steps; raise --steps or lower --window"
            )
        return PruningSchedule(
            initial, settings.sparsity, 0, window, window, steps, window, still=window
        )
    start, growth_end, freeze = (
        round(value * steps) if value <= 1 else round(value)
        for value in (settings.start, settings.growth_end, settings.freeze)
    )
    kind = criterion_kind(settings.score)
    every = settings.update_every or kind.update_every
    interval = max(1, round(every * steps) if every < 1 else round(every))
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
    apart = min(window, interval) if kind.window else 1
    return PruningSchedule(
        initial, settings.sparsity, start, growth_end, freeze, steps, interval, apart=apart
    )


def make_pruning(
    model: nn.Module,
    masks: Masks,
    targets: Sequence[Target],
    settings: PruningSettings,
    *,
    steps: int,
    seed: int,
) -> Pruning:
    """What prunes a model as `settings` say.

    Args:
        model: To be pruned.
        masks: Of the matrices that `targets` marks.
        targets: From `targets_to_prune`.
        settings: Of the pruning.
        steps: Optimiser steps of the whole run.
        seed: Of the run.

    Raises:
        InputError: If the settings do not fit the model or the run.
    """
    pattern = make_pattern(settings.pattern, model, targets)
    finals = {name: 1 - d for name, d in named_densities(settings.densities, targets).items()}
    _check_pattern(model, pattern, settings, finals)
    kept = pattern.groups({name: masks.kept(name).float() for name in masks.parameters})
    alive = sum(int(group.count_nonzero()) for group in kept.values())
    current = 1 - alive / max(1, sum(group.numel() for group in kept.values()))
    kind = criterion_kind(settings.score)
    window = settings.window if kind.gradients or kind.inputs else 1
    context = Context(model, masks, resolve_schedule(settings, steps, current, window), seed)
    criterion = load_criterion(settings.score, context, settings.score_options)
    return Pruning(context, criterion, Shares(pattern, settings.scope, finals), window)


def _check_pattern(
    model: nn.Module, pattern: Pattern, settings: PruningSettings, finals: Mapping[str, float]
) -> None:
    if isinstance(pattern, Units) and (settings.scope == "row" or settings.densities):
        raise InputError(
            f"pattern {settings.pattern}: takes neither --scope row nor --densities, as its units "
            "span several matrices"
        )
    if isinstance(pattern, Units) and pattern.kind == NEURONS:
        check_removal(model, pattern, settings.scope)
    if isinstance(pattern, NOfM):
        least = 1 - pattern.n / pattern.m
        low = [s for s in (settings.sparsity, *finals.values()) if s < least - 1e-9]
        if low:
            raise InputError(
                f"pattern {settings.pattern} removes {least:g} of the weights at least, but "
                f"sparsity {low[0]:g} is asked for; leave --sparsity out, or raise it (a density "
                f"may be {1 - least:g} at most)"
            )
