"""What the stages on raw text share: heads, teachers, locks, held-out figures."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.models import (
    check_same_vocabulary,
    load_encoder,
    load_masked_lm,
    load_tokenizer,
    takes_token_types,
)
from prunella.processes import world_size
from prunella.settings import AdaptSettings, DistillationSettings, TeachSettings, TrainingSettings
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import linear_factor
from prunella.sparsity.targets import pattern_parameters
from prunella.stages.common import eval_mode
from prunella.stages.text import Text
from prunella.training.loop import BatchSource, Plan, Summary, train, uses_bf16
from prunella.training.mlm import MlmLoss, Teacher, held_out
from prunella.workspace import Workspace

# Added to the seed: a new head sees other batches than the whole model does later.
_OTHER_BATCHES = 1_000_003


def load_student(source: Checkpoint, needs_head: bool) -> Any:
    """The bare encoder, or the model with the MLM head that its checkpoint must have.

    Raises:
        InputError: If the head is needed and missing.
    """
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


def open_teacher(
    signals: DistillationSettings, precision: str, source: Checkpoint, teacher: Checkpoint
) -> Teacher:
    """The frozen teacher of a student.

    Raises:
        InputError: If it reads other token ids, or lacks a head that the signals need.
    """
    if teacher is not source:
        check_same_vocabulary(
            load_tokenizer(source),
            load_tokenizer(teacher),
            {"model": source.path, "teacher": teacher.path},
        )
    model = load_student(teacher, signals.logits > 0)
    return Teacher(eval_mode(model), signals, uses_bf16(precision))


def read_token_types(model: Any, teacher: Teacher | None) -> bool:
    """Token types are made when student or teacher reads them: each takes what it knows."""
    configs = [model.config] + ([teacher.model.config] if teacher else [])
    return any(takes_token_types(config) for config in configs)


def locked_zeros(model: nn.Module) -> Masks | None:
    """Masks that hold the zeros of a sparse model; None for a dense one."""
    masks = Masks.of_zeros(pattern_parameters(model))
    return masks if masks.total_sparsity() > 0 else None


def train_head(
    model: Any, text: Text, settings: TeachSettings | AdaptSettings, workspace: Workspace
) -> Summary:
    """Trains a new MLM head first, so that its noise does not reach the encoder."""
    steps = settings.head_steps
    steps = max(1, settings.steps // 10) if steps is None else steps
    if steps == 0:
        return Summary(0, 0.0, 0, {})
    model.base_model.requires_grad_(False)
    only_head = settings.model_copy(update={"learning_rate": settings.head_learning_rate})
    # Tied to the embeddings, the output matrix stays as frozen as they are.
    plan = linear_plan("head", steps, model, text, settings, workspace, seed=_OTHER_BATCHES)
    summary = train(model, plan, only_head)
    model.base_model.requires_grad_(True)
    return summary


def linear_plan(
    label: str,
    steps: int,
    model: Any,
    text: Text,
    settings: TeachSettings | AdaptSettings,
    workspace: Workspace,
    *,
    mlm: float = 1.0,
    teacher: Teacher | None = None,
    masks: Masks | None = None,
    seed: int = 0,
) -> Plan:
    """A run on text under a learning rate that rises, then falls to 0.

    Args:
        label: Its name, in the log too.
        steps: Optimiser steps.
        model: What is trained.
        text: What it is trained on.
        settings: Of the stage.
        workspace: Takes states and log.
        mlm: Weight of the masked-language-modelling loss.
        teacher: Signals besides.
        masks: What to lock.
        seed: Added to that of the settings, for the order of the text.
    """
    warmup = round(settings.warmup * steps)
    return Plan(
        label=label,
        batches=text.batches(steps * settings.accumulation * world_size(), settings.seed + seed),
        loss=MlmLoss(model.config, mlm, teacher),
        steps=steps,
        factor=lambda step: linear_factor(step, warmup, steps),
        folder=workspace.partial / f"states-{label}",
        log=workspace.log,
        masks=masks,
    )


def figures(
    model: Any,
    batches: BatchSource,
    settings: TrainingSettings,
    *,
    has_head: bool = True,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """What `held_out` measures of a model, where it is now."""
    return dict(
        held_out(
            model,
            batches,
            has_head=has_head,
            teacher=teacher,
            bf16=uses_bf16(settings.precision),
            device=next(model.parameters()).device,
        )
    )


def training_figures(*summaries: Summary) -> dict[str, Any]:
    """What a checkpoint's metrics say of its training, all phases together."""
    return {
        "tokens": sum(s.tokens for s in summaries),
        "seconds": sum(s.seconds for s in summaries),
        "steps": sum(s.steps for s in summaries),
    }
