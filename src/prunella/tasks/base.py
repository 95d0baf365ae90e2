"""What a kind of task says of itself. Each kind is one file beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import datasets
import numpy as np
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import Columns
from prunella.engine.options import USUAL_STRIDE
from prunella.engine.tokens import TextEncoder
from prunella.errors import InputError


@dataclass(frozen=True)
class Reading:
    """How rows become sequences of tokens.

    Attributes:
        tokenizer: A fast tokenizer; it is left as it was.
        max_length: Tokens that a sequence may have at most, special ones included.
        stride: Tokens that the windows of a long text share.
        token_types: Whether the model takes token_type_ids (DistilBERT does not).
    """

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    stride: int = USUAL_STRIDE
    token_types: bool = False

    def encoder(self) -> TextEncoder:
        """The engine's own encoder: what is trained in windows is served in the same ones."""
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        return TextEncoder(
            backend, self.max_length, token_types=self.token_types, stride=self.stride
        )


@dataclass(frozen=True)
class Deciding:
    """How outputs become predictions.

    Attributes:
        threshold: Probability from which a label counts (multi-label, by default 0.5), or score
            above which a question has no answer (by default 0).
        no_answer: Whether questions may have no answer.
        max_answer_length: Tokens of an answer at most.
    """

    threshold: float | None = None
    no_answer: bool = False
    max_answer_length: int = 30


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of n rows.

    Attributes:
        values: As `prunella.data.metrics` takes them.
        details: For each row "prediction", "label" and what else there is to say, for JSON.
        logits: [n, classes] where the metrics want them too.
        further: Figures that need more than `values`.
    """

    values: Any
    details: list[dict[str, Any]]
    logits: np.ndarray | None = None
    further: Mapping[str, float] = field(default_factory=dict)


class Rows(Protocol):
    """The rows of one split, read and checked, in the order of the file."""

    @property
    def names(self) -> list[str]:
        """The classes in the order of their ids; empty where there are none."""
        ...

    @property
    def gold(self) -> Any:
        """What is right, as `prunella.data.metrics` takes it."""
        ...

    @property
    def columns(self) -> Columns:
        """Where labelled rows were found, by name."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What is odd about the rows and how often ("answers_moved"), for the user to know."""
        ...

    def __len__(self) -> int: ...


R = TypeVar("R", bound=Rows)


class Kind(Protocol[R]):
    """A kind of task: rows in, loss and predictions out. It holds no state."""

    @property
    def name(self) -> str:
        """As settings, metrics and the engine call it."""
        ...

    @property
    def head(self) -> str:
        """The transformers class behind "AutoModelFor"."""
        ...

    @property
    def problem(self) -> str | None:
        """`problem_type` of the configuration."""
        ...

    @property
    def named(self) -> bool:
        """Whether the outputs are classes with names."""
        ...

    @property
    def usual_length(self) -> int:
        """Tokens of a sequence where nothing else is asked for."""
        ...

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """Whether a table looks like this kind. The kinds are asked in the order of KINDS."""
        ...

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> R:
        """The rows of a table.

        Args:
            table: From `prunella.data.readers.read_table`.
            columns: As the user names them.
            names: Classes in the order of their ids, from training or from a model's head; None
                takes those that come with the data, else what is there, sorted.
            source: Where the table came from, for messages.

        Raises:
            InputError: Columns, texts or labels that do not fit.
        """
        ...

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> R:
        """The rows of a table whose labels, if it has any, do not count.

        Args:
            table, columns, source: As in `read`.
            names: The classes in the order of their ids. Each row gets one label or another.
        """
        ...

    def traits(self, rows: R) -> dict[str, Any]:
        """What evaluation and the engine must know of the rows that a model was trained on."""
        ...

    def outputs(self, names: list[str]) -> int:
        """Outputs of the head."""
        ...

    def encode(self, rows: R, reading: Reading) -> EncodedTask:
        """Tokenises the rows once.

        Raises:
            InputError: If `max_length` leaves no room for text, or is more than the model takes.
        """
        ...

    def class_weights(self, encoded: EncodedTask, outputs: int) -> Tensor | None:
        """Weights that make rare classes count as much as common ones; None without classes."""
        ...

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        """The loss on the labels of a batch.

        Args:
            logits: [sequences, outputs], or [watched tokens, outputs].
            inputs: From `prunella.data.task_batches.collate`.
            weights: From `class_weights`.
        """
        ...

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """How far the student's logits are from the teacher's, both as in `loss`."""
        ...

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: R,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        """What the logits of all sequences say of each row."""
        ...


def check_reading(reading: Reading, pair: bool) -> None:
    """Refuses lengths without room for text, or beyond what the tokenizer's model takes."""
    special = reading.tokenizer.num_special_tokens_to_add(pair=pair)
    least, most = special + (2 if pair else 1), reading.tokenizer.model_max_length
    if not least <= reading.max_length <= most:
        raise InputError(f"max_length {reading.max_length}: this tokenizer takes {least} to {most}")
