"""Answers that are stretches of a context (SQuAD v1 and v2): where they start and end.

A long context is read in windows, each with the whole question; a window without the answer points
at its first token, and so does a question that has none. The best span over all windows wins. The
windows and the choice of the span are the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import numpy as np
import torch.nn.functional as F
from tokenizers import Encoding
from torch import Tensor

from prunella.data.labels import list_rows
from prunella.data.scoring.answers import best_threshold
from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import Columns, Usual, find_columns, find_texts, first_value, texts_of
from prunella.engine.answers import AnswerTask
from prunella.engine.inputs import Example
from prunella.engine.options import AnswerOptions
from prunella.engine.tokens import Window
from prunella.errors import InputError
from prunella.tasks.base import Deciding, Predictions, Reading, check_reading
from prunella.tasks.choosing import divergence, spread
from prunella.tasks.windows import Collected

_ANSWERS = ("answers", "answer")
_USUAL = Usual((("question", "context"),), _ANSWERS)
_OTHER_CONTEXTS = Usual(
    tuple(("question", name) for name in ("passage", "paragraph", "sentence")), _ANSWERS
)
_CANDIDATES = 5  # spans of each question in a file of predictions
_NOWHERE = (0, 0)


@dataclass(frozen=True, eq=False)
class QuestionRows:
    """Questions about contexts.

    Attributes:
        questions, contexts: n texts each.
        answers: All that count as right; an empty list if there is no answer.
        spans: Where an answer stands in its context, in characters: the first that is there; None
            without one.
        ids: What the data calls each row; None if nothing.
        columns: Where labelled rows were found.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[list[str]]
    spans: list[tuple[int, int] | None]
    ids: list[Any] | None
    counts: Mapping[str, int]
    columns: Columns = field(default_factory=Columns)

    @property
    def names(self) -> list[str]:
        return []

    @property
    def gold(self) -> list[list[str]]:
        return self.answers

    def __len__(self) -> int:
        return len(self.questions)


class QuestionAnswering:
    """Spans of a context."""

    name = "question-answering"
    head = "QuestionAnswering"
    problem = None
    named = False
    usual_length = 384

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """A question, a context and answers."""
        there = set(table.column_names)
        texts = {columns.text or "question", columns.pair or "context"} <= there
        return texts and isinstance(first_value(table, columns.label, ("answers",)), (dict, list))

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> QuestionRows:
        there = table.column_names
        question, context, label = find_columns(
            there, columns.text, columns.pair, columns.label, source, _usual(there)
        )
        questions, contexts = _pairs(table, question, context, source)
        where = f"{source}, column '{label}'"
        given = [_answers(value, i, where) for i, value in enumerate(table[label][:])]
        if "is_impossible" in there:
            flags = _flags(table["is_impossible"][:], f"{source}, column 'is_impossible'")
            given = [[] if flag else found for flag, found in zip(flags, given, strict=True)]
        spans, moved = _spans(contexts, given, where)
        return QuestionRows(
            questions,
            contexts,
            [list(dict.fromkeys(text for text, _ in found)) for found in given],
            spans,
            table["id"][:] if "id" in there else None,
            {"answers_moved": moved},
            Columns(question, context, label),
        )

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> QuestionRows:
        there = table.column_names
        question, context = find_texts(there, columns.text, columns.pair, source, _usual(there))
        questions, contexts = _pairs(table, question, context, source)
        nothing: list[list[str]] = [[] for _ in questions]
        return QuestionRows(questions, contexts, nothing, [None] * len(questions), None, {})

    def traits(self, rows: QuestionRows) -> dict[str, Any]:
        return {"no_answer": not all(rows.answers)}

    def outputs(self, names: list[str]) -> int:
        return 2

    def encode(self, rows: QuestionRows, reading: Reading) -> EncodedTask:
        check_reading(reading, pair=True)
        collected = Collected(reading)
        cut = lost = 0
        for number, (texts, windows, shortened) in enumerate(_windows(rows, reading)):
            cut += shortened
            span = rows.spans[number]
            tokens = _tokens(texts[1], span) if span else None
            found = False
            for window in windows:
                context = range(window.place, window.place + window.end - window.begin)
                place = _place(window, tokens)
                found |= place != _NOWHERE
                collected.add(number, window, [0, *context], place)
            lost += span is not None and not found
        counts = {**rows.counts, "questions_cut": cut, "answers_in_no_window": lost}
        return collected.task(token_labels=False, counts=counts)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> None:
        return None

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        """Mean of the cross-entropies of start and end, over the context and the first token."""
        places = spread(logits, inputs["watched"].sum(dim=1))
        return F.cross_entropy(places, inputs["labels"])

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return divergence(student, teacher, inputs["watched"].sum(dim=1), temperature)

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: QuestionRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        task = AnswerTask(no_answer=deciding.no_answer)
        options = AnswerOptions(
            top_k=_CANDIDATES,
            max_answer_length=deciding.max_answer_length,
            threshold=deciding.threshold or 0.0,
        )
        values: list[str] = []
        details: list[dict[str, Any]] = []
        spans: list[str] = []
        begin = 0
        for number, (texts, windows, _) in enumerate(_windows(rows, reading)):
            parts = []
            for window in windows:
                end = begin + 1 + window.end - window.begin
                parts.append(task.reduce(window, logits[begin:end], options))
                begin = end
            example = Example(rows.questions[number], rows.contexts[number])
            answer = task.finish(example, texts, windows, parts, options)
            values.append(answer.text)
            spans.append(next((c.text for c in answer.candidates if c.text), ""))
            named = {"id": rows.ids[number]} if rows.ids else {}
            details.append(
                {
                    **named,
                    "prediction": answer.text,
                    "label": rows.answers[number],
                    "no_answer_score": answer.no_answer_score,
                    "candidates": [asdict(candidate) for candidate in answer.candidates],
                }
            )
        further: Mapping[str, float] = {}
        if deciding.no_answer and not all(rows.answers):
            margins = [row["no_answer_score"] for row in details]
            further = best_threshold(rows.answers, spans, margins)
        return Predictions(values, details, further=further)


