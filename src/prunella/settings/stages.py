"""The settings of every stage: the verbs of the command line and the steps of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from prunella.roles import ROLES, Role
from prunella.settings.base import (
    Count,
    DistillationSettings,
    HeadSettings,
    OutputSettings,
    Positive,
    PruningSettings,
    Settings,
    Share,
    TextSettings,
    TrainingSettings,
)


class TeachSettings(OutputSettings, TextSettings, HeadSettings, TrainingSettings):
    """Masked language modelling of a dense model on raw text: prepares the teacher."""

    model: str | None = None
    """Checkpoint folder or Hub name to start from."""
    config: dict[str, Any] | str | None = None
    """Instead of a model: a transformers configuration (a JSON or YAML file; inline in a recipe). A WordPiece vocabulary is trained as well."""
    vocabulary_size: Annotated[int, Field(ge=32)] = 8192
    """Entries of the vocabulary that is trained when starting from a configuration."""
    steps: Count = 1000
    """Optimiser steps."""
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


class AdaptSettings(OutputSettings, TextSettings, HeadSettings, TrainingSettings):
    """Continues masked language modelling of a sparse model on text of a domain, its zeros locked."""

    model: str
    """Checkpoint folder or Hub name: of `prune`, or any other; a dense model has nothing to lock."""
    general_text: tuple[str, ...] = ()
    """Held-out general text: the loss on it before and after tells what the model forgets."""
    replay_text: tuple[str, ...] = ()
    """General text to train on as well, against forgetting; --general-share says how much."""
    general_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of micro-batches that are taken from --replay-text."""
    deduplicate: bool = True
    """Drop paragraphs of the training text that nearly repeat an earlier one."""
    teacher: str | None = None
    """Frozen dense model with the same vocabulary: of the domain (`prunella adapt` of a dense model makes one), or with --mlm 0 --distillation.hidden 1, which need no MLM head, the fine-tuned one of a task."""
    steps: Count = 1000
    """Optimiser steps."""
    mlm: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the masked-language-modelling loss; it is 1 without a teacher."""
    distillation: DistillationSettings = DistillationSettings(logits=0.5)
    """Signals from the teacher."""
    learning_rate: Positive = 5e-4
    """Peak learning rate of AdamW."""
    dry_run: bool = False
    """Print which matrices hold zeros that would be locked, and stop."""


class TaskSettings(Settings):
    """A labelled task: where it is and which columns to read."""

    text: str | None = None
    """Column of the text, of the words of token classification, or of the question; by default the usual names are looked for."""
    pair: str | None = None
    """Column of the second text of a pair, or of the context of a question."""
    label: str | None = None
    """Column of the label, the tags or the answers; several between commas where each label has a column of 0 and 1."""
    choices: str | None = None
    """Column of lists of choices (multiple choice), or one for each choice, between commas."""
    kind: Literal[
        "auto",
        "classification",
        "regression",
        "multi-label",
        "token-classification",
        "question-answering",
        "multiple-choice",
    ] = "auto"
    """Kind of task; auto goes by what the columns hold."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens of a sequence at most; by default as trained, or else 128, in question answering 384. Tagged sentences and contexts that are longer are read in windows, other texts are cut."""
    stride: Annotated[int, Field(ge=0)] | None = None
    """Tokens that the windows of a long text share, up to half of a window; by default as trained, or else 128."""
    no_answer: bool | None = None
    """Whether questions may have no answer (SQuAD v2), or always have one; by default as some of the training rows have none or all have one."""
    threshold: float | None = None
    """Probability from which a label counts (multi-label, usually 0.5), or score above which there is no answer (0); by default as trained."""
    max_answer_length: Count = 30
    """Tokens of an answer at most; by default as trained, or else 30."""


