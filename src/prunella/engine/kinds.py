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
from prunella.engine.options import USUAL_ANSWER_LENGTH
from prunella.engine.tasks import (
    ClassificationTask,
    EmbeddingTask,
    MultiLabelTask,
    RegressionTask,
    Task,
)
from prunella.errors import InputError

Settings = Mapping[str, Any]
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
        max_length=_recorded_length(card, "max_length"),
        threshold=_threshold(card, 0.0),
        max_answer_length=_recorded_length(card, "max_answer_length") or USUAL_ANSWER_LENGTH,
    )


def _threshold(card: Card, usual: float) -> float:
    found = card.record.get("threshold")
    return float(found) if isinstance(found, (int, float)) else usual


def _recorded_length(card: Card, name: str) -> int | None:
    found = card.record.get(name)
    return found if isinstance(found, int) and found > 0 else None
