"""What a model answers, one small class a task. Scores are probabilities unless said otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Label:
    """A label and its score."""

    label: str
    score: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Classification:
    """One of several classes.

    Attributes:
        label: The most probable class.
        score: Its probability.
        scores: The `top_k` most probable classes, best first.
    """

    label: str
    score: float
    scores: tuple[Label, ...]

    def to_json(self) -> dict[str, Any]:
        best = {"label": self.label, "score": self.score}
        if len(self.scores) < 2:
            return best
        return {**best, "scores": [label.to_json() for label in self.scores]}


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels, each decided by itself.

    Attributes:
        labels: Those whose probability reaches the threshold, best first.
        scores: The `top_k` most probable labels (by default all of them), best first.
    """

    labels: tuple[str, ...]
    scores: tuple[Label, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "labels": list(self.labels),
            "scores": [label.to_json() for label in self.scores],
        }


@dataclass(frozen=True)
class Regression:
    """A number, or several if the head has several outputs.

    Attributes:
        value: The first one.
        values: All of them.
    """

    value: float
    values: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        if len(self.values) == 1:
            return {"value": self.value}
        return {"value": self.value, "values": list(self.values)}


@dataclass(frozen=True)
class Choice:
    """One of the choices that were given.

    Attributes:
        text: The most probable one.
        index: Its number, from 0.
        score: Its probability.
        scores: The probabilities of all, in the order given.
    """

    text: str
    index: int
    score: float
    scores: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "scores": list(self.scores)}


@dataclass(frozen=True)
class Entity:
    """A stretch of text and what it is.

    Attributes:
        label: The tag without its "B-" or "I-".
        text: text[start:end] of what was given.
        start, end: In characters.
        score: Mean probability of its words' tags.
    """

    label: str
    text: str
    start: int
    end: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Entities:
    """The entities of one text, in its order. Behaves like a tuple of them."""

    entities: tuple[Entity, ...]

    def __iter__(self) -> Any:
        return iter(self.entities)

    def __len__(self) -> int:
        return len(self.entities)

    def __getitem__(self, index: int) -> Entity:
        return self.entities[index]

    def to_json(self) -> dict[str, Any]:
        return {"entities": [entity.to_json() for entity in self.entities]}


@dataclass(frozen=True)
class Span:
    """A stretch of the context that may be the answer; empty if there may be none."""

    text: str
    start: int
    end: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """The answer to a question, a stretch of its context.

    Attributes:
        text: context[start:end]; empty if the answer is that there is none.
        start, end: In characters; both 0 if there is no answer.
        score: Probability among the spans that were considered.
        no_answer_score: Logit of "no answer" minus that of the best span (SQuAD v2); of use only
            if the model was trained on questions without an answer.
        candidates: The `top_k` best spans, best first.
    """

    text: str
    start: int
    end: int
    score: float
    no_answer_score: float
    candidates: tuple[Span, ...]

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        if len(self.candidates) < 2:
            del document["candidates"]
        else:
            document["candidates"] = [span.to_json() for span in self.candidates]
        return document


@dataclass(frozen=True)
class Candidate:
    """A token for a mask.

    Attributes:
        token: As readable text.
        id: Its number in the vocabulary.
        score: Its probability.
        text: The whole text with this token in place of the mask.
    """

    token: str
    id: int
    score: float
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FilledMask:
    """Candidates for the masks of one text.

    Attributes:
        candidates: For the first mask, best first.
        masks: The candidates of every mask, in the order of the text.
    """

    candidates: tuple[Candidate, ...]
    masks: tuple[tuple[Candidate, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {"masks": [[c.to_json() for c in candidates] for candidates in self.masks]}


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text as a vector [hidden] of float32; `np.asarray` takes it, or a list of them."""

    vector: NDArray[np.float32]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vector, dtype=dtype, copy=copy)

    def to_json(self) -> dict[str, Any]:
        return {"embedding": self.vector.tolist()}


Result = (
    Classification | MultiLabel | Regression | Choice | Entities | Answer | FilledMask | Embedding
)
