"""A number for each text or pair of texts: mean squared error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from prunella.data.labels import clean, looks_like_scores, to_scores
from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import LABEL_COLUMNS, Columns, first_value, names_of
from prunella.errors import InputError
from prunella.tasks.base import Deciding, Predictions, Reading
from prunella.tasks.texts import TextRows, encode_texts, read_labelled, read_unlabelled


class Regression:
    """A score."""

    name = "regression"
    head = "SequenceClassification"
    problem = "regression"
    named = False
    usual_length = 128

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """Numbers, one of them with a fraction."""
        if first_value(table, columns.label, LABEL_COLUMNS) is None:
            return False
        label = columns.label or next(n for n in LABEL_COLUMNS if n in table.column_names)
        try:
            labels = clean(table[label][:], label)
        except InputError:  # said better by the kind that reads them
            return False
        return not names_of(table, label) and looks_like_scores(labels)

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> TextRows:
        texts, pairs, label, found_in = read_labelled(table, columns, source)
        where = f"{source}, column '{label}'"
        # A regression head has one output, which transformers calls LABEL_0.
        if names and len(names) > 1:
            raise InputError(f"{where}: scores, but the classes {names} were given with them")
        labels = clean(table[label][:], where)
        if set(labels) == {-1}:
            raise InputError(
                f"{where}: every label is -1, which usually means that labels are withheld; take a "
                "split with labels"
            )
        scores = to_scores(labels, where)
        scores.flags.writeable = False
        return TextRows(texts, pairs, scores, [], columns=found_in)

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> TextRows:
        texts, pairs = read_unlabelled(table, columns, source)
        return TextRows(texts, pairs, np.zeros(len(texts), np.float32), [])

    def traits(self, rows: TextRows) -> dict[str, Any]:
        return {"pairs": rows.pairs is not None}

    def outputs(self, names: list[str]) -> int:
        return 1

    def encode(self, rows: TextRows, reading: Reading) -> EncodedTask:
        return encode_texts(rows.texts, rows.pairs, rows.labels, reading)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> None:
        return None

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        return F.mse_loss(logits.float().squeeze(-1), inputs["labels"].float())

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return F.mse_loss(student.float(), teacher.float())

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: TextRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        scores = logits[:, 0]
        details = [
            {"prediction": predicted, "label": label}
            for predicted, label in zip(scores.tolist(), rows.labels.tolist(), strict=True)
        ]
        return Predictions(scores, details)
