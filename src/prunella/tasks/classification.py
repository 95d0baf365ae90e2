"""One class for each text or pair of texts: cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunella.data.labels import by_own_names, clean, to_class_ids
from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import Columns, names_of
from prunella.distillation import logits_loss
from prunella.tasks.base import Deciding, Predictions, Reading
from prunella.tasks.texts import TextRows, encode_texts, read_labelled, read_unlabelled


class Classification:
    """One of several classes."""

    name = "classification"
    head = "SequenceClassification"
    problem = "single_label_classification"
    named = True
    usual_length = 128

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        return True  # asked last: what is wrong then is best said in its words

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> TextRows:
        texts, pairs, label, found_in = read_labelled(table, columns, source)
        where = f"{source}, column '{label}'"
        own = names_of(table, label)
        labels = by_own_names(clean(table[label][:], where), own, names)
        ids, found = to_class_ids(labels, names or own, where)
        ids.flags.writeable = False
        return TextRows(texts, pairs, ids, found, columns=found_in)

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> TextRows:
        texts, pairs = read_unlabelled(table, columns, source)
        return TextRows(texts, pairs, np.zeros(len(texts), np.int64), names)

    def traits(self, rows: TextRows) -> dict[str, Any]:
        return {"pairs": rows.pairs is not None}

    def outputs(self, names: list[str]) -> int:
        return len(names)

    def encode(self, rows: TextRows, reading: Reading) -> EncodedTask:
        return encode_texts(rows.texts, rows.pairs, rows.labels, reading)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> Tensor:
        return balanced(encoded.labels, outputs)

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        return F.cross_entropy(logits.float(), inputs["labels"], weights)

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return logits_loss(student, teacher, temperature)

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: TextRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        chosen = logits.argmax(axis=1)
        details = [
            {
                "prediction": rows.names[predicted],
                "label": rows.names[label],
                "logits": [round(x, 6) for x in row],
            }
            for predicted, label, row in zip(chosen, rows.labels, logits.tolist(), strict=True)
        ]
        return Predictions(chosen, details, logits)


def balanced(labels: np.ndarray, outputs: int) -> Tensor:
    """n / (classes * count) for each class, as scikit-learn has it; labels below 0 are none."""
    counts = np.bincount(labels[labels >= 0], minlength=outputs)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))
