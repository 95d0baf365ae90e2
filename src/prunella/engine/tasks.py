"""Tasks: how a text becomes windows, which tokens the head sees, what its outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from prunella.engine.inputs import Example, single, text_or_pair
from prunella.engine.options import (
    ClassificationOptions,
    CutOptions,
    EmbeddingOptions,
    MultiLabelOptions,
    Options,
)
from prunella.engine.results import Classification, Embedding, Label, MultiLabel, Regression, Result
from prunella.engine.runner import Floats
from prunella.engine.scores import best, sigmoid, softmax
from prunella.engine.tokens import TextEncoder, Window
from prunella.errors import InputError


class Task(Protocol):
    """What a model is used for. Tasks hold no state: one serves any number of calls at once."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def options(self) -> type[Options]:
        """What a call may ask for."""
        ...

    @property
    def uses_head(self) -> bool:
        """Whether it reads the head's outputs, or the hidden states."""
        ...

    def read(self, value: Any) -> Example:
        """What a user gave, checked."""
        ...

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: Any
    ) -> list[Window]:
        """The sequences of one example, from its tokens."""
        ...

    def rows(self, window: Window) -> NDArray[np.intp]:
        """Which tokens of a window go through the head."""
        ...

    def reduce(self, window: Window, outputs: Floats, options: Any) -> Any:
        """What must be kept of a window's outputs [rows, width]; small."""
        ...

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Any],
        options: Any,
    ) -> Result:
        """The result of an example, from what was kept of its windows."""
        ...


class _OneWindow:
    """What tasks share that read one window of a text or pair, and its first token."""

    uses_head = True

    def read(self, value: Any) -> Example:
        return text_or_pair(value)

    def windows(
        self, texts: Sequence[Encoding], encoder: TextEncoder, options: CutOptions
    ) -> list[Window]:
        return [whole_window(texts, encoder, options)]

    def rows(self, window: Window) -> NDArray[np.intp]:
        return np.zeros(1, np.intp)

    def reduce(self, window: Window, outputs: Floats, options: Any) -> Floats:
        return outputs[0].copy()  # a view would keep the whole batch


class ClassificationTask(_OneWindow):
    """One of several classes: softmax."""

    name = "classification"
    options = ClassificationOptions

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Floats],
        options: ClassificationOptions,
    ) -> Classification:
        scores = _ranked(softmax(parts[0]), self.labels, options.top_k)
        return Classification(scores[0].label, scores[0].score, scores)


class MultiLabelTask(_OneWindow):
    """Any number of labels: a sigmoid each."""

    name = "multi-label"
    options = MultiLabelOptions

    def __init__(self, labels: Sequence[str], threshold: float = 0.5) -> None:
        """`threshold` is used where the options leave it open."""
        self.labels, self.threshold = labels, threshold

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Floats],
        options: MultiLabelOptions,
    ) -> MultiLabel:
        scores = _ranked(sigmoid(parts[0]), self.labels, None)
        least = self.threshold if options.threshold is None else options.threshold
        chosen = tuple(label.label for label in scores if label.score >= least)
        return MultiLabel(chosen, scores[: options.top_k])


class RegressionTask(_OneWindow):
    """The outputs themselves."""

    name = "regression"
    options = CutOptions

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Floats],
        options: CutOptions,
    ) -> Regression:
        values = tuple(map(float, parts[0]))
        return Regression(values[0], values)


class EmbeddingTask(_OneWindow):
    """A vector for each text, from the hidden states."""

    name = "embedding"
    options = EmbeddingOptions
    uses_head = False

    def read(self, value: Any) -> Example:
        return single(value)

    def rows(self, window: Window) -> NDArray[np.intp]:
        return np.arange(len(window))

    def reduce(self, window: Window, outputs: Floats, options: EmbeddingOptions) -> Floats:
        vector = outputs[0].copy() if options.pooling == "cls" else outputs.mean(axis=0)
        if options.normalize:
            length = np.sqrt(np.square(vector, dtype=np.float64).sum())
            vector = (vector / max(length, 1e-12)).astype(np.float32)
        return vector

    def finish(
        self,
        example: Example,
        texts: Sequence[Encoding],
        windows: Sequence[Window],
        parts: Sequence[Floats],
        options: EmbeddingOptions,
    ) -> Embedding:
        return Embedding(parts[0])


def whole_window(texts: Sequence[Encoding], encoder: TextEncoder, options: CutOptions) -> Window:
    """The one window of a text or pair.

    Raises:
        InputError: If it is too long and must not be cut.
    """
    limit = encoder.limit(options.max_length, len(texts) == 2)
    window = encoder.whole(texts, limit)
    if window.cut and not options.truncate:
        raise InputError(
            f"{len(window) + window.cut} tokens, {limit} is the most; shorten the text, "
            f"{'raise max_length, ' if limit < encoder.positions else ''}or allow truncate"
        )
    return window


def _ranked(scores: Any, labels: Sequence[str], count: int | None) -> tuple[Label, ...]:
    return tuple(Label(labels[int(i)], float(scores[i])) for i in best(scores, count))