class FineTuneSettings(OutputSettings, TaskSettings, TrainingSettings):
    """What transfer and quantize share: a model, labelled rows and a teacher of the task."""

    model: str
    """Checkpoint folder or Hub name to start from."""
    train: str
    """Training rows: csv, tsv, jsonl, json, parquet, CoNLL, SQuAD JSON (also .gz, .xz), or hub:NAME/CONFIG."""
    validation: str | None = None
    """Held-out rows, scored at the end."""
    unlabelled: tuple[str, ...] = ()
    """Files of further rows that the teacher alone answers: the columns of --train, without labels (those that are there do not count). A pass goes over them as well. Of a Hub data set the split train."""
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
    class_weights: Literal["none", "balanced"] = "none"
    """balanced counts rare classes as much as common ones in the loss on the labels."""
    distillation: DistillationSettings = DistillationSettings(logits=0.5, hidden=0.5)
    """Signals from the teacher, which those that are given need."""
    cache_gigabytes: Annotated[float, Field(ge=0)] = 8.0
    """Teacher outputs are computed once and kept on disk up to this size; beyond it hidden states are recomputed, to the same bits."""


class TransferSettings(FineTuneSettings):
    """Fine-tunes on a labelled task with the sparsity pattern locked."""

    lock: Literal["auto", "on", "off"] = "auto"
    """Keep zeros zero: auto when the model is sparse; on insists that it is; off never."""
    new_head: bool = False
    """Begin a new head where the model has one: it learned another task first, which may help where rows are few (arXiv 1811.01088)."""
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


class MaskSettings(FineTuneSettings):
    """Adapts a frozen model to a task by choosing which of its connections stay.

    The weights stay as they are. A task is a bit a weight and a small head: OUT/task.mask, which `prunella mask apply BACKBONE task.mask --out CHECKPOINT` and `prunella.load(..., masks=[...])` take. OUT itself is an ordinary checkpoint, the mask applied.
    """

    preset: Literal["paper"] | None = None
    """paper: the settings that were published for method abp (arXiv 2105.03343): fixed drift, batches of 8, rates of 2e-5, labels alone. What is given besides comes first."""
    method: Literal["smp", "abp", "zhao"] = "smp"
    """How connections are chosen. smp: the highest scores, the layers share (arXiv 2210.06210); abp: as smp, a sigmoid's derivative for the step's (arXiv 2105.03343); zhao: a threshold that stays (arXiv 2004.12406)."""
    kept: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the connections to keep; zhao keeps what its threshold leaves."""
    drift: Annotated[float, Field(ge=0)] | None = None
    """abp: let the threshold rise by this much a step until --kept is reached, or training ends, instead of by a schedule."""
    mask_learning_rate: Positive | None = None
    """Peak learning rate of the scores; by default the method's."""
    regularizer: Annotated[float, Field(ge=0)] | None = None
    """Weight of the mean sigmoid of the scores in the loss; by default the method's: 400 for smp, 100 for abp, or 0."""
    scope: Literal["uniform", "role", "global"] | None = None
    """uniform: each matrix keeps the share; role: the layers' matrices of one role do together; global: all do together. By default the method's."""
    head_start: Annotated[float, Field(ge=0)] | None = None
    """How many steps of learning the first score of a matrix's largest weight lies above that of its smallest; by default 100, or 0 for zhao. As published it is 0: the first removals then fall on weights of any size."""
    recovery: bool = True
    """Let removed connections come back."""
    growth_end: Annotated[float, Field(gt=0)] = 0.5
    """End of the cubic growth of sparsity: up to 1 a share of all steps, above 1 a step."""
    freeze: Annotated[float, Field(gt=0)] = 1.0
    """From here the masks no longer move: up to 1 a share of all steps, above 1 a step."""
    update_every: Annotated[float, Field(gt=0)] = 0.005
    """Interval between choices of masks: below 1 a share of all steps, else steps."""
    roles: tuple[Role, ...] = ROLES
    """Roles of the matrices to mask."""
    exclude: tuple[str, ...] = ()
    """Modules to leave whole, by name, or whole sub-trees ("bert.encoder.layer.0")."""
    embeddings: bool = False
    """Mask the embedding tables as well."""
    also_train: tuple[Literal["pooler", "biases", "norms"], ...] = ()
    """Train these parts as well; task.mask then holds them."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW for the head."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = 0.0
    """Dropout probability while training: masks regularise by themselves."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset") == "paper":
            return {**_PAPER, **values}
        return values


# Adapting by Pruning, section 4; the head is the model's own and not the paper's.
_PAPER: Mapping[str, Any] = {
    "method": "abp",
    "drift": 2e-7,
    "mask_learning_rate": 2e-5,
    "head_start": 0.0,
    "regularizer": 0.0,
    "scope": "global",
    "learning_rate": 2e-5,
    "batch_size": 8,
    "epochs": 3.0,
    "update_every": 1.0,
    "labels": 1.0,
    "distillation": DistillationSettings(),
    "dropout": None,
}


