"""Multiple choice: which of several texts goes best with another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from prunella.engine.inputs import Example, with_choices
from prunella.engine.options import CutOptions
from prunella.engine.results import Choice
from prunella.engine.runner import Floats
from prunella.engine.scores import softmax
from prunella.engine.tasks import whole_window
from prunella.engine.tokens import TextEncoder, Window


class ChoiceTask:
    """The best of several choices: each is read as a pair with the text, a softmax over all."""

    name = "multiple-choice"
    options = CutOptions
    uses_head = True

    def read(self, value: Any) -> Example:
        return with_choices(value)

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: CutOptions
    ) -> list[Window]:
        text, *choices = texts
        return [whole_window([text, choice], encoder, options) for choice in choices]

    def rows(self, window: Window) -> NDArray[np.intp]:
        return np.zeros(1, np.intp)

    def reduce(self, window: Window, outputs: Floats, options: CutOptions) -> float:
        return float(outputs[0, 0])

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[float],
        options: CutOptions,
    ) -> Choice:
        scores = softmax(np.array(parts))
        best = int(np.argmax(scores))
        return Choice(example.choices[best], best, float(scores[best]), tuple(map(float, scores)))
