"""prune: remove weights once, during masked language modelling, taught by the dense model."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.models import (
    check_same_vocabulary,
    fetch,
    load_encoder,
    load_masked_lm,
    load_tokenizer,
    set_dropout,
    takes_token_types,
)
from prunella.processes import world_size
from prunella.settings import PruneSettings
from prunella.sparsity.gradual import GradualPruning, resolve_schedule
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import rewound_factor
from prunella.sparsity.targets import Target, find_targets, pruned_parameters
from prunella.stages.common import Outcome, Result, eval_mode, run_stage
from prunella.stages.text import Text, open_text, text_hashes
from prunella.training.loop import Plan, train, uses_bf16
from prunella.training.mlm import MlmLoss, Teacher, held_out
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
    model = _load(fetch(settings.model), _needs_head(settings))
    return find_targets(model, settings.roles, settings.exclude)


def _prune(
    settings: PruneSettings, source: Checkpoint, teacher_source: Checkpoint, workspace: Workspace
) -> Outcome:
    needs_head = _needs_head(settings)
    model = _load(source, needs_head)
    masks, initial = _masks(model, settings)
    schedule = resolve_schedule(settings, settings.steps, initial)
    tokenizer = load_tokenizer(source)
    teacher = _teacher(settings, source, teacher_source)
    text = _open_text(settings, tokenizer, model, teacher)
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
    metrics: dict[str, Any] = held_out(
        model,
        text.held_out(),
        has_head=needs_head,
        teacher=teacher,
        bf16=uses_bf16(settings.precision),
        device=next(model.parameters()).device,
    )
    metrics |= {"tokens": summary.tokens, "seconds": summary.seconds, "steps": summary.steps}
    return Outcome(
        model, tokenizer, metrics, masks, asked=settings.sparsity, more={"text": text.figures()}
    )


def _needs_head(settings: PruneSettings) -> bool:
    return bool(settings.mlm or settings.distillation.logits)


def _load(source: Checkpoint, needs_head: bool) -> Any:
    if not needs_head:
        return load_encoder(source)
    model, had_head = load_masked_lm(source)
    if not had_head:
        raise InputError(
            f"{source.path}: has no masked-language-modelling head, which the MLM loss and logit "
            "distillation need. Train one first with `prunella teach`, or learn from hidden states "
            "alone: --mlm 0 --distillation.logits 0 --distillation.hidden 1"
        )
    return model


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
    if teacher_source is not source:
        check_same_vocabulary(
            load_tokenizer(source),
            load_tokenizer(teacher_source),
            {"model": source.path, "teacher": teacher_source.path},
        )
    model = _load(teacher_source, settings.distillation.logits > 0)
    return Teacher(eval_mode(model), settings.distillation, uses_bf16(settings.precision))


def _open_text(
    settings: PruneSettings, tokenizer: Any, model: Any, teacher: Teacher | None
) -> Text:
    """Token types are made when student or teacher reads them: each takes what it knows."""
    configs = [model.config] + ([teacher.model.config] if teacher else [])
    token_types = any(takes_token_types(config) for config in configs)
    return open_text(settings, tokenizer, model.config, token_types)
