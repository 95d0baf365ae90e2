"""Answers to questions, beside the official rules applied to the logits of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine.conftest import FAMILIES, Tiny

from prunella.engine.answers import AnswerTask
from prunella.engine.options import AnswerOptions
from prunella.engine.results import Answer
from prunella.engine.tokens import Window

Tinies = Callable[..., Tiny]
QUESTION = "Where does the captain find the lantern?"
SHORT = "The captain finds a golden lantern in the attic."
LONG = " ".join(
    [
        "When the queen leaves the palace, the old farmer paints the table at dawn.",
        "Nobody in the castle knows why the runner hides a whistle.",
        SHORT,
    ]
    * 3
)


def by_hand(
    subject: Tiny, question: str, context: str, limit: int, stride: int, longest: int
) -> tuple[list[tuple[float, int, int]], float]:
    """All spans as (logit, start, end) in characters, best first, and the logit of no answer.

    Windows by transformers; every pair of start and end is tried.
    """
    import torch

    model, tokenizer = subject.torch(), subject.tokenizer()
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    spans: dict[tuple[int, int], float] = {}
    none = np.inf
    for number, ids in enumerate(windows["input_ids"]):
        ours = [i for i, s in enumerate(windows.sequence_ids(number)) if s == 1]
        extra: dict[str, Any] = {}
        if subject.model().card.token_types:
            types = torch.zeros(1, len(ids), dtype=torch.long)
            types[0, ours[0] :] = 1
            extra["token_type_ids"] = types
        with torch.no_grad():
            out = model(torch.tensor([ids]), **extra)
        start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
        none = min(none, float(start[0] + end[0]))
        offsets = windows["offset_mapping"][number]
        for i in ours:
            for j in ours:
                if i <= j < i + longest:
                    span = offsets[i][0], offsets[j][1]
                    spans[span] = max(spans.get(span, -np.inf), float(start[i] + end[j]))
    return sorted(((v, *k) for k, v in spans.items()), reverse=True), none


@pytest.mark.parametrize("context", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_spans(tiny: Tinies, family: str, context: str) -> None:
    subject = tiny(family, "QuestionAnswering")
    model = subject.model()
    found = model({"question": QUESTION, "context": context}, top_k=5, stride=10)
    spans, none = by_hand(subject, QUESTION, context, model.max_length, 10, 30)
    assert isinstance(found, Answer)
    assert [(c.start, c.end) for c in found.candidates] == [(s, e) for _, s, e in spans[:5]]
    powers = np.exp([logit - spans[0][0] for logit, _, _ in spans[:20]])
    expected = list((powers / powers.sum())[:5])
    assert [c.score for c in found.candidates] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert (found.start, found.end, found.score) == (
        spans[0][1],
        spans[0][2],
        pytest.approx(expected[0], rel=1e-3),
    )
    assert found.text == context[found.start : found.end]
    assert found.no_answer_score == pytest.approx(none - spans[0][0], abs=1e-4)
    assert model((QUESTION, context), top_k=5, stride=10) == found


def test_no_answer(tiny: Tinies) -> None:
    subject = tiny("bert", "QuestionAnswering")
    model = subject.model()
    plain = model((QUESTION, SHORT))
    never = model((QUESTION, SHORT), no_answer=True, threshold=1e9)
    always = model((QUESTION, SHORT), no_answer=True, threshold=-1e9, top_k=3)
    assert never.text == plain.text and never.score < plain.score
    assert (always.text, always.start, always.end) == ("", 0, 0)
    assert always.candidates[0].text == "" and always.candidates[1].text == plain.text
    spans, none = by_hand(subject, QUESTION, SHORT, 64, 10, 30)
    powers = np.exp([*(logit for logit, _, _ in spans[:20]), none])
    assert always.score == pytest.approx(powers[-1] / powers.sum(), rel=1e-3)
    trained = AnswerTask(no_answer=True)
    assert trained.no_answer and not AnswerTask(no_answer=False).no_answer
    document = plain.to_json()
    assert document.keys() == {"text", "start", "end", "score", "no_answer_score"}
    assert len(always.to_json()["candidates"]) == 3


@pytest.mark.parametrize("longest", [1, 2, 7, 100])
def test_spans_are_searched_exactly(longest: int) -> None:
    rng = np.random.default_rng(longest)
    task, options = AnswerTask(no_answer=False), AnswerOptions(max_answer_length=longest)
    logits = rng.normal(size=(12, 2)).astype(np.float32)
    ids = np.zeros(30, np.int32)
    window = Window(ids, ids, place=5, begin=40, end=51, tokens=60)
    np.testing.assert_array_equal(task.rows(window), [0, *range(5, 16)])
    found = task.reduce(window, logits, options)
    wide = logits.astype(np.float64)
    every = [
        (wide[1 + i, 0] + wide[1 + j, 1], 40 + i, 40 + j)
        for i in range(11)
        for j in range(i, min(11, i + longest))
    ]
    every.sort(reverse=True)
    assert list(zip(found.logits, found.starts, found.ends, strict=True)) == every[:20]
    assert found.none == pytest.approx(logits[0].sum(), rel=1e-6)
