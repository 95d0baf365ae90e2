"""prune: remove weights once, during masked language modelling, taught by the dense model."""

from __future__ import annotations

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import load_encoder, load_tokenizer, set_dropout
from prunella.processes import world_size
from prunella.settings import PruneSettings
from prunella.sparsity.criterion import criterion_kind
from prunella.sparsity.gradual import make_pruning, targets_to_prune
from prunella.sparsity.masks import Masks
from prunella.sparsity.removal import finish
from prunella.sparsity.schedules import rewound_factor
from prunella.sparsity.targets import Target, freeze_sparse_tables, pruned_parameters
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
    source = fetch(settings.model)
    try:
        model = load_student(source, _needs_head(settings))
    except InputError:  # without a head for masked words it can be pruned by other losses
        model = load_encoder(source)
    return targets_to_prune(model, _reached(settings))


def _prune(
    settings: PruneSettings, source: Checkpoint, teacher_source: Checkpoint, workspace: Workspace
) -> Outcome:
    model = load_student(source, _needs_head(settings))
    targets = targets_to_prune(model, _reached(settings))
    freeze_sparse_tables(model)
    masks = Masks.of_zeros(pruned_parameters(model, targets))
    update = make_pruning(model, masks, targets, settings, steps=settings.steps, seed=settings.seed)
    tokenizer = load_tokenizer(source)
    teacher = _teacher(settings, source, teacher_source)
    text = open_text(settings, tokenizer, model.config, read_token_types(model, teacher))
    set_dropout(model, settings.dropout)
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
            factor=lambda step: rewound_factor(step, warmup, update.schedule),
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
    removed = finish(model, update)
    return Outcome(
        model,
        tokenizer,
        metrics,
        None if removed else masks,
        asked=update.asked,
        more={"text": text.figures(), **removed},
    )


def _reached(settings: PruneSettings) -> PruneSettings:
    """No loss on text reaches a pooler: a score of gradients knows nothing of it, and weights that
    make up for others in their inputs would not be trained afterwards.

    So it stays dense with these scores, unless the roles were given.
    """
    kind = criterion_kind(settings.score)
    if "roles" in settings.model_fields_set or not (kind.gradients or kind.inputs):
        return settings
    roles = tuple(role for role in settings.roles if role != "pooler")
    return settings.model_copy(update={"roles": roles})


def _needs_head(settings: PruneSettings) -> bool:
    return bool(settings.mlm or settings.distillation.logits)


def _teacher(
    settings: PruneSettings, source: Checkpoint, teacher_source: Checkpoint
) -> Teacher | None:
    if not settings.distillation.active:
        if not settings.mlm:
            raise InputError("no loss: mlm and every distillation weight are 0; set one of them")
        return None
    return open_teacher(settings.distillation, settings.precision, source, teacher_source)
