"""One of several choices: each is read with the context and scored, the best one is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunella.data.labels import Label, clean, list_rows
from prunella.data.task_batches import EncodedTask, ends
from prunella.data.tasks import (
    Columns,
    Usual,
    find_columns,
    find_texts,
    several,
    texts_of,
    undecided,
)
from prunella.errors import InputError
from prunella.tasks.base import Deciding, Predictions, Reading
from prunella.tasks.choosing import divergence, spread
from prunella.tasks.texts import encode_texts

_USUAL = Usual(
    (
        ("article", "question"),
        ("context", "question"),
        ("sent1", "sent2"),
        ("question", None),
        ("ctx", None),
        ("premise", None),
        ("sentence", None),
        ("text", None),
    ),
    ("label", "labels", "answer", "answerKey"),
)
_LISTS = ("choices", "options", "endings")
_NUMBERED = ("ending", "choice", "option", "answer")
_LETTERS = tuple("ABCDEFGHIJ")


@dataclass(frozen=True, eq=False)
class ChoiceRows:
    """Contexts with choices.

    Attributes:
        texts: n contexts.
        choices: At least two a row; of a pair of texts each begins with the second one.
        labels: [n] int64: which choice is right.
        columns: Where labelled rows were found; several of choices stand between commas.
    """

    texts: list[str]
    choices: list[list[str]]
    labels: np.ndarray
    names: list[str] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)

    @property
    def gold(self) -> np.ndarray:
        return self.labels

    def __len__(self) -> int:
        return len(self.texts)


class MultipleChoice:
    """Choices of a row, compared with each other."""

    name = "multiple-choice"
    head = "MultipleChoice"
    problem = None
    named = False
    usual_length = 128

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """A column of choices, or numbered ones."""
        there = table.column_names
        return bool(columns.choices) or (bool(_choice_columns(there)) and _has_lists(table))

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> ChoiceRows:
        chosen, others = _split(table, columns, source)
        text, pair, label = find_columns(
            others, columns.text, columns.pair, columns.label, source, _USUAL
        )
        choices, keys = _begun(table, chosen, pair, source)
        where = f"{source}, column '{label}'"
        given = clean(table[label][:], where)
        labels = _named(given, keys, where) if keys else None
        if labels is None:
            labels = _right(given, choices, where)
        found_in = Columns(text, pair, label, ",".join(chosen))
        return ChoiceRows(texts_of(table, text, source), choices, labels, columns=found_in)

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> ChoiceRows:
        chosen, others = _split(table, columns, source)
        text, pair = find_texts(others, columns.text, columns.pair, source, _USUAL)
        choices, _ = _begun(table, chosen, pair, source)
        return ChoiceRows(texts_of(table, text, source), choices, np.zeros(len(table), np.int64))

    def traits(self, rows: ChoiceRows) -> dict[str, Any]:
        return {}

    def outputs(self, names: list[str]) -> int:
        return 1

    def encode(self, rows: ChoiceRows, reading: Reading) -> EncodedTask:
        counts = [len(row) for row in rows.choices]
        texts = [text for text, count in zip(rows.texts, counts, strict=True) for _ in range(count)]
        right = np.zeros(len(texts), np.int64)
        right[ends(counts)[:-1] + rows.labels] = 1
        encoded = encode_texts(texts, [c for row in rows.choices for c in row], right, reading)
        examples = np.repeat(np.arange(len(rows)), counts)
        return replace(encoded, examples=examples, together=True)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> None:
        return None

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        """Cross-entropy over the choices of each row."""
        sizes = _sizes(inputs)
        right = spread(inputs["labels"][:, None], sizes).argmax(dim=1)
        return F.cross_entropy(spread(logits, sizes), right)

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return divergence(student, teacher, _sizes(inputs), temperature)

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: ChoiceRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        bounds = ends([len(row) for row in rows.choices])
        scores = np.split(logits[:, 0], bounds[1:-1])
        chosen = np.array([int(row.argmax()) for row in scores], np.int64)
        details = [
            {
                "prediction": int(predicted),
                "label": int(label),
                "choice": choices[predicted],
                "logits": [round(float(x), 6) for x in row],
            }
            for predicted, label, choices, row in zip(
                chosen, rows.labels, rows.choices, scores, strict=True
            )
        ]
        padded = np.full((len(scores), max(map(len, scores))), -np.inf, np.float32)
        for row, found in zip(padded, scores, strict=True):
            row[: len(found)] = found
        return Predictions(chosen, details, padded)


def _split(table: datasets.Dataset, columns: Columns, source: str) -> tuple[list[str], list[str]]:
    """The columns of the choices, and all others."""
    there = table.column_names
    named = columns.choices
    chosen = several(there, "choices", named, source) if named else _choice_columns(there)
    if not chosen:
        raise undecided("choices", "`choices`", [], there, source)
    return chosen, [name for name in there if name not in chosen]


def _begun(
    table: datasets.Dataset, chosen: list[str], pair: str | None, source: str
) -> tuple[list[list[str]], list[list[str]] | None]:
    """The choices of each row, after a second text if there is one: the beginning of each choice
    (SWAG), or the question about a text (RACE); and what the data calls them, if it does."""
    choices, keys = _choices(table, chosen, source)
    if pair:
        begun = texts_of(table, pair, source)
        choices = [[f"{a} {b}" for b in row] for a, row in zip(begun, choices, strict=True)]
    return choices, keys


def _sizes(inputs: Mapping[str, Tensor]) -> Tensor:
    """Choices of each row of a batch."""
    return torch.unique_consecutive(inputs["example"], return_counts=True)[1]


def _choice_columns(there: Sequence[str]) -> list[str]:
    """One usual column of lists, or the numbered ones (ending0, ending1, ...); empty if none."""
    lists = [name for name in _LISTS if name in there]
    if len(lists) == 1:
        return lists
    for stem in _NUMBERED:
        for first in (0, 1):
            names = [f"{stem}{i}" for i in range(first, first + 10)]
            count = next((i for i, name in enumerate(names) if name not in there), len(names))
            if count > 1:
                return names[:count]
    return []


def _has_lists(table: datasets.Dataset) -> bool:
    """Whether the choices that were found are more than a name: lists, or several columns."""
    found = _choice_columns(table.column_names)
    return len(found) > 1 or isinstance(table[0][found[0]], (list, dict))


def _choices(
    table: datasets.Dataset, chosen: list[str], source: str
) -> tuple[list[list[str]], list[list[str]] | None]:
    """The texts of each row's choices, and what the data calls them, if it does."""
    if len(chosen) > 1:
        columns = (texts_of(table, c, source) for c in chosen)
        return [list(row) for row in zip(*columns, strict=True)], None
    values: list[Any] = table[chosen[0]][:]
    # CommonsenseQA and ARC have {"label": ["A", "B"], "text": [...]}; some of ARC's are numbers.
    keys = [v.get("label") if isinstance(v, Mapping) else None for v in values]
    values = [v.get("text") if isinstance(v, Mapping) else v for v in values]
    wrong = [
        i
        for i, row in enumerate(values)
        if not isinstance(row, list)
        or len(row) < 2
        or not all(isinstance(c, str) and c.strip() for c in row)
    ]
    if wrong:
        raise InputError(
            f"{source}, column '{chosen[0]}': a list of two or more texts is needed; not so in "
            f"{list_rows(wrong)}"
        )
    named = [
        [str(key) for key in found]
        for found, row in zip(keys, values, strict=True)
        if isinstance(found, list) and len(found) == len(row)
    ]
    return values, named if len(named) == len(values) else None


