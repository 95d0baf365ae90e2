"""What transfer and quantize share: reading a task, and fine-tuning on it with a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from prunella.checkpoint import Checkpoint
from prunella.data.readers import content_hash
from prunella.data.task_batches import EncodedTask, TaskBatches, encode
from prunella.data.tasks import TaskData, load_task
from prunella.distillation import Wanted, relation_heads, wanted_features
from prunella.errors import InputError
from prunella.models import (
    check_length,
    check_same_vocabulary,
    has_task_head,
    load_classifier,
    load_config,
    load_tokenizer,
    pad_id,
    set_dropout,
    takes_token_types,
)
from prunella.processes import rank, world_size
from prunella.settings import FineTuneSettings, PruningSettings
from prunella.sparsity.gradual import GradualPruning, resolve_schedule
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import linear_factor, rewound_factor
from prunella.stages.common import eval_mode
from prunella.teacher_cache import TeacherCache
from prunella.training.loop import MaskUpdate, Plan, Summary, train, uses_bf16
from prunella.training.mlm import Teacher
from prunella.training.task import TaskLoss, predict_logits, score
from prunella.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """A task as one model reads it."""

    kind: Literal["classification", "regression"]
    names: list[str]
    train: EncodedTask
    validation: EncodedTask | None
    tokenizer: PreTrainedTokenizerFast

    @property
    def outputs(self) -> int:
        return 1 if self.kind == "regression" else len(self.names)


def open_task(settings: FineTuneSettings, source: Checkpoint, teacher: Checkpoint | None) -> Task:
    """Reads and tokenises the rows of a task; validation labels must be known from training."""
    tokenizer = load_tokenizer(source)
    configs = [load_config(checkpoint) for checkpoint in (source, teacher) if checkpoint]
    for config in configs:
        check_length("max_length", settings.max_length, config)
    token_types = any(takes_token_types(config) for config in configs)
    columns: dict[str, Any] = {
        "text": settings.text,
        "pair": settings.pair,
        "label": settings.label,
    }
    split = hub_split(settings.train, "train")
    rows = load_task(settings.train, **columns, kind=settings.kind, split=split)
    held_out: TaskData | None = None
    if settings.validation:
        held_out = load_task(
            settings.validation,
            **columns,
            kind=rows.kind,
            label_names=rows.label_names,
            split=hub_split(settings.validation, "validation"),
        )

    def encoded(data: TaskData) -> EncodedTask:
        return encode(data, tokenizer, settings.max_length, token_types=token_types)

    validation = encoded(held_out) if held_out else None
    return Task(rows.kind, rows.label_names, encoded(rows), validation, tokenizer)


def task_hashes(settings: FineTuneSettings) -> dict[str, str]:
    """Hashes of the rows that a stage reads, as `run_stage` takes them."""
    sources = {"train": settings.train, "validation": settings.validation}
    return {part: content_hash(source) for part, source in sources.items() if source}


def hub_split(source: str, split: str) -> str | None:
    """Files have no splits; data sets of the Hub do."""
    return split if source.startswith("hub:") else None


def load_task_model(source: Checkpoint, task: Task) -> Any:
    """The model with a head for the task; an existing head must have the task's labels.

    Raises:
        InputError: If the checkpoint's head is for another number of labels.
    """
    if has_task_head(source):
        found = len(source.config.get("id2label") or {0: "", 1: ""})
        if found != task.outputs:
            raise InputError(
                f"{source.path}: its head has {found} outputs, the task has {task.outputs} "
                f"({', '.join(task.names) or 'regression'}); start from the checkpoint before its "
                "transfer, or take the data that the head was trained on"
            )
    return load_classifier(source, task.outputs, task.names, regression=task.kind == "regression")


def fine_tune(
    model: Any,
    task: Task,
    settings: FineTuneSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
    *,
    label: str,
    masks: Masks | None,
    pruning: PruningSettings | None = None,
) -> Summary:
    """Trains a task model, its masks locked, or moved by `pruning`."""
    batches = TaskBatches(
        task.train,
        batch_size=settings.batch_size,
        epochs=None if settings.steps else settings.epochs,
        steps=settings.steps * world_size() if settings.steps else None,
        seed=settings.seed,
        accumulation=settings.accumulation,
        bucket=settings.bucket,
        pad_id=pad_id(task.tokenizer),
    )
    steps = max(1, len(batches) // (settings.accumulation * world_size()))
    warmup = round(settings.warmup * steps)
    update: MaskUpdate | None = None

    def factor(step: int) -> float:
        return linear_factor(step, warmup, steps)

    if pruning and masks:
        schedule = resolve_schedule(pruning, steps, masks.total_sparsity())
        update = GradualPruning(masks, schedule, pruning.score, pruning.scope)

        def factor(step: int) -> float:
            return rewound_factor(step, warmup, schedule)

    set_dropout(model, settings.dropout)
    plan = Plan(
        label=label,
        batches=batches,
        loss=_loss(model, task, settings, source, teacher, workspace),
        steps=steps,
        factor=factor,
        folder=workspace.partial / "states",
        log=workspace.log,
        masks=masks,
        update=update,
    )
    return train(model, plan, settings)


def _loss(
    model: Any,
    task: Task,
    settings: FineTuneSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
) -> TaskLoss:
    signals = settings.distillation
    if teacher is None or not signals.active:
        return TaskLoss(task.kind, 1.0, Wanted(True), signals, None, 1)
    dense = _load_teacher(task, source, teacher)
    ours, theirs = wanted_features(signals, model.config, dense.config)
    cache = TeacherCache(
        Teacher(dense, signals, uses_bf16(settings.precision)),
        theirs,
        task.train,
        workspace.partial / f"teacher-{rank()}",
        settings.cache_gigabytes,
    )
    heads = relation_heads(model.config, dense.config)
    return TaskLoss(task.kind, settings.labels, ours, signals, cache, heads)


def _load_teacher(task: Task, source: Checkpoint, teacher: Checkpoint) -> Any:
    if not has_task_head(teacher):
        raise InputError(
            f"{teacher.path}: the teacher has no task head; fine-tune it first with `prunella "
            "transfer`, without a teacher"
        )
    check_same_vocabulary(
        task.tokenizer, load_tokenizer(teacher), {"model": source.path, "teacher": teacher.path}
    )
    model = load_task_model(teacher, task)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    stored = [str(v) for v in (teacher.config.get("id2label") or {}).values()]
    if task.names and stored and stored != names:
        raise InputError(
            f"{teacher.path}: the teacher's labels are {', '.join(stored)}, the task's "
            f"{', '.join(names)}; they must be the same in the same order"
        )
    return eval_mode(model)


def validation_figures(model: Any, task: Task, bf16: bool) -> dict[str, Any]:
    """The task's metrics on the held-out rows; empty without them."""
    if task.validation is None:
        return {}
    logits = predict_logits(
        model, task.validation, batch_size=64, pad_id=pad_id(task.tokenizer), bf16=bf16
    )
    return score(task.kind, logits, task.validation.labels)


def summary_figures(summary: Summary) -> dict[str, Any]:
    """What a checkpoint's metrics say of its training."""
    return {"tokens": summary.tokens, "seconds": summary.seconds, "steps": summary.steps}


def task_record(task: Task, settings: FineTuneSettings) -> dict[str, Any]:
    """What a later stage must know to read rows as this one did."""
    return {
        "kind": task.kind,
        "labels": task.names,
        "text": settings.text,
        "pair": settings.pair,
        "label": settings.label,
        "max_length": settings.max_length,
        "train_rows": len(task.train),
        "validation_rows": len(task.validation) if task.validation else 0,
    }
