"""What transfer and quantize share: reading a task, and fine-tuning on it with a teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from prunella.checkpoint import Checkpoint
from prunella.data.metrics import main_metric
from prunella.data.presets import official_metric
from prunella.data.readers import content_hash
from prunella.data.task_batches import EncodedTask, TaskBatches, eval_batches, joined
from prunella.distillation import Wanted, relation_heads, wanted_features
from prunella.errors import InputError
from prunella.models import (
    check_same_vocabulary,
    load_config,
    load_for_task,
    load_tokenizer,
    pad_id,
    set_dropout,
    task_head,
)
from prunella.processes import local_rank, local_world_size, machine_number, world_size
from prunella.settings import FineTuneSettings
from prunella.sparsity.learned import LearnedMasks
from prunella.sparsity.masks import Masks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import linear_factor, rewound_factor
from prunella.stages.common import eval_mode
from prunella.stages.examples import (
    Examples,
    as_trained,
    check_head,
    check_pairs,
    deciding_of,
    figures,
    label_names,
    oddities,
    predict,
    read_split,
    read_unlabelled,
    reading_of,
)
from prunella.tasks import Deciding, Kind, Rows
from prunella.teacher_cache import TeacherCache
from prunella.together import wait
from prunella.training.loop import MaskUpdate, Plan, Summary, train, uses_bf16
from prunella.training.mlm import Teacher
from prunella.training.task import TaskLoss
from prunella.workspace import Workspace

_OTHER_TASK = "if the head is of another task, `prunella transfer --new-head` leaves it behind"


@dataclass(frozen=True)
class Task:
    """A task as one model, and its teacher, read it; `settings` are completed by the model's.

    `learned` are the sequences that a pass goes over: those of `train`, then the unlabelled ones.
    """

    train: Examples
    unlabelled: tuple[Examples, ...]
    learned: EncodedTask
    validation: Examples | None
    deciding: Deciding
    tokenizer: PreTrainedTokenizerFast
    settings: FineTuneSettings

    @property
    def kind(self) -> Kind[Any]:
        return self.train.kind

    @property
    def names(self) -> list[str]:
        return self.train.rows.names

    @property
    def outputs(self) -> int:
        return self.kind.outputs(self.names)


def open_task(
    settings: FineTuneSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    *,
    new_head: bool = False,
) -> Task:
    """Reads and tokenises the rows of a task; validation labels must be known from training.

    What the source's head was trained on decides how rows are read, unless the task has a new head.
    """
    tokenizer = load_tokenizer(source)
    configs = [load_config(checkpoint) for checkpoint in (source, teacher) if checkpoint]
    if not new_head:
        settings = as_trained(settings, source)
    _check_teacher(settings)
    kind, rows = _training_rows(settings, None if new_head else source, configs[0])
    if settings.class_weights == "balanced" and not kind.named:
        raise InputError(f"class_weights: {kind.name} has no classes to balance; leave it out")
    reading = reading_of(settings, kind, tokenizer, configs)

    def encoded(rows: Rows) -> Examples:
        return Examples(kind, rows, kind.encode(rows, reading), reading)

    def alike(found: Rows, file: str) -> Examples:
        pairs = bool(kind.traits(rows).get("pairs"))
        check_pairs(kind, found, file, pairs, "the training rows are")
        return encoded(found)

    held_out: Examples | None = None
    if settings.validation:
        names = rows.names or None
        _, found = read_split(settings, settings.validation, "validation", kind.name, names)
        held_out = alike(found, settings.validation)
    train = encoded(rows)
    unlabelled = tuple(
        alike(read_unlabelled(settings, file, kind, rows.names), file)
        for file in settings.unlabelled
    )
    learned = joined([part.encoded for part in (train, *unlabelled)])
    deciding = deciding_of(settings, kind.traits(rows))
    return Task(train, unlabelled, learned, held_out, deciding, tokenizer, settings)


def _check_teacher(settings: FineTuneSettings) -> None:
    """Refuses what only a teacher gives a meaning, and a teacher that nothing is learned from.

    Its signals are on by default: without one they are refused only where they were asked for.
    """
    asked = "distillation" in settings.model_fields_set and settings.distillation.active
    if asked and settings.teacher is None:
        raise InputError(
            "distillation: only a teacher gives these signals; name one with --teacher, or leave "
            "--distillation out"
        )
    if settings.unlabelled and settings.teacher is None:
        raise InputError(
            "unlabelled: only a teacher can answer these rows; name one with --teacher, or leave "
            "--unlabelled out"
        )
    if settings.teacher and not settings.distillation.active:
        preset = getattr(settings, "preset", None)
        raise InputError(
            "teacher: nothing is learned from it, as all weights of distillation are 0"
            f"{f' (preset {preset})' if preset else ''}; set --distillation.logits or "
            "--distillation.hidden, or leave --teacher out"
        )


def _training_rows(
    settings: FineTuneSettings, source: Checkpoint | None, config: Any
) -> tuple[Kind[Any], Rows]:
    """The training rows; their class ids are those of the source's head, where it has one.

    Raises:
        InputError: If a label is none of the head's, if labels are names and the head's classes
            numbers, or if tags are numbers that nothing names.
    """
    kind, rows = read_split(settings, settings.train, "train", settings.kind)
    names = _names_of_head(source, config, kind) if source else None
    if source and names and names != rows.names and len(rows.names) <= len(names):
        try:
            kind, rows = read_split(settings, settings.train, "train", kind.name, names)
        except InputError as error:
            raise InputError(f"{error}; {_OTHER_TASK}") from None
        if unseen := rows.counts.get("unseen_tags"):
            raise InputError(
                f"{settings.train}: {unseen} tags are none of those of the head of {source.path} "
                f"({', '.join(names[:20])}); {_OTHER_TASK}; otherwise take the data that it was "
                "trained on"
            )
    elif source and names is None:
        rows = _numbered(settings, kind, rows, source, config, _OTHER_TASK)
    if kind.name == "token-classification" and all(name.isdecimal() for name in rows.names):
        raise InputError(
            f"{settings.train}: the tags are numbers without names, which would be scored as words "
            "and not as entities; write the tags themselves (B-PER, I-PER, O)"
        )
    return kind, rows


def _names_of_head(source: Checkpoint, config: Any, kind: Kind[Any]) -> list[str] | None:
    """What the classes of a head for this kind of task are called; None if they have no names."""
    if not kind.named or task_head(source) != kind.head:
        return None
    names = label_names(config)
    return None if names == _numbers(names) else names


def _numbers(names: Sequence[str]) -> list[str]:
    return [str(i) for i in range(len(names))]


def _numbered(
    settings: FineTuneSettings,
    kind: Kind[Any],
    rows: Rows,
    checkpoint: Checkpoint,
    config: Any,
    advice: str,
) -> Rows:
    """The training rows, their class ids those of a head whose classes are numbers.

    Names cannot be matched to numbers: by the alphabet each class might be another one.
    A number of classes that is not the head's is left to `check_head`.

    Args:
        settings: Of the rows, which may be read a second time.
        kind: Of the task.
        rows: As they are read where no classes are known.
        checkpoint: With the head; without one for this kind nothing is to be matched.
        config: The checkpoint's.
        advice: What to do besides, where the labels are names.

    Returns:
        `rows`, with the names that the data has, where the ids are the same.

    Raises:
        InputError: If the labels are names.
    """
    numbers = _numbers(rows.names)
    if not kind.named or task_head(checkpoint) != kind.head or config.num_labels != len(numbers):
        return rows
    if rows.names == numbers:
        return rows
    try:
        _, found = read_split(settings, settings.train, "train", kind.name, numbers)
    except InputError:
        found = None
    if found is not None and not found.counts.get("unseen_tags"):
        same = kind.head == "TokenClassification" or np.array_equal(found.gold, rows.gold)
        return rows if same else found
    unnamed = config.id2label[0] == "LABEL_0"  # then its numbers are those of transformers
    if unnamed and all(re.fullmatch(r"-?\d+", name, re.ASCII) for name in rows.names):
        return rows  # numbers in the order of their values
    raise InputError(
        f"{settings.train}: the labels ({', '.join(rows.names[:20])}) cannot be matched to the "
        f"classes of {checkpoint.path}, which are numbers (0 to {len(numbers) - 1}); write these "
        f"numbers as labels, or name its classes in its config.json (id2label); {advice}"
    )


def task_hashes(settings: FineTuneSettings) -> dict[str, str]:
    """Hashes of the rows that a stage reads, as `run_stage` takes them."""
    sources = {"train": settings.train, "validation": settings.validation}
    sources |= {f"unlabelled {i}": file for i, file in enumerate(settings.unlabelled, start=1)}
    return {part: content_hash(source) for part, source in sources.items() if source}


def load_task_model(
    source: Checkpoint, task: Task, advice: str | None = None, *, new_head: bool = False
) -> Any:
    """The model with a head for the task; an existing head must have the task's labels.

    `advice` says what to do where it has not. `new_head` leaves it behind, whatever it has.

    Raises:
        InputError: If the checkpoint's head is for another kind of task or number of labels.
    """
    if advice is None:
        advice = (
            f"{_OTHER_TASK}; otherwise take the data that it was trained on, or name the kind of "
            "the rows with --kind"
        )
    kind = task.kind
    if not new_head:
        check_head(source, kind, task.names, load_config(source), advice)
    return load_for_task(
        source, kind.head, task.outputs, task.names, kind.problem, new_head=new_head
    )


def fine_tune(
    model: Any,
    task: Task,
    settings: FineTuneSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
    *,
    label: str,
    masks: Masks | LearnedMasks | None,
    pruning: Pruning | None = None,
    learning: MaskUpdate | None = None,
    optimizer: Callable[[], torch.optim.Optimizer] | None = None,
) -> Summary:
    """Trains a task model, its masks locked, or moved by `pruning`.

    Masks that learn are moved by `learning`, and their scores, with all else that is to be trained,
    stepped by `optimizer`.
    """
    steps = count_steps(task, settings)
    warmup = round(settings.warmup * steps)

    def factor(step: int) -> float:
        if pruning:
            return rewound_factor(step, warmup, pruning.schedule)
        return linear_factor(step, warmup, steps)

    set_dropout(model, settings.dropout)
    plan = Plan(
        label=label,
        batches=_batches(task, settings),
        loss=_loss(model, task, settings, source, teacher, workspace),
        steps=steps,
        factor=factor,
        folder=workspace.partial / "states",
        log=workspace.log,
        masks=masks,
        update=pruning or learning,
        optimizer=optimizer,
    )
    return train(model, plan, settings)


def stored_names(model: nn.Module, source: Checkpoint) -> set[str]:
    """The parameters of a task's model that its checkpoint holds; the others are new."""
    stored = {tensor.name for tensor in source.tensors}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if name in stored or name.removeprefix(prefix) in stored}