class ApplyMaskSettings(OutputSettings):
    """Writes a backbone with a task's mask and head as an ordinary checkpoint."""

    model: str
    """Checkpoint folder or Hub name of the backbone that the mask was learned on."""
    mask: str
    """Mask of a task, as `prunella mask` writes it."""


class PackSettings(Settings):
    """Writes a checkpoint as one compact file."""

    model: str
    """Checkpoint folder or Hub name."""
    out: str
    """File to write, usually *.prn."""
    overwrite: bool = False
    """Replace an existing file."""
    weights: Literal["auto", "int8", "bf16", "fp32"] = "auto"
    """Encoder matrices: auto stores what the checkpoint holds, int8 after quantize, else fp32; int8 and bf16 round."""
    embeddings: Literal["fp32", "bf16", "int8"] = "fp32"
    """Embedding tables: exact, or rounded to bf16 or to int8 by row."""
    backbone: str | None = None
    """Checkpoint folder or Hub name that the model was made from: leave out what is the same there, such as frozen embeddings. The file is then only for `unpack --backbone`."""


class EvaluateSettings(TaskSettings):
    """Scores a fine-tuned model on labelled rows; of two models (`evaluate A B`) also their difference.

    Each model reads the rows as it was trained to, unless told otherwise.
    """

    model: str
    """Fine-tuned checkpoint folder or Hub name, or a packed file, which the engine runs."""
    against: str | None = None
    """A second model to compare with, on the same rows."""
    data: str
    """Labelled rows: csv, tsv, jsonl, json, parquet, CoNLL, SQuAD JSON (also .gz, .xz), or hub:NAME/CONFIG."""
    split: str = "validation"
    """Split of a Hub data set."""
    metric: str | None = None
    """Metric to compare by, and to give an interval of; by default the one that is published for the task."""
    predictions: str | None = None
    """File to write predictions to, one JSON object a line."""
    batch_size: Count = 64
    """Sequences in a batch; the engine needs none."""
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
    """Checkpoint folder, Hub name or packed file."""


class StudySettings(Settings):
    """Compares sub-networks: where they keep weights, what they share, what is disconnected."""

    models: tuple[str, ...]
    """Checkpoint folders, packed files or task.mask files of one architecture; masks are what is not zero. Also without the flag: prunella study A B C."""
    out: str | None = None
    """HTML file to write: one page, complete in itself."""
    overwrite: bool = False
    """Replace that file."""
    spectra: bool = True
    """Spectral gap of every matrix, which takes most of the time."""
    text: str | None = None
    """File of texts, one a line or in a column "text" or "sentence": compares what the checkpoints compute on them (CKA of layer outputs, predictions)."""
    texts: Count = 256
    """How many of its first texts to take."""


class UnpackSettings(OutputSettings):
    """Writes a packed file back as an ordinary checkpoint."""

    model: str
    """Packed file."""
    backbone: str | None = None
    """Checkpoint folder or Hub name that the file builds on, if it was packed with --backbone."""


class ExportSettings(Settings):
    """Writes a checkpoint as ONNX, for ONNX Runtime, OpenVINO and others.

    One file, any batch and any length; needs "prunella[train,export]". Int8 keeps the grid of a quantised checkpoint's weights. Its activations have a range of each token's own, which no standard operator has; see --activations. Where onnxruntime is installed, the file is tried beside PyTorch, and not written if it is far off.
    """

    model: str
    """Checkpoint folder or Hub name, with a head for sequences, tokens, spans or masked words, or without one."""
    onnx: str
    """File to write, usually *.onnx."""
    weights: Literal["auto", "fp32", "int8"] = "auto"
    """Encoder matrices: auto is int8 after quantize, else fp32; int8 rounds what is not quantised yet."""
    activations: Literal["static", "dynamic", "float"] = "static"
    """In int8. static: one range a matrix, found on text; the fastest in ONNX Runtime and OpenVINO alike. dynamic: the range of each batch (padding included), needs no text; as fast in ONNX Runtime, 7 times slower in OpenVINO. float: bytes for weights only; nearest to the checkpoint, but no faster than fp32 in ONNX Runtime, and nearly as fast as static in OpenVINO, which makes bytes of activations itself."""
    calibrate: str | None = None
    """Text for static ranges: a table with a text column, or a text a line; by default the rows that the checkpoint was trained on."""
    texts: Count = 128
    """Texts to find static ranges on."""
    overwrite: bool = False
    """Replace an existing file."""


