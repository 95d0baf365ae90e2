"""prune: remove weights once, during masked language modelling, taught by the dense model."""

from __future__ import annotations

from torch import nn

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.models import fetch, load_tokenizer, set_dropout
from prunella.processes import world_size
from prunella.settings import PruneSettings
from prunella.sparsity.gradual import GradualPruning, resolve_schedule
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import rewound_factor
from prunella.sparsity.targets import Target, find_targets, pruned_parameters
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.text import open_text, text_hashes
from prunella.stages.upstream import (
    figures,
    load_student,
    open_teacher,
    read_token_types,
    training_figures,
)
from prunella.training.loop import Plan, train
from prunella.training.mlm import MlmLoss, Teacher
from prunella.workspace import Workspace


def prune(settings: PruneSettings) -> Result:
    """Prunes a model once for all tasks (Prune OFA, section 3).

    Raises:
        InputError: If the settings do not fit the model, the teacher or the text.
    """
    student = fetch(settings.model)
    teacher = fetch(settings.teacher) if settings.teacher else student
    return run_stage(
        "prune",
        settings,
        {"model": student, "teacher": teacher},
        text_hashes(settings),
        lambda workspace: _prune(settings, student, teacher, workspace),
    )


def plan_targets(settings: PruneSettings) -> list[Target]:
    """Which matrices `prune` would prune, and why not the others (`--dry-run`)."""
    model = load_student(fetch(settings.model), _needs_head(settings))
    return find_targets(model, settings.roles, settings.exclude)


def _prune(
    settings: PruneSettings, source: Checkpoint, teacher_source: Checkpoint, workspace: Workspace
) -> Outcome:
    model = load_student(source, _needs_head(settings))
    masks, initial = _masks(model, settings)
    schedule = resolve_schedule(settings, settings.steps, initial)
    tokenizer = load_tokenizer(source)
    teacher = _teacher(settings, source, teacher_source)
    text = open_text(settings, tokenizer, model.config, read_token_types(model, teacher))
    set_dropout(model, settings.dropout)
    update = GradualPruning(masks, schedule, settings.score, settings.scope)
    warmup = round(settings.warmup * settings.steps)
    summary = train(
        model,
        Plan(
            label="prune",
            batches=text.batches(
                settings.steps * settings.accumulation * world_size(), settings.seed
            ),
            loss=MlmLoss(model.config, settings.mlm, teacher),
            steps=settings.steps,
            factor=lambda step: rewound_factor(step, warmup, schedule),
            folder=workspace.partial / "states",
            log=workspace.log,
            masks=masks,
            update=update,
        ),
        settings,
    )
    metrics = figures(
        model, text.held_out(), settings, has_head=_needs_head(settings), teacher=teacher
    ) | training_figures(summary)
    return Outcome(
        model, tokenizer, metrics, masks, asked=settings.sparsity, more={"text": text.figures()}
    )


def _needs_head(settings: PruneSettings) -> bool:
    return bool(settings.mlm or settings.distillation.logits)


def _masks(model: nn.Module, settings: PruneSettings) -> tuple[Masks, float]:
    targets = find_targets(model, settings.roles, settings.exclude)
    parameters = pruned_parameters(model, targets)
    if not parameters:
        raise InputError("nothing to prune: --roles and --exclude leave no matrix")
    masks = Masks.of_zeros(parameters)
    return masks, masks.total_sparsity()


def _teacher(
    settings: PruneSettings, source: Checkpoint, teacher_source: Checkpoint
) -> Teacher | None:
    if not settings.distillation.active:
        if not settings.mlm:
            raise InputError("no loss: mlm and every distillation weight are 0; set one of them")
        return None
    return open_teacher(settings.distillation, settings.precision, source, teacher_source)