def _named(labels: list[Label], keys: list[list[str]], where: str) -> np.ndarray | None:
    """Which choice each label names, by what the data calls them; None if no label is a name."""
    if not any(str(v) in row for v, row in zip(labels, keys, strict=True)):
        return None
    wrong = [
        i for i, (v, row) in enumerate(zip(labels, keys, strict=True)) if row.count(str(v)) != 1
    ]
    if wrong:
        raise InputError(
            f"{where}: {labels[wrong[0]]!r} names none of the choices of its row, or several, in "
            f"{list_rows(wrong)}; they are called {', '.join(keys[wrong[0]])}"
        )
    return np.array([row.index(str(v)) for v, row in zip(labels, keys, strict=True)], np.int64)


def _right(labels: list[Label], choices: list[list[str]], where: str) -> np.ndarray:
    """Which choice each label names: by number from 0, or by letter from A."""
    letters = all(label in _LETTERS for label in labels)
    ids = [_LETTERS.index(str(v)) if letters else v for v in labels]
    wrong = [
        i
        for i, (v, row) in enumerate(zip(ids, choices, strict=True))
        if not isinstance(v, int) or not 0 <= v < len(row)
    ]
    if wrong:
        raise InputError(
            f"{where}: a label is the number of a choice, from 0, or its letter, from A; found "
            f"{labels[wrong[0]]!r} in {list_rows(wrong)}"
        )
    return np.array(ids, np.int64)