class BenchSettings(Settings):
    """Measures a packed model beside ONNX Runtime, OpenVINO and PyTorch, dense and sparse.

    The engines take turns, one call each, so that a machine that slows down slows all alike. Other engines need "prunella[train,peers]"; those that are not installed are left out. With BERT-Base all of it takes some twenty minutes and 15 GB; fewer --engines, --arms or --shapes take less.
    """

    model: str
    """Packed file."""
    shapes: str = "1x16,1x128,1x384,8x128,32x128"
    """Batch x tokens, between commas; empty for --texts alone."""
    threads: str = "1,2"
    """Counts of CPU threads, between commas."""
    engines: str = "prunella,onnxruntime,openvino,pytorch"
    """Engines, between commas."""
    arms: str | None = None
    """Forms of the model, between commas: dense or sparse, then fp32, bf16 or int8 ("sparse-int8"). By default dense-fp32, dense-int8, sparse-int8 and sparse-bf16, or sparse-fp32 where the processor knows no bf16."""
    dense: str | None = None
    """Checkpoint folder or Hub name of the dense parent, with the same head; by default the zeros are filled at random."""
    texts: str | None = None
    """Real texts as well, one a line or JSON lines: padded for the others, not for this engine; and the same batches with all lengths made equal."""
    batch: Count = 32
    """Texts in a batch."""
    batches: Count = 4
    """Batches of texts."""
    max_length: Annotated[int, Field(ge=8)] = 384
    """Longer texts are cut to this many tokens."""
    seconds: Positive = 3.0
    """Timed seconds for each arm and shape, on average; at least five rounds."""
    out: str | None = None
    """JSON file for all that was measured."""
    overwrite: bool = False
    """Replace that file."""


class PredictSettings(Settings):
    """Answers for texts with a packed model: labels, entities, answers, masked words, embeddings."""

    model: str
    """Packed file."""
    text: tuple[str, ...] = ()
    """A text (in question answering the question); give --text once for each."""
    text_pair: tuple[str, ...] = ()
    """The second text of a pair (in question answering the context), once for each --text."""
    file: str | None = None
    """Instead of texts: a file of them, jsonl, csv, tsv or plain lines (also .gz, .xz), or "-" for standard input."""
    out: str | None = None
    """Results of FILE, one JSON object a line, or "-" for standard output. Until all are there they are in OUT.partial, from which the same command goes on if it was interrupted."""
    overwrite: bool = False
    """Replace OUT, and discard results of an interrupted run."""
    format: Literal["auto", "jsonl", "csv", "tsv", "text"] = "auto"
    """Format of FILE; auto goes by its name, on standard input by its first line."""
    columns: tuple[str, ...] = ()
    """Column of the text; give --columns once more for the second text of a pair. By default those that training read, if FILE has them, or else the usual names."""
    task: (
        Literal[
            "classification",
            "multi-label",
            "regression",
            "token-classification",
            "question-answering",
            "fill-mask",
            "embedding",
        ]
        | None
    ) = None
    """Use the model for this instead of what its head is for; embedding always works."""
    top_k: Count | None = None
    """Classes, answers or masked words to name for each text."""
    threshold: float | None = None
    """Probability from which a label counts (multi-label), or score from which there is no answer."""
    no_answer: bool = False
    """Questions may have no answer (SQuAD v2)."""
    pooling: Literal["mean", "cls"] | None = None
    """Embeddings: mean of all tokens (the default), or the first token."""
    normalize: bool = False
    """Embeddings of length 1."""
    max_length: Count | None = None
    """Tokens of a sequence at most; by default as trained, or what the model takes where no training is recorded. Longer texts are cut, or read in windows."""
    skip_bad: bool = False
    """Report bad rows with their line, pass over them and count them; otherwise the first one ends the run."""
    threads: Count | None = None
    """CPU threads; by default one for each core."""
    batch_tokens: Count | None = None
    """Tokens that run through the model at once; more need more memory."""
