"""A tag for each word: entity recognition, chunking, parts of speech.

The words are joined by spaces and read as the engine reads raw text, so what is served is what was
trained. The first token of a word tells its tag. Where the tokenizer sees several words in one of
ours ("T-cell"), the others are trained as well, to go on with the entity: the engine, which knows
only the tokenizer's words, asks for them too. Long sentences are read in windows; each word is
learned and predicted once, where it has most around it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import datasets
import numpy as np
import torch.nn.functional as F
from tokenizers import Encoding
from torch import Tensor

from prunella.data.labels import list_rows, refuse_written_lists
from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import (
    Columns,
    Usual,
    find_columns,
    find_texts,
    first_value,
    names_of,
)
from prunella.distillation import logits_loss
from prunella.engine.entities import shares
from prunella.engine.tokens import TextEncoder
from prunella.errors import InputError
from prunella.tasks.base import Deciding, Predictions, Reading, check_reading
from prunella.tasks.classification import balanced
from prunella.tasks.tags import OUTSIDE, inside, sorted_tags, to_iob2
from prunella.tasks.windows import Collected

_USUAL = Usual(
    (("tokens", None), ("words", None)), ("tags", "ner_tags", "labels", "label", "chunk_tags")
)
_NO_LABEL = -100  # what cross-entropy passes over


@dataclass(frozen=True, eq=False)
class TaggedRows:
    """Sentences of words with a tag each, in IOB2; `columns` are where labelled ones were found."""

    words: list[list[str]]
    tags: list[list[str]]
    names: list[str]
    counts: Mapping[str, int]
    columns: Columns = field(default_factory=Columns)

    @property
    def gold(self) -> list[list[str]]:
        return self.tags

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class _Mark:
    """A token that stands for a word (of the table), or for a later piece of it."""

    token: int
    word: int
    first: bool


class TokenClassification:
    """Tags of words."""

    name = "token-classification"
    head = "TokenClassification"
    problem = None
    named = True
    usual_length = 128

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """Lists of words beside lists of tags."""
        words = first_value(table, columns.text, [text for text, _ in _USUAL.texts])
        tags = first_value(table, columns.label, _USUAL.labels)
        return isinstance(words, list) and isinstance(tags, list)

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> TaggedRows:
        text, pair, label = find_columns(
            table.column_names, columns.text, columns.pair, columns.label, source, _USUAL
        )
        _refuse_pair(pair, source)
        words, written = _lists(table, text, source), _lists(table, label, source)
        unequal = [
            i for i, (a, b) in enumerate(zip(words, written, strict=True)) if len(a) != len(b)
        ]
        if unequal:
            first = unequal[0]
            raise InputError(
                f"{source}: {len(words[first])} words and {len(written[first])} tags in "
                f"{list_rows(unequal)}; each word needs one"
            )
        given = names_of(table, label)
        by_id = _names_of_numbers(written, given, names, f"{source}, column '{label}'")
        tags = [to_iob2([_tag(value, by_id) for value in row]) for row in written]
        seen = Counter(tag for row in tags for tag in row)
        if names is None:
            names = given if given and set(given) >= set(seen) else sorted_tags(set(seen))
            if len(names) < 2:
                raise InputError(
                    f"{source}, column '{label}': every tag is {names[0]!r}; two are needed"
                )
        unseen = sum(count for tag, count in seen.items() if tag not in set(names))
        counts = {"unseen_tags": unseen}
        return TaggedRows(words, tags, list(names), counts, Columns(text, None, label))

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> TaggedRows:
        text, pair = find_texts(table.column_names, columns.text, columns.pair, source, _USUAL)
        _refuse_pair(pair, source)
        words = _lists(table, text, source)
        return TaggedRows(words, [[names[0]] * len(row) for row in words], names, {})

    def traits(self, rows: TaggedRows) -> dict[str, Any]:
        return {}

    def outputs(self, names: list[str]) -> int:
        return len(names)

    def encode(self, rows: TaggedRows, reading: Reading) -> EncodedTask:
        check_reading(reading, pair=False)
        encoder = reading.encoder()
        ids = {name: i for i, name in enumerate(rows.names)}
        collected = Collected(reading)
        silent = 0
        for number, (words, tags) in enumerate(zip(rows.words, rows.tags, strict=True)):
            text, marks = _marked(words, encoder)
            silent += len(words) - sum(mark.first for mark in marks)
            windows = encoder.sliding(text, encoder.limit(None, False))
            for window, (begin, end) in zip(windows, shares(windows), strict=True):
                mine = [mark for mark in marks if begin <= mark.token < end]
                wanted = [tags[m.word] if m.first else inside(tags[m.word]) for m in mine]
                collected.add(
                    number,
                    window,
                    [window.place + mark.token - window.begin for mark in mine],
                    [ids.get(tag, _NO_LABEL) for tag in wanted],
                )
        counts = {**rows.counts, "words_without_tokens": silent}
        return collected.task(token_labels=True, counts=counts)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> Tensor:
        return balanced(encoded.labels, outputs)

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        labels = inputs["labels"]
        if not bool((labels != _NO_LABEL).any()):  # the mean over nothing is no number
            return logits.float().sum() * 0
        return F.cross_entropy(logits.float(), labels, weights, ignore_index=_NO_LABEL)

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        if not len(student):
            return student.float().sum()
        return logits_loss(student, teacher, temperature)

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: TaggedRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        """Words without a token are outside."""
        encoder = reading.encoder()
        chosen = logits.argmax(axis=1)
        values: list[list[str]] = []
        begin = 0
        for words in rows.words:
            _, marks = _marked(words, encoder)
            tags = [OUTSIDE] * len(words)
            for mark, predicted in zip(marks, chosen[begin : begin + len(marks)], strict=True):
                if mark.first:
                    tags[mark.word] = rows.names[predicted]
            values.append(tags)
            begin += len(marks)
        details: list[dict[str, Any]] = [
            {"tokens": words, "prediction": tags, "label": gold}
            for words, tags, gold in zip(rows.words, values, rows.tags, strict=True)
        ]
        return Predictions(values, details)


def _refuse_pair(pair: str | None, source: str) -> None:
    if pair is not None:
        raise InputError(f"{source}: token classification has no second text; leave out `pair`")


def _lists(table: datasets.Dataset, column: str, source: str) -> list[list[Any]]:
    """Lists of words or tags; a text is one of them between spaces."""
    values = table[column][:]
    refuse_written_lists(values, f"{source}, column '{column}'", "words between spaces")
    values = [v.split() if isinstance(v, str) else v for v in values]
    wrong = [i for i, v in enumerate(values) if not isinstance(v, list) or not v or None in v]
    if wrong:
        raise InputError(
            f"{source}, column '{column}': a list with an entry for each word is needed; not so "
            f"in {list_rows(wrong)}"
        )
    return values


def _names_of_numbers(
    written: list[list[Any]], given: list[str] | None, known: list[str] | None, where: str
) -> list[str] | None:
    """What the numbers of a table are called; None where it holds tags, or numbers stay numbers.

    Args:
        written: The column of tags.
        given: The names that come with the table.
        known: The tags that are settled already; if they are numbers, the table's are meant.
        where: File and column, for messages.

    Raises:
        InputError: If a number is none of the known tags'.
    """
    numbers = all(_is_number(value) for row in written for value in row)
    if known and all(name.isdecimal() for name in known):
        return None if numbers else given
    if given or not known or not numbers:
        return given
    wrong = [i for i, row in enumerate(written) if any(int(v) >= len(known) for v in row)]
    if wrong:
        raise InputError(
            f"{where}: numbers of {len(known)} tags go from 0 to {len(known) - 1}; not so in "
            f"{list_rows(wrong)}. The tags known from training or from the model's head are "
            f"{', '.join(known[:20])}"
        )
    return known


def _is_number(value: Any) -> bool:
    """Whether a tag is a number from 0, which text between spaces holds as text."""
    return value.isdecimal() if isinstance(value, str) else isinstance(value, int) and value >= 0


def _tag(value: Any, names: list[str] | None) -> str:
    if names and _is_number(value) and int(value) < len(names):
        return names[int(value)]
    return str(value)


def _marked(words: Sequence[str], encoder: TextEncoder) -> tuple[Encoding, list[_Mark]]:
    """The tokens of a sentence, and which of them stand for words.

    A word that begins with a token without width (the lone space of a byte-level tokenizer) is
    marked there all the same, since the engine's word begins there. Its place in the text is that
    of the next token of the word.
    """
    words = [str(word) for word in words]
    sentence = " ".join(words)
    (text,) = encoder.encode([sentence])
    starts = list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))
    numbers, offsets = text.word_ids, text.offsets
    marks, met = list[_Mark](), set[int]()
    for token, number in enumerate(numbers):
        if token and number is not None and number == numbers[token - 1]:
            continue
        begin = _first_character(token, numbers, offsets)
        if begin is None:
            continue
        while begin < len(sentence) - 1 and sentence[begin].isspace():  # byte-level, SentencePiece
            begin += 1
        word = bisect_right(starts, begin) - 1
        marks.append(_Mark(token, word, word not in met))
        met.add(word)
    return text, marks


def _first_character(
    token: int, numbers: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> int | None:
    """Where the tokenizer's word that a token begins is first seen in the text; None if nowhere."""
    for i in range(token, len(numbers)):
        if i > token and (numbers[i] is None or numbers[i] != numbers[token]):
            return None
        begin, end = offsets[i]
        if end > begin:
            return begin
    return None
