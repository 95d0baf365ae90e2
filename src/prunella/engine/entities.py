"""Token classification: a tag for each word, entities from the tags, over texts of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from prunella.engine.inputs import Example, single
from prunella.engine.options import Aggregation, EntityOptions
from prunella.engine.results import Entities, Entity
from prunella.engine.runner import Floats
from prunella.engine.scores import softmax
from prunella.engine.tokens import TextEncoder, Window

_OUTSIDE = "O"


@dataclass(frozen=True)
class _Word:
    """A word's tag, its probability, and where it stands."""

    tag: str
    score: float
    start: int
    end: int

    @property
    def begins(self) -> bool:
        return self.tag.startswith("B-")

    @property
    def label(self) -> str:
        return self.tag[2:] if self.tag.startswith(("B-", "I-")) else self.tag


class EntityTask:
    """Entities of a text; a long one is read in windows."""

    name = "token-classification"
    options = EntityOptions
    uses_head = True

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels

    def read(self, value: Any) -> Example:
        return single(value)

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: EntityOptions
    ) -> list[Window]:
        limit = encoder.limit(options.max_length, False)
        return encoder.sliding(texts[0], limit, options.stride)

    def rows(self, window: Window) -> NDArray[np.intp]:
        return np.arange(window.place, window.place + window.end - window.begin)

    def reduce(self, window: Window, outputs: Floats, options: EntityOptions) -> Floats:
        return outputs.copy()

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Floats],
        options: EntityOptions,
    ) -> Entities:
        scores = softmax(joined(windows, parts))
        words = list(self._words(texts[0], scores, options.aggregation))
        return Entities(tuple(_entities(words, example.first)))

    def _words(self, text: Encoding, scores: NDArray[Any], how: Aggregation) -> Iterator[_Word]:
        offsets, numbers = text.offsets, text.word_ids
        begin = 0
        for end in range(1, len(offsets) + 1):
            whole = end == len(offsets) or numbers[end] is None or numbers[end] != numbers[begin]
            if how == "simple" or whole:
                mixed = _aggregate(scores[begin:end], how)
                best = int(mixed.argmax())
                start, stop = offsets[begin][0], offsets[end - 1][1]
                yield _Word(self.labels[best], float(mixed[best]), start, stop)
                begin = end


def joined(windows: Sequence[Window], parts: Sequence[Floats]) -> Floats:
    """Outputs [tokens, width] of the whole text: each token's from where it has most around it.

    Of the tokens that two windows share, the first half belongs to the former one.
    """
    answered = zip(windows, parts, shares(windows), strict=True)
    return np.concatenate(
        [part[begin - w.begin : end - w.begin] for w, part, (begin, end) in answered]
    )


def shares(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The tokens [begin, end) of the whole text that each window answers for."""
    middles = [(window.end + after.begin + 1) // 2 for window, after in pairwise(windows)]
    bounds = [windows[0].begin, *middles, windows[-1].end]
    return list(pairwise(bounds))


def _aggregate(scores: NDArray[Any], how: Aggregation) -> NDArray[Any]:
    """[tokens of a word, labels] -> [labels]."""
    if how == "average":
        return scores.mean(axis=0)
    if how == "max":
        return scores[scores.max(axis=1).argmax()]
    return scores[0]


def _entities(words: Sequence[_Word], text: str) -> Iterator[Entity]:
    """Neighbouring words of one label, a new entity at each B- tag."""
    group: list[_Word] = []
    for word in [*words, None]:
        if group and (word is None or word.begins or word.label != group[0].label):
            if group[0].tag != _OUTSIDE:
                start, end = group[0].start, group[-1].end
                score = float(np.mean([w.score for w in group]))
                yield Entity(group[0].label, text[start:end], start, end, score)
            group = []
        if word is not None:
            group.append(word)
