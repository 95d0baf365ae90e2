"""adapt: go on with masked language modelling on text of a domain, with the zeros locked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerFast, set_seed

from prunella.checkpoint import Checkpoint
from prunella.data.corpus import Corpus
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import (
    copy_head,
    load_encoder,
    load_masked_lm,
    load_tokenizer,
    set_dropout,
)
from prunella.settings import AdaptSettings
from prunella.sparsity.targets import Target, find_targets
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.text import Text, open_more_text, open_text, text_hashes
from prunella.stages.upstream import (
    figures,
    linear_plan,
    locked_zeros,
    open_teacher,
    read_token_types,
    train_head,
    training_figures,
)
from prunella.training.loop import train
from prunella.training.mlm import Teacher
from prunella.workspace import Workspace


@dataclass(frozen=True)
class Lock:
    """A matrix, the share of it that is zero, and whether these zeros would be locked."""

    target: Target
    zeros: float

    @property
    def locked(self) -> bool:
        return self.target.pruned and self.zeros > 0


def adapt(settings: AdaptSettings) -> Result:
    """Adapts a sparse checkpoint to a domain (Sparse*BERT, arXiv 2205.12452).

    Raises:
        InputError: If the settings do not fit each other, the model, the teacher or the text.
    """
    _check(settings)
    source = fetch(settings.model)
    teacher = fetch(settings.teacher) if settings.teacher else None
    more = {"general_text": settings.general_text, "replay_text": settings.replay_text}
    return run_stage(
        "adapt",
        settings,
        {"model": source, "teacher": teacher},
        text_hashes(settings, more),
        lambda workspace: _adapt(settings, source, teacher, workspace),
    )


def plan_locks(settings: AdaptSettings) -> list[Lock]:
    """Which matrices hold zeros that `adapt` would lock (`--dry-run`)."""
    _check(settings)
    model, _ = load_masked_lm(fetch(settings.model))
    weights = dict(model.named_parameters())
    return [
        Lock(target, float((weights[target.parameter] == 0).float().mean()))
        for target in find_targets(model)
        if target.parameter in weights
    ]


def _mlm(settings: AdaptSettings) -> float:
    """The weight of the loss on masked words, which is the only one without a teacher."""
    return settings.mlm if settings.teacher else 1.0


def _needs_head(settings: AdaptSettings) -> bool:
    """Hidden states alone need no head, so that the fine-tuned model of a task can teach them."""
    signals = settings.distillation.logits if settings.teacher else 0.0
    return bool(_mlm(settings) or signals)


def _check(settings: AdaptSettings) -> None:
    if bool(settings.replay_text) != bool(settings.general_share):
        raise InputError(
            "--general-share and --replay-text belong together: how much of the training is on "
            "general text, and which"
        )
    if settings.teacher and not settings.distillation.active and not settings.mlm:
        raise InputError("no loss: mlm and every distillation weight are 0; set one of them")
    if not settings.teacher and "distillation" in settings.model_fields_set:
        raise InputError("distillation needs a --teacher: a dense model of the domain")


def _adapt(
    settings: AdaptSettings, source: Checkpoint, teacher_source: Checkpoint | None, work: Workspace
) -> Outcome:
    set_seed(settings.seed)  # a new head
    model, had_head = load_masked_lm(source)
    tokenizer = load_tokenizer(source)
    took_head = not had_head and teacher_source is not None and copy_head(model, teacher_source)
    has_head = had_head or took_head or _needs_head(settings)
    if not has_head:
        model = load_encoder(source)
    teacher = _teacher(settings, source, teacher_source)
    text = _open_text(settings, tokenizer, model, teacher)
    general = _open_general(settings, tokenizer)
    masks = locked_zeros(model)
    set_dropout(model, settings.dropout)
    model.to(PartialState(cpu=not torch.cuda.is_available()).device)  # measured before it trains
    if has_head and not had_head and not (took_head and settings.head_steps is None):
        summaries = [train_head(model, text, settings, work)]
    else:
        summaries = []
    before = _measure(model, text, general, settings, teacher, has_head)
    mlm = _mlm(settings)
    plan = linear_plan(
        "adapt", settings.steps, model, text, settings, work, mlm=mlm, teacher=teacher, masks=masks
    )
    summaries.append(train(model, plan, settings))
    after = _measure(model, text, general, settings, teacher, has_head)
    held_out = {name: {"before": before[name], "after": after[name]} for name in after}
    metrics = after["domain"] | training_figures(*summaries)
    if general is not None and has_head:
        metrics["forgetting"] = after["general"]["mlm_loss"] - before["general"]["mlm_loss"]
    more = {"text": _text_figures(text, general, settings), "held_out": held_out}
    if has_head and not had_head:
        more["head"] = "copied from the teacher" if took_head else "new"
    return Outcome(model, tokenizer, metrics, masks, more=more)


def _teacher(
    settings: AdaptSettings, source: Checkpoint, teacher: Checkpoint | None
) -> Teacher | None:
    if teacher is None or not settings.distillation.active:
        return None
    return open_teacher(settings.distillation, settings.precision, source, teacher)


def _open_text(
    settings: AdaptSettings,
    tokenizer: PreTrainedTokenizerFast,
    model: Any,
    teacher: Teacher | None,
) -> Text:
    """The domain's text, and general text to mix in."""
    unique = settings.deduplicate
    text = open_text(
        settings, tokenizer, model.config, read_token_types(model, teacher), deduplicate=unique
    )
    if not settings.replay_text:
        return text
    replay = open_more_text(settings, settings.replay_text, tokenizer, deduplicate=unique)
    return replace(text, replay=replay, replay_share=settings.general_share)


def _open_general(settings: AdaptSettings, tokenizer: PreTrainedTokenizerFast) -> Corpus | None:
    if not settings.general_text:
        return None
    return open_more_text(settings, settings.general_text, tokenizer)


def _measure(
    model: Any,
    text: Text,
    general: Corpus | None,
    settings: AdaptSettings,
    teacher: Teacher | None,
    has_head: bool,
) -> dict[str, dict[str, Any]]:
    """Held-out figures by text; the masks are fixed, so that before and after compare."""
    found = {
        "domain": figures(model, text.held_out(), settings, has_head=has_head, teacher=teacher)
    }
    if general is not None:  # the distance to a teacher is all that can be told without a head
        found["general"] = figures(
            model,
            text.held_out(general),
            settings,
            has_head=has_head,
            teacher=None if has_head else teacher,
        )
    return found


def _text_figures(text: Text, general: Corpus | None, settings: AdaptSettings) -> dict[str, Any]:
    """What the provenance says of the text: its tokens, and the paragraphs that were dropped."""
    found = text.figures()
    if settings.deduplicate:
        found["paragraphs"] = {
            name: {"kept": corpus.paragraphs, "dropped": corpus.dropped}
            for name, corpus in (("train", text.train), ("replay", text.replay))
            if corpus is not None
        }
    if text.replay is not None:
        found["replay_tokens"] = int(text.replay.n_tokens)
    if general is not None:
        found["general_tokens"] = int(general.n_tokens)
    return found
