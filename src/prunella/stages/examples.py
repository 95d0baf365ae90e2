"""Labelled rows as one model reads them: opened, predicted, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerFast

from prunella.checkpoint import Checkpoint
from prunella.data.metrics import metrics
from prunella.data.presets import preset_of, settled
from prunella.data.readers import read_table
from prunella.data.task_batches import EncodedTask
from prunella.engine.options import USUAL_STRIDE
from prunella.errors import InputError
from prunella.models import (
    check_length,
    load_tokenizer,
    pad_id,
    positions,
    takes_token_types,
    task_head,
)
from prunella.settings import EvaluateSettings, TaskSettings
from prunella.tasks import (
    KINDS,
    Columns,
    Deciding,
    Kind,
    Predictions,
    Reading,
    Rows,
    load_rows,
)
from prunella.training.task import predict_logits

S = TypeVar("S", bound=TaskSettings)
# What a model that was trained on a task needs to read rows of it again. None is "not set" in all
# of these settings but the last, which has a default.
_INHERITED = (
    *("text", "pair", "label", "choices", "max_length", "stride", "no_answer", "threshold"),
    "max_answer_length",
)


@dataclass(frozen=True)
class Examples:
    """The rows of one split, and their tokens."""

    kind: Kind[Any]
    rows: Rows
    encoded: EncodedTask
    reading: Reading

    @property
    def gold(self) -> Any:
        """What is right, as `prunella.data.metrics` takes it."""
        return self.rows.gold

    @property
    def classes(self) -> int | None:
        """How many classes the head has; None where its outputs are none."""
        return len(self.rows.names) or None

    def __len__(self) -> int:
        return len(self.rows)


def read_split(
    settings: TaskSettings,
    source: str,
    split: str,
    kind: str,
    names: list[str] | None = None,
) -> tuple[Kind[Any], Rows]:
    """The rows of a file, or of a split of a Hub data set."""
    named = Columns(settings.text, settings.pair, settings.label, settings.choices)
    columns, kind = settled(source, named, kind)
    return load_rows(source, columns, kind=kind, names=names, split=hub_split(source, split))


def read_unlabelled(settings: TaskSettings, source: str, kind: Kind[Any], names: list[str]) -> Rows:
    """The rows of a file, or of the training split of a Hub data set, whatever their labels are."""
    named = Columns(settings.text, settings.pair, None, settings.choices)
    columns, _ = settled(source, named, kind.name)
    table = read_table(source, hub_split(source, "train"))
    return kind.read_texts(table, columns, names, source)


def hub_split(source: str, split: str) -> str | None:
    """Files have no splits; data sets of the Hub do, and some call the held-out one otherwise."""
    if not source.startswith("hub:"):
        return None
    preset = preset_of(source)
    return preset.validation if preset and split == "validation" else split


def as_trained(settings: S, checkpoint: Checkpoint) -> S:
    """Settings, completed by those that a fine-tuned checkpoint was trained with."""
    record = (checkpoint.provenance or {}).get("task") or {}
    update: dict[str, Any] = {
        name: record[name]
        for name in _INHERITED
        if record.get(name) is not None and not _is_set(settings, name)
    }
    if settings.kind == "auto" and record.get("kind") in KINDS:
        update["kind"] = record["kind"]
    return settings.model_copy(update=update)


def _is_set(settings: TaskSettings, name: str) -> bool:
    return name in settings.model_fields_set and getattr(settings, name) is not None


def reading_of(
    settings: TaskSettings,
    kind: Kind[Any],
    tokenizer: PreTrainedTokenizerFast,
    configs: Sequence[Any],
) -> Reading:
    """How these models read rows.

    Args:
        settings: If they leave `max_length` open it is the kind's usual one, or what fits.
        kind: Of the task.
        tokenizer: That of all models.
        configs: Their configurations.

    Raises:
        InputError: If a model has fewer positions than `max_length`.
    """
    fitting = [tokenizer.model_max_length, *map(positions, configs)]
    length = settings.max_length or min(kind.usual_length, *(n for n in fitting if n))
    for config in configs:
        check_length("max_length", length, config)
    token_types = any(takes_token_types(config) for config in configs)
    stride = USUAL_STRIDE if settings.stride is None else settings.stride
    return Reading(tokenizer, length, stride, token_types)


def deciding_of(settings: TaskSettings, traits: Mapping[str, Any]) -> Deciding:
    """How outputs become predictions; the rows' traits count where the settings leave it open."""
    no_answer = settings.no_answer
    return Deciding(
        settings.threshold,
        bool(traits.get("no_answer")) if no_answer is None else no_answer,
        settings.max_answer_length,
    )


