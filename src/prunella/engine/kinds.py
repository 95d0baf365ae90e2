"""Which task a model is for, and which others its head can serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from prunella.engine.answers import AnswerTask
from prunella.engine.card import Card
from prunella.engine.choices import ChoiceTask
from prunella.engine.entities import EntityTask
from prunella.engine.fill_mask import FillMaskTask
from prunella.engine.options import USUAL_ANSWER_LENGTH, USUAL_STRIDE
from prunella.engine.tasks import (
    ClassificationTask,
    EmbeddingTask,
    MultiLabelTask,
    RegressionTask,
    Task,
)
from prunella.errors import InputError

Settings = Mapping[str, Any]
# Tasks whose rows may be texts or pairs of texts, as training had them.
TEXTS_OR_PAIRS = ("classification", "multi-label", "regression")
_MASKS = {"roberta": "<mask>"}

_MAKERS: dict[str, Callable[[Card, Tokenizer, Settings], Task]] = {
    "classification": lambda card, *_: ClassificationTask(card.labels),
    "multi-label": lambda card, *_: MultiLabelTask(card.labels, _threshold(card, 0.5)),
    "regression": lambda *_: RegressionTask(),
    "multiple-choice": lambda *_: ChoiceTask(),
    "token-classification": lambda card, *_: EntityTask(card.labels),
    "question-answering": lambda card, *_: _answers(card),
    "fill-mask": lambda card, tokenizer, settings: FillMaskTask(
        tokenizer, settings.get("mask_token") or _MASKS.get(card.family, "[MASK]")
    ),
    "embedding": lambda *_: EmbeddingTask(),
}
TASKS = tuple(_MAKERS)
_LEARNED_FROM_TEXT = ("embedding", "fill-mask")  # not from rows of a task, whatever is recorded
_USUAL_LENGTHS = {"question-answering": 384}

# What a head can serve; the first one is what it is for, but for sequence classifiers, which
# `_of_classifier` tells apart.
_HEADS: dict[str | None, tuple[str, ...]] = {
    None: ("embedding",),
    "SequenceClassification": ("classification", "multi-label", "regression", "embedding"),
    "MultipleChoice": ("multiple-choice", "embedding"),
    "TokenClassification": ("token-classification", "embedding"),
    "QuestionAnswering": ("question-answering", "embedding"),
    "MaskedLM": ("fill-mask", "embedding"),
    "PreTraining": ("fill-mask", "embedding"),
}


def task_name(card: Card, wanted: str | None = None) -> str:
    """The task that a model is for, or the one that is wanted instead.

    Raises:
        InputError: If the model's head cannot serve it, or is of a kind that the engine lacks.
    """
    head = card.head
    if (card.family, head) == ("electra", "PreTraining"):
        head = None  # a discriminator: it fills no masks
    served = _HEADS.get(head, ())
    if wanted is None:
        if not served:
            raise InputError(
                f"{card.path}: a model with a head of the kind {card.architecture}, which the "
                'engine does not run; task="embedding" runs it without its head'
            )
        return _of_classifier(card) if head == "SequenceClassification" else served[0]
    if wanted not in TASKS:
        raise InputError(f"task '{wanted}' is none of {', '.join(TASKS)}")
    if wanted not in (*served, "embedding"):
        raise InputError(
            f"{card.path}: a {card.architecture or 'model without a head'} cannot do {wanted}; "
            f"it does {', '.join(served or ('embedding',))}"
        )
    return wanted


def make_task(name: str, card: Card, tokenizer: Tokenizer, settings: Settings) -> Task:
    """The task of that name for a model and its tokenizer."""
    return _MAKERS[name](card, tokenizer, settings)


def trained_on_pairs(name: str, record: Mapping[str, Any]) -> bool | None:
    """Whether a model was trained on pairs of texts; None if it is not known, or no question.

    Args:
        name: What the model is used for.
        record: What was recorded of the rows that it was trained on.
    """
    found = record.get("pairs") if name in TEXTS_OR_PAIRS else None
    return found if isinstance(found, bool) else None


def usual_reading(name: str, card: Card) -> tuple[int | None, int]:
    """How a task's texts are read where a call leaves it open: as its training read them.

    Returns:
        Tokens of a sequence at most, None for all that the model takes; and tokens that windows
        share.
    """
    if name in _LEARNED_FROM_TEXT:
        return None, USUAL_STRIDE
    stride = _recorded(card, "stride", 0)
    length = _recorded(card, "max_length", 1) or _USUAL_LENGTHS.get(name)
    return length, USUAL_STRIDE if stride is None else stride


def _of_classifier(card: Card) -> str:
    """As `problem_type` says, else as was recorded; one output alone is a number."""
    problems = {
        "regression": "regression",
        "multi_label_classification": "multi-label",
        "single_label_classification": "classification",
    }
    recorded = {"regression": "regression", "multi-label": "multi-label"}
    found = problems.get(card.problem or "") or recorded.get(card.record.get("kind", ""))
    return found or ("regression" if len(card.labels) == 1 else "classification")


def _answers(card: Card) -> AnswerTask:
    return AnswerTask(
        no_answer=bool(card.record.get("no_answer", False)),
        threshold=_threshold(card, 0.0),
        max_answer_length=_recorded(card, "max_answer_length", 1) or USUAL_ANSWER_LENGTH,
    )


def _threshold(card: Card, usual: float) -> float:
    found = card.record.get("threshold")
    return float(found) if isinstance(found, (int, float)) else usual


def _recorded(card: Card, name: str, least: int) -> int | None:
    found = card.record.get(name)
    return found if isinstance(found, int) and found >= least else None
