"""Span question answering: the best stretch of the context, over all windows of a long one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from prunella.engine.inputs import Example, question
from prunella.engine.options import USUAL_ANSWER_LENGTH, AnswerOptions
from prunella.engine.results import Answer, Span
from prunella.engine.runner import Floats
from prunella.engine.scores import best, softmax
from prunella.engine.tokens import TextEncoder, Window
from prunella.errors import InputError

# Spans over whose probabilities the softmax runs, as in the official evaluation of SQuAD.
_CONSIDERED = 20


@dataclass(frozen=True)
class _Found:
    """The best spans of a window, in tokens of the whole context.

    `starts`, `ends` (inclusive) and `logits` are [n]; `none` is the logit of "no answer".
    """

    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    logits: NDArray[Any]
    none: float


class AnswerTask:
    """The answer to a question about a context."""

    name = "question-answering"
    options = AnswerOptions
    uses_head = True

    def __init__(
        self,
        *,
        no_answer: bool,
        threshold: float = 0.0,
        max_answer_length: int = USUAL_ANSWER_LENGTH,
    ) -> None:
        """Set up.

        Args:
            no_answer: Whether the model was trained on questions without an answer.
            threshold: Used where the options leave it open, as is the next.
            max_answer_length: Tokens of an answer at most.
        """
        self.threshold, self.max_answer_length = threshold, max_answer_length
        self.no_answer = no_answer

    def read(self, value: Any) -> Example:
        return question(value)

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: AnswerOptions
    ) -> list[Window]:
        if not len(texts[1]):
            raise InputError("the context holds nothing that the tokenizer keeps")
        limit = encoder.limit(options.max_length, True)
        return encoder.sliding(texts[1], limit, options.stride, before=texts[0])

    def rows(self, window: Window) -> NDArray[np.intp]:
        context = np.arange(window.place, window.place + window.end - window.begin)
        return np.concatenate([[0], context])

    def reduce(self, window: Window, outputs: Floats, options: AnswerOptions) -> _Found:
        """The spans with the highest sum of start and end logit."""
        count = max(_CONSIDERED, options.top_k or 0)
        wide = outputs.astype(np.float64)
        none, start, end = wide[0].sum(), wide[1:, 0], wide[1:, 1]
        length = min(options.max_answer_length or self.max_answer_length, len(start))
        sums = np.full((len(start), length), -np.inf)
        for extra in range(length):  # spans of 1 + extra tokens
            sums[: len(start) - extra, extra] = start[: len(start) - extra] + end[extra:]
        flat = sums.reshape(-1)
        chosen = best(flat, count)
        chosen = chosen[np.isfinite(flat[chosen])]
        starts, extras = np.divmod(chosen, max(length, 1))
        starts = starts + window.begin
        return _Found(starts, starts + extras, flat[chosen], float(none))

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[_Found],
        options: AnswerOptions,
    ) -> Answer:
        none = min(part.none for part in parts)
        spans = _merged(parts)[: max(_CONSIDERED, options.top_k or 0)]
        logits = [logit for _, _, logit in spans]
        wants_none = self.no_answer if options.no_answer is None else options.no_answer
        scores = softmax(np.array([*logits, none] if wants_none else logits))
        offsets, context = texts[1].offsets, example.second or ""
        found: list[Span] = []
        for (first, last, _), score in zip(spans, scores, strict=False):
            start, end = offsets[first][0], offsets[last][1]
            found.append(Span(context[start:end], start, end, float(score)))
        margin, answer = none - logits[0], found[0]
        threshold = self.threshold if options.threshold is None else options.threshold
        if wants_none and margin > threshold:
            answer = Span("", 0, 0, float(scores[-1]))
            found = [answer, *found]
        return Answer(
            answer.text,
            answer.start,
            answer.end,
            answer.score,
            float(margin),
            tuple(found[: options.top_k]),
        )


def _merged(parts: Sequence[_Found]) -> list[tuple[int, int, float]]:
    """(first token, last token, logit) of all windows, best first; of a span met twice the best."""
    logits: dict[tuple[int, int], float] = {}
    for part in parts:
        for start, end, logit in zip(part.starts, part.ends, part.logits, strict=True):
            span = int(start), int(end)
            logits[span] = max(float(logit), logits.get(span, -np.inf))
    ranked = sorted(logits.items(), key=lambda item: (-item[1], item[0]))
    return [(start, end, logit) for (start, end), logit in ranked]