def open_for_evaluation(
    settings: EvaluateSettings, checkpoint: Checkpoint, config: Any
) -> tuple[Examples, Deciding]:
    """The labelled rows that a checkpoint is scored on, read as it was trained.

    Args:
        settings: What they leave open is taken from the checkpoint's record.
        checkpoint: A fine-tuned one.
        config: Its configuration.

    Raises:
        InputError: If the rows do not fit the checkpoint's head.
    """
    settings = as_trained(settings, checkpoint)
    name = kind_of_head(checkpoint, config) if settings.kind == "auto" else settings.kind
    names = label_names(config) if KINDS[name].named else None
    check_head(checkpoint, KINDS[name], names or [], config)
    kind, rows = read_split(settings, settings.data, settings.split, name, names)
    record = (checkpoint.provenance or {}).get("task") or {}
    if record.get("kind") == kind.name and "pairs" in record:
        check_pairs(kind, rows, settings.data, record["pairs"], "the model was trained on")
    reading = reading_of(settings, kind, load_tokenizer(checkpoint), [config])
    examples = Examples(kind, rows, kind.encode(rows, reading), reading)
    return examples, deciding_of(settings, kind.traits(rows))


def kind_of_head(checkpoint: Checkpoint, config: Any) -> str:
    """The kind of task that a checkpoint's head is for."""
    head = task_head(checkpoint)
    kinds = [kind for kind in KINDS.values() if kind.head == head]
    by_problem = [kind.name for kind in kinds if kind.problem == config.problem_type]
    if len(by_problem) == 1:
        return by_problem[0]
    return "regression" if config.num_labels == 1 else "classification"


def check_head(
    checkpoint: Checkpoint, kind: Kind[Any], names: list[str], config: Any, advice: str = ""
) -> None:
    """Refuses a head that is for another kind of task, or has another number of outputs.

    Args:
        checkpoint: A head that it lacks is made later.
        kind: Of the task.
        names: Of the task's classes.
        config: The checkpoint's.
        advice: What to do about it.
    """
    head, outputs = task_head(checkpoint), kind.outputs(names)
    advice = advice and f"; {advice}"
    if head is not None and head != kind.head:
        raise InputError(
            f"{checkpoint.path}: its head is for another kind of task ({head}) than {kind.name} "
            f"({kind.head}){advice}"
        )
    counted = head in ("SequenceClassification", "TokenClassification")
    if counted and config.num_labels != outputs:
        raise InputError(
            f"{checkpoint.path}: its head has {config.num_labels} outputs, the task {outputs} "
            f"({', '.join(names[:20]) or kind.name}){advice}"
        )


def check_pairs(kind: Kind[Any], rows: Rows, source: str, pairs: bool, of: str) -> None:
    """Refuses single texts for a model of pairs, and the other way round."""
    found = kind.traits(rows).get("pairs")
    if found is None or found == pairs:
        return
    one, two = "single texts", "pairs of texts"
    raise InputError(
        f"{source}: holds {two if found else one}, {of} {two if pairs else one}; name the "
        f"column{'s' if pairs else ''} with --text{' and --pair' if pairs else ''}, or take other "
        "rows"
    )


def label_names(config: Any) -> list[str]:
    """What a head's outputs are called; numbers where transformers made the names up."""
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    unnamed = names == [f"LABEL_{i}" for i in range(len(names))]
    return [str(i) for i in range(len(names))] if unnamed else names


def predict(
    model: Any,
    examples: Examples,
    deciding: Deciding,
    *,
    batch_size: int = 64,
) -> Predictions:
    """What a model says of each row."""
    padding = pad_id(examples.reading.tokenizer)
    logits = predict_logits(model, examples.encoded, batch_size=batch_size, pad_id=padding)
    return decided(logits, examples, deciding)


def decided(logits: np.ndarray, examples: Examples, deciding: Deciding) -> Predictions:
    """What logits say of each row.

    Raises:
        InputError: If some are no numbers: they would pass for the first class.
    """
    encoded = examples.encoded
    broken = np.flatnonzero(np.isnan(logits).any(axis=1))
    if len(broken):
        sequences = np.searchsorted(encoded.output_offsets, broken, side="right") - 1
        rows = sequences if encoded.examples is None else encoded.examples[sequences]
        raise InputError(
            f"the model's outputs are no numbers (NaN) for {len(np.unique(rows))} of "
            f"{len(examples)} rows: its weights have diverged; train it again, with a lower "
            "learning rate"
        )
    return examples.kind.decode(logits, encoded, examples.rows, examples.reading, deciding)


def figures(examples: Examples, predictions: Predictions) -> dict[str, Any]:
    """The task's metrics, and what was odd about the rows."""
    found = metrics(
        examples.kind.name,
        examples.gold,
        predictions.values,
        logits=predictions.logits,
        classes=examples.classes,
    )
    return found | oddities(examples)


def oddities(examples: Examples, prefix: str = "") -> dict[str, int]:
    """How many rows were cut, and the like; what never happened is left out."""
    counts = {**examples.rows.counts, **examples.encoded.counts}
    return {prefix + name: count for name, count in counts.items() if count}