def _usual(there: Sequence[str]) -> Usual:
    return _USUAL if "context" in there else _OTHER_CONTEXTS


def _pairs(
    table: datasets.Dataset, question: str, context: str | None, source: str
) -> tuple[list[str], list[str]]:
    if context is None:
        raise InputError(f"{source}: set `pair` to the column of the contexts")
    return texts_of(table, question, source), texts_of(table, context, source)


def _windows(
    rows: QuestionRows, reading: Reading
) -> Iterator[tuple[list[Encoding], list[Window], bool]]:
    """For each row the tokens of question and context, its windows, and whether the question
    was cut, to leave half of the room to the context."""
    encoder = reading.encoder()
    task, options = AnswerTask(no_answer=False), AnswerOptions()
    context, known = "", Encoding()
    for number, question in enumerate(rows.questions):
        if rows.contexts[number] != context or not number:  # many questions share one
            context = rows.contexts[number]
            (known,) = encoder.encode([context])
        (asked,) = encoder.encode([question])
        try:
            windows = task.windows([asked, known], encoder, options)
            yield [asked, known], windows, any(window.cut for window in windows)
        except InputError as error:
            raise InputError(f"row {number + 1}: {error}") from None


def _tokens(context: Encoding, span: tuple[int, int]) -> tuple[int, int] | None:
    """First and last token of a stretch of characters."""
    begin, end = span
    found = [i for i, (a, b) in enumerate(context.offsets) if a < end and b > begin]
    return (found[0], found[-1]) if found else None


def _place(window: Window, tokens: tuple[int, int] | None) -> tuple[int, int]:
    """Start and end among the window's watched tokens; its first token if they are elsewhere."""
    if tokens is None or tokens[0] < window.begin or tokens[1] >= window.end:
        return _NOWHERE
    return tokens[0] - window.begin + 1, tokens[1] - window.begin + 1


def _answers(value: Any, row: int, where: str) -> list[tuple[str, int | None]]:
    """(text, start in characters or None) of each answer, from any of the usual forms."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        starts = value.get("answer_start") or [None] * len(value["text"])
        if len(starts) == len(value["text"]):
            value = [
                {"text": text, "answer_start": start}
                for text, start in zip(value["text"], starts, strict=True)
            ]
    items = [value] if isinstance(value, (str, Mapping)) else value
    found: list[tuple[str, int | None]] = []
    for item in items or []:
        text = item.get("text") if isinstance(item, Mapping) else item
        start = item.get("answer_start") if isinstance(item, Mapping) else None
        if not isinstance(text, str) or not (start is None or isinstance(start, int)):
            raise InputError(
                f'{where}: row {row + 1} needs answers like {{"text": ["..."], "answer_start": '
                f"[0]}}, empty lists if there is none; found {value!r:.80}"
            )
        if text.strip():
            found.append((text, start))
    return found


def _flags(values: Sequence[Any], where: str) -> list[bool]:
    """Yes or no of each row; csv has them as text, and what is missing is no.

    Raises:
        InputError: If one is neither.
    """
    meaning = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}
    found = [meaning.get(str(value).strip().lower()) for value in values]
    wrong = [i for i, flag in enumerate(found) if flag is None]
    if wrong:
        raise InputError(
            f"{where}: true or false (or 1 or 0) is needed; found {values[wrong[0]]!r:.40} in "
            f"{list_rows(wrong)}"
        )
    return [bool(flag) for flag in found]


def _spans(
    contexts: Sequence[str], answers: Sequence[list[tuple[str, int | None]]], where: str
) -> tuple[list[tuple[int, int] | None], int]:
    """Where answers stand, and how many of them do not stand where the data says."""
    spans: list[tuple[int, int] | None] = []
    missing: list[int] = []
    moved = 0
    for row, (context, found) in enumerate(zip(contexts, answers, strict=True)):
        places = ((_nearest(context, text, start), start) for text, start in found)
        span, said = next((place for place in places if place[0]), (None, None))
        if found and span is None:
            missing.append(row)
        moved += span is not None and said is not None and said != span[0]
        spans.append(span)
    if missing:
        first = missing[0]
        raise InputError(
            f"{where}: no answer is in its context in {list_rows(missing)}, for instance "
            f"{answers[first][0][0]!r:.60}; repair or drop them"
        )
    return spans, moved


def _nearest(context: str, text: str, start: int | None) -> tuple[int, int] | None:
    """The stretch of the context that is the answer, nearest to `start`; None if there is none."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start, start + len(text)
    text, start = text.strip(), start or 0
    after = context.find(text, max(start, 0))
    before = context.rfind(text, 0, max(start, 0) + len(text))
    there = [place for place in (before, after) if place >= 0]
    if not there:
        return None
    place = min(there, key=lambda place: abs(place - start))
    return place, place + len(text)