def count_steps(task: Task, settings: FineTuneSettings) -> int:
    """Optimiser steps of a fine-tuning."""
    return max(1, len(_batches(task, settings)) // (settings.accumulation * world_size()))


def _batches(task: Task, settings: FineTuneSettings) -> TaskBatches:
    return TaskBatches(
        task.learned,
        batch_size=settings.batch_size,
        epochs=None if settings.steps else settings.epochs,
        steps=settings.steps * world_size() if settings.steps else None,
        seed=settings.seed,
        accumulation=settings.accumulation,
        bucket=settings.bucket,
        pad_id=pad_id(task.tokenizer),
    )


def _loss(
    model: Any,
    task: Task,
    settings: FineTuneSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
) -> TaskLoss:
    signals = settings.distillation
    weights = None
    if settings.class_weights == "balanced":
        weights = task.kind.class_weights(task.train.encoded, task.outputs)
    if teacher is None or not signals.active:
        return TaskLoss(task.kind, 1.0, Wanted(True), signals, None, 1, weights)
    dense = _load_teacher(task, source, teacher)
    ours, theirs = wanted_features(signals, model.config, dense.config)
    cache = TeacherCache(
        Teacher(dense, signals, uses_bf16(settings.precision)),
        theirs,
        task.learned,
        workspace.partial / f"teacher-{machine_number()}",
        settings.cache_gigabytes,
    )
    if world_size() > 1:
        _fill_together(cache, task, settings)
    heads = relation_heads(model.config, dense.config)
    labelled = len(task.train.encoded) if task.unlabelled else None
    return TaskLoss(task.kind, settings.labels, ours, signals, cache, heads, weights, labelled)


def _fill_together(cache: TeacherCache, task: Task, settings: FineTuneSettings) -> None:
    """Asks the teacher ahead: each process of a machine about its part of the rows."""
    batches = eval_batches(task.learned, settings.batch_size, pad_id(task.tokenizer))
    cache.fill(batches[i] for i in range(local_rank(), len(batches), local_world_size()))
    wait()


def _load_teacher(task: Task, source: Checkpoint, teacher: Checkpoint) -> Any:
    if task_head(teacher) is None:
        raise InputError(
            f"{teacher.path}: the teacher has no task head; fine-tune it first with `prunella "
            "transfer`, without a teacher"
        )
    check_same_vocabulary(
        task.tokenizer, load_tokenizer(teacher), {"model": source.path, "teacher": teacher.path}
    )
    model = load_task_model(teacher, task, "a teacher is fine-tuned on the same task")
    config = load_config(teacher)
    stored = _names_of_head(teacher, config, task.kind)
    if stored is None:
        rows, advice = task.train.rows, "or fine-tune it on these rows"
        if _numbered(task.settings, task.kind, rows, teacher, config, advice) is not rows:
            stored = label_names(config)
    if stored and stored != task.names:
        raise InputError(
            f"{teacher.path}: the teacher's labels are {', '.join(stored)}, the task's "
            f"{', '.join(task.names)}; they must be the same in the same order"
        )
    return eval_mode(model)


def validation_figures(model: Any, task: Task) -> dict[str, Any]:
    """The task's metrics on the held-out rows, if there are any, and what was odd about rows.

    In fp32 whatever the training computed in: it is what `evaluate` will say of the checkpoint.
    """
    odd = oddities(task.train, "train_")
    for part in task.unlabelled:
        odd["unlabelled_rows"] = odd.get("unlabelled_rows", 0) + len(part)
        for name, count in oddities(part, "unlabelled_").items():
            odd[name] = odd.get(name, 0) + count
    if task.validation is None:
        return odd
    predictions = predict(model, task.validation, task.deciding)
    return figures(task.validation, predictions) | odd


def summary_figures(summary: Summary) -> dict[str, Any]:
    """What a checkpoint's metrics say of its training."""
    return {"tokens": summary.tokens, "seconds": summary.seconds, "steps": summary.steps}


def _decided_by(task: Task) -> dict[str, Any]:
    """What training was told of how outputs become predictions."""
    found: dict[str, Any] = {}
    if task.deciding.threshold is not None:
        found["threshold"] = task.deciding.threshold
    if task.kind.name == "question-answering":
        found["no_answer"] = task.deciding.no_answer
        found["max_answer_length"] = task.deciding.max_answer_length
    return found


def task_record(task: Task) -> dict[str, Any]:
    """What a later stage must know to read rows as this one did."""
    settings = task.settings
    named = {name: getattr(settings, name) for name in ("text", "pair", "label", "choices")}
    kind = task.kind.name
    return {
        "kind": kind,
        "labels": task.names,
        **named,  # by hand: other rows must have them as well
        "columns": asdict(task.train.rows.columns),  # as they were found
        "max_length": task.train.reading.max_length,
        "stride": task.train.reading.stride,
        **task.kind.traits(task.train.rows),
        **_decided_by(task),
        "metric": official_metric(kind, settings.train, settings.validation) or main_metric(kind),
        "train_rows": len(task.train),
        "validation_rows": len(task.validation) if task.validation else 0,
    }
