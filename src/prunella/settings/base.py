"""What settings have in common: frozen, strict, and documented where they are declared."""

from __future__ import annotations

import pkgutil
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prunella.sparsity import criteria

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "bf16", "fp32"]

if TYPE_CHECKING:
    Score = str
else:  # a criterion is a file: its name is a value of --score
    Score = Literal[tuple(sorted(file.name for file in pkgutil.iter_modules(criteria.__path__)))]


def _pattern(text: str) -> str:
    """Checks how a pattern is written; `prunella.sparsity.patterns` makes it."""
    sizes = [int(number) for number in re.findall(r"\d+", text)]
    n_of_m = re.fullmatch(r"\d+:\d+", text) and 0 < sizes[0] < sizes[1]
    blocks = re.fullmatch(r"\d+x\d+", text) and all(sizes)
    if not (n_of_m or blocks or text in ("heads", "neurons")):
        raise ValueError(
            f"'{text}' is no pattern: expected 1x1, blocks such as 4x1 (4 outputs by 1 input), n:m "
            "with 0 < n < m such as 2:4, heads or neurons"
        )
    return text


def _dotted(given: Any) -> Any:
    """Names with dots again, which a command line takes for settings within settings."""
    if not isinstance(given, dict):
        return given
    found: dict[str, Any] = {}
    for key, value in given.items():
        inner = _dotted(value)
        below = inner.items() if isinstance(inner, dict) else [(None, inner)]
        found |= {key if name is None else f"{key}.{name}": item for name, item in below}
    return found


class Settings(BaseModel):
    """Frozen; unknown keys are errors; the docstring under a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OutputSettings(Settings):
    """Where a stage puts its checkpoint."""

    out: str
    """Folder of the checkpoint to write. Unfinished work is kept beside it in OUT.partial."""
    overwrite: bool = False
    """Replace what is in OUT, and discard unfinished work of other settings or of another number of processes."""


class TrainingSettings(Settings):
    """What every training stage shares."""

    learning_rate: Positive
    """Peak learning rate of AdamW."""
    warmup: Share = 0.05
    """Share of all steps over which the learning rate rises linearly."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0 switches clipping off."""
    accumulation: Count = 1
    """Micro-batches per optimiser step."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout probability while training; by default the model's own."""
    frozen: tuple[str, ...] = ()
    """Modules not to train, by name, or whole sub-trees ("bert.embeddings")."""
    precision: Precision = "auto"
    """bf16 autocast or fp32; auto takes bf16 where the processor has instructions for it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random: data order, masking, dropout, new heads."""
    threads: Count | None = None
    """CPU threads; by default one for each core."""
    save_every: Count = 200
    """Steps between the states from which a killed run resumes."""
    log_every: Count = 20
    """Steps between lines of log.jsonl."""
    report_to: tuple[str, ...] = ()
    """Trackers of the transformers Trainer as well: tensorboard, wandb, mlflow, trackio."""


class DistillationSettings(Settings):
    """Signals from a frozen dense teacher; each is weighted, 0 leaves it out."""

    logits: Annotated[float, Field(ge=0)] = 0.0
    """Weight of T^2 KL(teacher || student) between output distributions; MSE for regression."""
    hidden: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the hidden-state loss: MSE over the teacher's variance, mean over layers."""
    attention: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the attention-relation loss of the last layer (MiniLMv2: Q-Q, K-K, V-V)."""
    temperature: Positive = 2.0
    """Softmax temperature T of the logits signal."""

    @property
    def active(self) -> bool:
        return bool(self.logits or self.hidden or self.attention)


class PruningSettings(Settings):
    """How much, which shape, what and when."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the prunable weights to remove, in [0, 1); with n:m by default what the pattern removes."""
    initial_sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Where the growth starts; by default the sparsity that the model already has."""
    start: Annotated[float, Field(ge=0)] = 0.0
    """Begin of the growth: up to 1 a share of all steps, above 1 a step."""
    growth_end: Annotated[float, Field(gt=0)] = 0.5
    """End of the cubic growth: up to 1 a share of all steps, above 1 a step."""
    freeze: Annotated[float, Field(gt=0)] = 0.8
    """From here masks no longer move: up to 1 a share of all steps, above 1 a step."""
    update_every: Annotated[float, Field(gt=0)] | None = None
    """Interval between choices of masks: below 1 a share of all steps, else steps. By default 0.01, or 0.1 for a score that takes long, retrains in rounds or sees a window (obert, sparsegpt, lottery, snip, wanda)."""
    one_shot: bool = False
    """Prune once: the first --window steps only gather what the score needs, at a learning rate of 0; all others recover. Start, growth_end, freeze and update_every do not count then."""
    score: Score = "magnitude"
    """What is least important."""
    score_options: dict[str, float] = {}
    """Numbers of the score, by name (score-options.damping 0.1); docs/pruning.md lists them."""
    window: Count = 64
    """Steps before each choice of masks whose gradients or inputs a score sees, if it needs them."""
    pattern: Annotated[str, AfterValidator(_pattern)] = "1x1"
    """Shape of what goes: 1x1 single weights; blocks such as 4x1 (4 outputs by 1 input, which the engine is fastest at); 2:4 at most 2 of 4 neighbouring inputs stay; heads of attention (zeroed: no configuration of transformers has layers with fewer); neurons of the FFN (cut out at the end: the model is smaller)."""
    scope: Literal["uniform", "global", "row"] = "uniform"
    """uniform: each matrix reaches the sparsity; row: each row (output) of it; global: one threshold over all of them."""
    densities: Annotated[dict[str, Share], BeforeValidator(_dotted)] = {}
    """Shares to keep of some matrices, by role or module (densities.query 0.3); sparsity and scope are for the others."""
    roles: tuple[
        Literal["query", "key", "value", "attention_output", "ffn_in", "ffn_out", "pooler"], ...
    ] = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out", "pooler")
    """Roles of the matrices to prune."""
    exclude: tuple[str, ...] = ()
    """Modules to leave dense, by name, or whole sub-trees ("bert.encoder.layer.0")."""

    @model_validator(mode="before")
    @classmethod
    def _sparsity_of_n_of_m(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("sparsity") is not None:
            return values
        found = re.fullmatch(r"(\d+):(\d+)", str(values.get("pattern")))
        if found and 0 < int(found[1]) < int(found[2]):
            return {**values, "sparsity": 1 - int(found[1]) / int(found[2])}
        return values


class HeadSettings(Settings):
    """How a missing MLM head is trained."""

    head_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps for a missing MLM head, encoder frozen, before the others; by default a tenth of them, or none where the teacher has one to copy."""
    head_learning_rate: Positive = 1e-3
    """Peak learning rate of that first phase."""


class TextSettings(Settings):
    """Raw text, and how blocks are cut from it."""

    text: tuple[str, ...]
    """Training text: files, globs (also .gz, .xz, .bz2; .jsonl with a "text" column) or hub:NAME. One paragraph a line, a blank line between documents."""
    validation_text: tuple[str, ...] = ()
    """Held-out text; by default whole documents of the training text are set aside."""
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens in a full block."""
    batch_tokens: Count = 4096
    """Tokens in a micro-batch (there is never padding)."""
    short_share: Share = 0.3
    """Share of micro-batches with shorter sequences, which pruned models reproduce worst."""
    pair_share: Share = 0.5
    """Share of the short ones that are made of two segments."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens that masked language modelling hides."""
    cache: str | None = None
    """Folder of the tokenised corpora; by default prunella/ in the user's cache folder."""
    max_tokens: Count | None = None
    """Use no more than this many tokens of the training text."""
