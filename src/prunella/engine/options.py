"""What a call may ask for, by task. Wrong values are refused here, before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from prunella.errors import InputError

Aggregation = Literal["first", "average", "max", "simple"]
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class Options:
    """What every task takes.

    Attributes:
        max_length: Tokens of a sequence at most; by default as trained, or all that the model
            takes where no training for the task is recorded.
    """

    max_length: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check = _CHECKS[field.name]
            if value is None and "None" in str(field.type):
                continue
            if not check.holds(value):
                raise InputError(f"{field.name}: must be {check.words}, not {value!r}")


@dataclass(frozen=True)
class CutOptions(Options):
    """Of tasks that read one window of a text.

    Attributes:
        truncate: Cut what is longer than `max_length`; otherwise refuse it.
    """

    truncate: bool = True


@dataclass(frozen=True)
class ClassificationOptions(CutOptions):
    """top_k: How many classes to name with their scores; None names all."""

    top_k: int | None = 1


@dataclass(frozen=True)
class MultiLabelOptions(CutOptions):
    """Of multi-label classification.

    Attributes:
        top_k: How many labels to name with their scores.
        threshold: Probability from which a label counts; by default as trained, or else 0.5.
    """

    top_k: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class EntityOptions(Options):
    """Of token classification.

    Attributes:
        aggregation: How a word gets its tag: that of its first token, of the average over its
            tokens, of its surest token; "simple" takes tokens for words.
        stride: Tokens that the windows of a long text share; by default as trained, or else 128.
    """

    aggregation: Aggregation = "first"
    stride: int | None = None


@dataclass(frozen=True)
class AnswerOptions(Options):
    """Of question answering. `max_length` is 384 where no training is recorded.

    Attributes:
        top_k: Candidates to name.
        max_answer_length: Tokens of an answer at most; by default as trained, or else 30.
        stride: Tokens that the windows of a long context share; by default as trained, or else 128.
        no_answer: Whether the answer may be that there is none (SQuAD v2); by default as trained.
        threshold: `no_answer_score` above which that is the answer; by default as trained, or
            else 0.
    """

    top_k: int | None = 1
    max_answer_length: int | None = None
    stride: int | None = None
    no_answer: bool | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class FillMaskOptions(CutOptions):
    """top_k: Candidates for each mask."""

    top_k: int | None = 5


@dataclass(frozen=True)
class EmbeddingOptions(CutOptions):
    """Of sentence embeddings.

    Attributes:
        pooling: The mean over all tokens, special ones included, or the first token's state.
        normalize: Scale each vector to length 1.
    """

    pooling: Pooling = "mean"
    normalize: bool = False


USUAL_ANSWER_LENGTH = 30
USUAL_STRIDE = 128

Chosen = TypeVar("Chosen", bound=Options)


def choose(kind: type[Chosen], values: Mapping[str, Any], task: str) -> Chosen:
    """Options from keyword arguments.

    Raises:
        InputError: If one is unknown to the task or out of range.
    """
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it takes {', '.join(names)}"
            raise InputError(f"{task} has no option '{name}'; {hint}")
    return kind(**values)


@dataclass(frozen=True)
class _Check:
    words: str
    holds: Any


def _whole(least: int) -> Any:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_POSITIVE = _Check("a whole number above 0", _whole(1))
_YES_OR_NO = _Check("True or False", lambda v: isinstance(v, bool))
_CHECKS = {
    "max_length": _POSITIVE,
    "top_k": _POSITIVE,
    "max_answer_length": _POSITIVE,
    "stride": _Check("a whole number, 0 or more", _whole(0)),
    "truncate": _YES_OR_NO,
    "no_answer": _YES_OR_NO,
    "normalize": _YES_OR_NO,
    "threshold": _Check("a number", _number),
    "aggregation": _Check(
        f"one of {', '.join(get_args(Aggregation))}", lambda v: v in get_args(Aggregation)
    ),
    "pooling": _Check(f"one of {', '.join(get_args(Pooling))}", lambda v: v in get_args(Pooling)),
}
