"""What a student learns from a frozen teacher: outputs, hidden states, attention relations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunella.errors import InputError
from prunella.language_head import Head, divergence, last_matrix, stopped_before
from prunella.models import takes_token_types
from prunella.roles import layer_of, role_of
from prunella.settings import DistillationSettings

_RELATION_ROLES = ("query", "key", "value")


@dataclass
class Features:
    """What one forward pass of a model shows.

    logits: [rows, outputs] of a task, [watched tokens, outputs] of one whose batches tell which
        tokens are watched, or [tokens, vocabulary] of masked language modelling.
    head: Instead of the latter, what they are made of.
    hidden: per compared layer [tokens, width], real tokens only.
    relations: "query", "key", "value" of the compared layer, each [rows, length, width].
    """

    logits: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)
    relations: dict[str, Tensor] = field(default_factory=dict)
    head: Head | None = None


@dataclass(frozen=True)
class Wanted:
    """Which features to collect: hidden layers by index, and the layer of the relations."""

    logits: bool
    hidden: tuple[int, ...] = ()
    relation: int | None = None


def layer_map(student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer the teacher layer it copies, evenly spread, last to last.

    >>> layer_map(3, 6)
    [1, 3, 5]
    """
    return [
        max(0, round((i + 1) * teacher_layers / student_layers) - 1) for i in range(student_layers)
    ]


def wanted_features(
    signals: DistillationSettings, student: Any, teacher: Any
) -> tuple[Wanted, Wanted]:
    """What to collect from student and teacher, by their configurations.

    Raises:
        InputError: If hidden states are to be compared between models of unequal width.
    """
    n_student, n_teacher = student.num_hidden_layers, teacher.num_hidden_layers
    if signals.hidden and student.hidden_size != teacher.hidden_size:
        raise InputError(
            f"distillation.hidden: the student is {student.hidden_size} wide and the teacher "
            f"{teacher.hidden_size}; use distillation.attention or distillation.logits, which do "
            "not need equal widths"
        )
    hidden = tuple(range(n_student)) if signals.hidden else ()
    mapped = tuple(layer_map(n_student, n_teacher)) if signals.hidden else ()
    relation = bool(signals.attention)
    logits = signals.logits > 0
    return (
        Wanted(logits, hidden, n_student - 1 if relation else None),
        Wanted(logits, mapped, n_teacher - 1 if relation else None),
    )


def forward(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    wanted: Wanted,
    *,
    tokens: Tensor | None = None,
    before_logits: bool = False,
) -> Features:
    """Runs a model and collects features.

    Args:
        model: A transformers model, possibly wrapped for distribution.
        inputs: Model inputs; those that the model does not take (token types) are left out.
        wanted: What to collect.
        tokens: For masked language modelling: flat indices of the tokens whose logits count. The
            head only runs on these, which saves most of its cost.
        before_logits: Stop in front of the logits of these tokens and give the `head` instead,
            where the model's head ends in one matrix.
    """
    inner: Any = model.module if hasattr(model, "module") else model
    kept = _accepted(inner, inputs)
    if type(inner).__name__.endswith("ForMultipleChoice"):  # wants [rows, choices, tokens]
        kept = {name: tensor[:, None] for name, tensor in kept.items()}
    matrix = last_matrix(inner) if before_logits and tokens is not None else None
    stopped = stopped_before(matrix) if matrix else nullcontext([])
    with (
        _record_relations(inner, wanted.relation) as relations,
        _only_tokens(inner, tokens),
        stopped as heads,
    ):
        output = model(**kept, output_hidden_states=bool(wanted.hidden), return_dict=True)
    real = inputs["attention_mask"].bool()
    asked = (wanted.logits or tokens is not None) and not heads
    logits = _logits_of(output) if asked else None
    if logits is not None and tokens is not None:
        logits = logits.reshape(-1, logits.shape[-1])
    elif logits is not None and "watched" in inputs:
        logits = logits[inputs["watched"]]
    hidden = [output.hidden_states[i + 1][real] for i in wanted.hidden]
    return Features(logits, hidden, relations, heads[0] if heads else None)


def _logits_of(output: Any) -> Tensor | None:
    """A head's outputs; those of span heads side by side: [rows, tokens, start and end]."""
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return getattr(output, "logits", None)


