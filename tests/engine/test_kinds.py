"""Which task a model is for."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models

from prunella.engine.card import Card
from prunella.engine.kinds import TASKS, make_task, task_name, usual_reading
from prunella.errors import InputError


def card(head: str | None, family: str = "bert", **changes: Any) -> Card:
    values: dict[str, Any] = {
        "path": "model.prn",
        "family": family,
        "architecture": f"{family.title()}For{head}" if head else f"{family.title()}Model",
        "head": head,
        "problem": None,
        "labels": ("no", "yes"),
        "positions": 512,
        "token_types": True,
        "record": {},
        "config": {},
    }
    return Card(**(values | changes))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (card(None), "embedding"),
        (card("SequenceClassification"), "classification"),
        (card("SequenceClassification", labels=("score",)), "regression"),
        (card("SequenceClassification", problem="regression"), "regression"),
        (card("SequenceClassification", problem="multi_label_classification"), "multi-label"),
        (card("SequenceClassification", record={"kind": "regression"}), "regression"),
        (card("SequenceClassification", record={"kind": "multi-label"}), "multi-label"),
        (
            card(
                "SequenceClassification",
                problem="single_label_classification",
                record={"kind": "regression"},
            ),
            "classification",
        ),
        (card("TokenClassification"), "token-classification"),
        (card("QuestionAnswering"), "question-answering"),
        (card("MaskedLM"), "fill-mask"),
        (card("PreTraining"), "fill-mask"),
        (card("PreTraining", "electra"), "embedding"),  # a discriminator fills nothing
    ],
)
def test_by_the_head(found: Card, expected: str) -> None:
    assert task_name(found) == expected
    assert task_name(found, expected) == expected
    assert task_name(found, "embedding") == "embedding"


def test_every_name_makes_its_task() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[MASK]": 1}, unk_token="[UNK]"))
    for name in TASKS:
        assert make_task(name, card(None), tokenizer, {}).name == name
    with pytest.raises(InputError, match="no token '<mask>'"):
        make_task("fill-mask", card("MaskedLM", "roberta"), tokenizer, {})


def test_what_was_recorded_of_questions() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    record = {"no_answer": True, "max_answer_length": 7}
    trained: Any = make_task("question-answering", card(None, record=record), tokenizer, {})
    assert (trained.no_answer, trained.max_answer_length) == (True, 7)
    plain: Any = make_task("question-answering", card(None), tokenizer, {})
    assert (plain.no_answer, plain.max_answer_length) == (False, 30)


@pytest.mark.parametrize("name", TASKS)
def test_texts_are_read_as_was_recorded(name: str) -> None:
    recorded = usual_reading(name, card(None, record={"max_length": 96, "stride": 0}))
    plain = usual_reading(name, card(None))
    odd = usual_reading(name, card(None, record={"max_length": -1, "stride": "x"}))
    length = 384 if name == "question-answering" else None
    assert plain == odd == (length, 128)
    # An embedding is none of what the rows of a task taught, nor is a masked word.
    assert recorded == ((None, 128) if name in ("embedding", "fill-mask") else (96, 0))


def test_a_wanted_task_must_fit() -> None:
    with pytest.raises(InputError, match="BertForTokenClassification cannot do fill-mask; it does"):
        task_name(card("TokenClassification"), "fill-mask")
    with pytest.raises(InputError, match="task 'ner' is none of classification, "):
        task_name(card("TokenClassification"), "ner")
    with pytest.raises(InputError, match="which the engine does not run"):
        task_name(card("NextSentencePrediction"))
