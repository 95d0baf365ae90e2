"""Masked language modelling: candidates for each mask of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from prunella.engine.inputs import Example, single
from prunella.engine.options import FillMaskOptions
from prunella.engine.results import Candidate, FilledMask
from prunella.engine.runner import Floats
from prunella.engine.scores import best, softmax
from prunella.engine.tasks import whole_window
from prunella.engine.tokens import TextEncoder, Window
from prunella.errors import InputError


class FillMaskTask:
    """Tokens for the masks of a text."""

    name = "fill-mask"
    options = FillMaskOptions
    uses_head = True

    def __init__(self, tokenizer: Tokenizer, mask: str) -> None:
        number = tokenizer.token_to_id(mask)
        if number is None:
            raise InputError(f"the tokenizer has no token '{mask}', so there is nothing to fill")
        self.tokenizer, self.mask, self.mask_id = tokenizer, mask, number

    def read(self, value: Any) -> Example:
        example = single(value)
        if self.mask not in example.first:
            raise InputError(f"no {self.mask} in {example.first[:40]!r}; it marks what to fill in")
        return example

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: FillMaskOptions
    ) -> list[Window]:
        window = whole_window(texts, encoder, options)
        seen = int(np.count_nonzero(window.ids == self.mask_id))
        if seen < texts[0].ids.count(self.mask_id) or not seen:
            raise InputError(
                f"a {self.mask} stands behind the first {len(window)} tokens, which is all that "
                "is read; shorten the text"
            )
        return [window]

    def rows(self, window: Window) -> NDArray[np.intp]:
        return np.flatnonzero(window.ids == self.mask_id)

    def reduce(
        self, window: Window, outputs: Floats, options: FillMaskOptions
    ) -> list[list[tuple[int, float]]]:
        masks: list[list[tuple[int, float]]] = []
        for scores in softmax(outputs):
            chosen = best(scores, options.top_k)
            masks.append([(int(i), float(scores[i])) for i in chosen])
        return masks

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[list[list[tuple[int, float]]]],
        options: FillMaskOptions,
    ) -> FilledMask:
        places = [
            offset
            for offset, number in zip(texts[0].offsets, texts[0].ids, strict=True)
            if number == self.mask_id
        ]
        masks = tuple(
            tuple(self._candidate(example.first, place, *found) for found in candidates)
            for place, candidates in zip(places, parts[0], strict=True)
        )
        return FilledMask(masks[0], masks)

    def _candidate(self, text: str, place: tuple[int, int], number: int, score: float) -> Candidate:
        token = self.tokenizer.decode([number], skip_special_tokens=False)
        before, after = text[: place[0]], text[place[1] :]
        return Candidate(token, number, score, before + token + after)