def distillation_loss(
    student: Features,
    teacher: Features,
    signals: DistillationSettings,
    attention_mask: Tensor,
    heads: int,
    between: Callable[[Tensor, Tensor, float], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The weighted signals, by name.

    Args:
        student: What the student shows.
        teacher: What the teacher shows.
        signals: Their weights.
        attention_mask: [rows, length], 1 for real tokens.
        heads: Relation heads of the attention signal.
        between: The logits' signal from student, teacher and temperature; by default
            `logits_loss`.
    """
    losses: dict[str, Tensor] = {}
    if signals.logits:
        signal = _logits_signal(student, teacher, signals.temperature, between or logits_loss)
        losses["logits"] = signals.logits * signal
    if signals.hidden:
        losses["hidden"] = signals.hidden * hidden_loss(student.hidden, teacher.hidden)
    if signals.attention:
        losses["attention"] = signals.attention * relation_loss(
            student.relations, teacher.relations, attention_mask, heads
        )
    return losses


def _logits_signal(
    student: Features,
    teacher: Features,
    temperature: float,
    between: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    if student.head and teacher.head:
        return divergence(student.head, teacher.head, temperature)
    ours, theirs = (f.head.logits() if f.head else f.logits for f in (student, teacher))
    assert ours is not None and theirs is not None
    return between(ours, theirs, temperature)


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), mean over rows (Hinton et al. 2015; Prune OFA, section 3.2).

    A single output is a regression: then the mean squared error, T has no meaning.
    """
    if student.shape[-1] == 1:
        return F.mse_loss(student.float(), teacher.float())
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over layers of MSE / variance of the teacher: 1 means that nothing is reproduced."""
    terms = [
        F.mse_loss(s.float(), t.float()) / t.float().var(correction=0).clamp_min(1e-8)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(terms).mean()


def relation_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], mask: Tensor, heads: int
) -> Tensor:
    """KL between softmax(A A^T / sqrt(d)) of teacher and student for A = Q, K, V (MiniLMv2).

    The vectors are cut into `heads` relation heads whatever the models' own heads are, so that
    widths may differ. Mean over relations, heads and real query tokens.
    """
    real = mask.bool()
    terms = []
    for role in _RELATION_ROLES:
        log_p = _relation(student[role], real, heads)
        log_q = _relation(teacher[role], real, heads)
        per_token = (log_q.exp() * (log_q - log_p)).masked_fill(~real[:, None, None, :], 0).sum(-1)
        rows = real[:, None, :].expand_as(per_token)
        terms.append(per_token[rows].mean())
    return torch.stack(terms).mean()


def _relation(vectors: Tensor, real: Tensor, heads: int) -> Tensor:
    rows, length, width = vectors.shape
    split = vectors.float().reshape(rows, length, heads, width // heads).transpose(1, 2)
    # Autocast would round the scores, and with them the softmax, to bf16.
    with torch.autocast(vectors.device.type, enabled=False):
        scores = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    return F.log_softmax(scores.masked_fill(~real[:, None, None, :], -1e9), dim=-1)


def relation_heads(student: Any, teacher: Any) -> int:
    """The number of relation heads: the student's own, if it divides both widths."""
    heads = student.num_attention_heads
    return heads if teacher.hidden_size % heads == 0 else 1


def _accepted(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = _forward_names(type(model)) - {"labels"}
    # RoBERTa has the argument, but only one type to look up: a teacher's second would be an error.
    if not takes_token_types(getattr(model, "config", None)):
        names -= {"token_type_ids"}
    return {k: v for k, v in inputs.items() if k in names}


@cache
def _forward_names(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


@contextmanager
def _record_relations(model: nn.Module, layer: int | None) -> Iterator[dict[str, Tensor]]:
    recorded: dict[str, Tensor] = {}
    handles = []
    if layer is not None:
        for name, module in model.named_modules():
            role = role_of(name) if isinstance(module, nn.Linear) else None
            if role in _RELATION_ROLES and layer_of(name) == layer:
                handles.append(module.register_forward_hook(_recorder(recorded, role)))
        if len(handles) != len(_RELATION_ROLES):
            raise InputError(
                f"distillation.attention: no query, key and value matrices found in layer {layer} "
                f"of {type(model).__name__}"
            )
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _recorder(recorded: dict[str, Tensor], role: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        recorded[role] = output

    return hook


@contextmanager
def _only_tokens(model: Any, tokens: Tensor | None) -> Iterator[None]:
    """Hands only some tokens of the encoder's output on to the language-modelling head."""
    if tokens is None:
        yield
        return

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states.reshape(-1, states.shape[-1])[tokens][None]
        return output

    handle = model.base_model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
