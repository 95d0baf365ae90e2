"""The settings of every stage: the verbs of the command line and the steps of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from prunella.settings.base import (
    Count,
    DistillationSettings,
    OutputSettings,
    Positive,
    PruningSettings,
    Settings,
    Share,
    TextSettings,
    TrainingSettings,
)


class TeachSettings(OutputSettings, TextSettings, TrainingSettings):
    """Masked language modelling of a dense model on raw text: prepares the teacher."""

    model: str | None = None
    """Checkpoint folder or Hub name to start from."""
    config: dict[str, Any] | str | None = None
    """Instead of a model: a transformers configuration (a JSON or YAML file; inline in a recipe). A WordPiece vocabulary is trained as well."""
    vocabulary_size: Annotated[int, Field(ge=32)] = 8192
    """Entries of the vocabulary that is trained when starting from a configuration."""
    steps: Count = 1000
    """Optimiser steps."""
    head_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps for a missing MLM head, encoder frozen, before the others; by default a tenth of them."""
    head_learning_rate: Positive = 1e-3
    """Peak learning rate of that first phase."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW."""


class PruneSettings(OutputSettings, TextSettings, TrainingSettings, PruningSettings):
    """Prunes once, during masked language modelling, with distillation from the dense model."""

    model: str
    """Checkpoint folder or Hub name of the student before pruning."""
    teacher: str | None = None
    """Frozen teacher with the same vocabulary; by default the model itself. Its architecture may differ."""
    steps: Count = 1000
    """Optimiser steps."""
    mlm: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the masked-language-modelling loss; 0 needs no MLM head."""
    distillation: DistillationSettings = DistillationSettings(logits=0.5)
    """Signals from the teacher."""
    learning_rate: Positive = 5e-4
    """Peak learning rate of AdamW."""
    dry_run: bool = False
    """Print which matrices would be pruned, and why the others would not, and stop."""


class TaskSettings(Settings):
    """A labelled task: where it is and which columns to read."""

    text: str | None = None
    """Column of the text; by default the usual names are looked for."""
    pair: str | None = None
    """Column of the second text of a pair."""
    label: str | None = None
    """Column of the label."""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """Kind of task; auto takes regression for labels that are not whole numbers."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Longer texts are cut to this many tokens."""


class FineTuneSettings(OutputSettings, TaskSettings, TrainingSettings):
    """What transfer and quantize share: a model, labelled rows and a teacher of the task."""

    model: str
    """Checkpoint folder or Hub name to start from."""
    train: str
    """Training rows: csv, tsv, jsonl, json, parquet (also .gz, .xz), or hub:NAME/CONFIG."""
    validation: str | None = None
    """Held-out rows, scored at the end."""
    teacher: str | None = None
    """Fine-tuned dense checkpoint of the same task, which `transfer` makes from a dense model."""
    epochs: Annotated[float, Field(ge=0)] = 3.0
    """Passes over the training rows."""
    steps: Count | None = None
    """Optimiser steps, instead of epochs."""
    batch_size: Count = 32
    """Rows in a micro-batch."""
    bucket: bool = True
    """Batch rows of similar length, padded to the longest; otherwise pad all to max_length."""
    labels: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the loss on the labels; it is 1 without a teacher."""
    distillation: DistillationSettings = DistillationSettings(logits=0.5, hidden=0.5)
    """Signals from the teacher."""
    cache_gigabytes: Positive = 8.0
    """Teacher outputs are computed once and kept on disk up to this size; beyond it hidden states are recomputed."""


class TransferSettings(FineTuneSettings):
    """Fine-tunes on a labelled task with the sparsity pattern locked."""

    lock: Literal["auto", "on", "off"] = "auto"
    """Keep zeros zero: auto when the model is sparse; on insists that it is; off never."""
    prune: PruningSettings | None = None
    """Prune during this fine-tuning instead (the usual baseline): a pruning schedule."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW."""


class QuantizeSettings(FineTuneSettings):
    """8-bit quantisation-aware training of a transferred model, pattern locked."""

    epochs: Annotated[float, Field(ge=0)] = 1.0
    """Passes over the training rows; 0 only rounds the weights."""
    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW."""


class PackSettings(Settings):
    """Writes a checkpoint as one compact file."""

    model: str
    """Checkpoint folder."""
    out: str
    """File to write, usually *.prn."""
    overwrite: bool = False
    """Replace an existing file."""
    weights: Literal["auto", "int8", "bf16", "fp32"] = "auto"
    """Encoder matrices: auto stores what the checkpoint holds, int8 after quantize, else fp32; int8 and bf16 round."""
    embeddings: Literal["fp32", "bf16", "int8"] = "fp32"
    """Embedding tables: exact, or rounded to bf16 or to int8 by row."""


class EvaluateSettings(TaskSettings):
    """Scores a fine-tuned checkpoint on labelled rows."""

    model: str
    """Fine-tuned checkpoint folder."""
    data: str
    """Labelled rows: csv, tsv, jsonl, json, parquet (also .gz, .xz), or hub:NAME/CONFIG."""
    split: str = "validation"
    """Split of a Hub data set."""
    predictions: str | None = None
    """File to write predictions to, one JSON object a line."""
    batch_size: Count = 64
    """Rows in a batch."""
    resamples: Count = 1000
    """Bootstrap resamples behind the interval."""
    level: Share = 0.95
    """Level of the bootstrap interval."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the bootstrap."""
    threads: Count | None = None
    """CPU threads; by default one for each core."""


class InspectSettings(Settings):
    """Shows what is in a checkpoint or a packed file."""

    model: str
    """Checkpoint folder or packed file."""


class UnpackSettings(OutputSettings):
    """Writes a packed file back as an ordinary checkpoint."""

    model: str
    """Packed file."""
