"""Any number of labels for each text or pair of texts: a yes or no for each label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from prunella.data.labels import (
    list_rows,
    made_up_id,
    names_by_id,
    refuse_written_lists,
    takes_ids,
)
from prunella.data.task_batches import EncodedTask
from prunella.data.tasks import LABEL_COLUMNS, Columns, first_value, names_of, several
from prunella.errors import InputError
from prunella.tasks.base import Deciding, Predictions, Reading
from prunella.tasks.texts import TextRows, encode_texts, read_labelled, read_unlabelled


class MultiLabel:
    """Labels that do not exclude each other."""

    name = "multi-label"
    head = "SequenceClassification"
    problem = "multi_label_classification"
    named = True
    usual_length = 128

    def fits(self, table: datasets.Dataset, columns: Columns) -> bool:
        """Lists of labels, or several columns named as labels."""
        if columns.label and columns.label not in table.column_names:
            return "," in columns.label
        return isinstance(first_value(table, columns.label, LABEL_COLUMNS), list)

    def read(
        self, table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
    ) -> TextRows:
        flags = _flag_columns(table, columns, names, source)
        first = Columns(columns.text, columns.pair, flags[0]) if flags else columns
        texts, pairs, label, found_in = read_labelled(table, first, source)
        if flags:
            labels, found = _from_columns(table, flags, names, source)
            found_in = replace(found_in, label=",".join(flags))
        else:
            where = f"{source}, column '{label}'"
            labels, found = _from_lists(table[label][:], names, names_of(table, label), where)
        labels.flags.writeable = False
        return TextRows(texts, pairs, labels, found, columns=found_in)

    def read_texts(
        self, table: datasets.Dataset, columns: Columns, names: list[str], source: str
    ) -> TextRows:
        texts, pairs = read_unlabelled(table, columns, source)
        return TextRows(texts, pairs, np.zeros((len(texts), len(names)), np.int64), names)

    def traits(self, rows: TextRows) -> dict[str, Any]:
        return {"pairs": rows.pairs is not None}

    def outputs(self, names: list[str]) -> int:
        return len(names)

    def encode(self, rows: TextRows, reading: Reading) -> EncodedTask:
        return encode_texts(rows.texts, rows.pairs, rows.labels, reading)

    def class_weights(self, encoded: EncodedTask, outputs: int) -> Tensor:
        """How many rows lack a label for each one that has it."""
        having = encoded.labels.sum(axis=0)
        lacking = len(encoded.labels) - having
        return torch.from_numpy((lacking / np.maximum(having, 1)).clip(1e-3).astype(np.float32))

    def loss(self, logits: Tensor, inputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits.float(), inputs["labels"].float(), pos_weight=weights
        )

    def distillation(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """T^2 KL between the two answers of each label, mean over rows and labels."""
        ours, theirs = student.float() / temperature, teacher.float() / temperature
        yes = theirs.sigmoid() * (F.logsigmoid(theirs) - F.logsigmoid(ours))
        no = (-theirs).sigmoid() * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        return (yes + no).mean() * temperature**2

    def decode(
        self,
        logits: np.ndarray,
        encoded: EncodedTask,
        rows: TextRows,
        reading: Reading,
        deciding: Deciding,
    ) -> Predictions:
        scores = expit(logits)
        chosen = (scores >= (0.5 if deciding.threshold is None else deciding.threshold)).astype(int)

        def named(flags: np.ndarray) -> list[str]:
            return [name for name, flag in zip(rows.names, flags, strict=True) if flag]

        details = [
            {
                "prediction": named(predicted),
                "label": named(label),
                "scores": [round(x, 6) for x in score],
            }
            for predicted, label, score in zip(chosen, rows.labels, scores.tolist(), strict=True)
        ]
        return Predictions(chosen, details)


def _flag_columns(
    table: datasets.Dataset, columns: Columns, names: list[str] | None, source: str
) -> list[str]:
    """The columns of 0 and 1, one a label; empty where one column holds lists."""
    if columns.label:
        found = several(table.column_names, "label", columns.label, source)
        return found if len(found) > 1 else []
    usual = any(name in table.column_names for name in LABEL_COLUMNS)
    return list(names) if names and not usual and set(names) <= set(table.column_names) else []


def _from_columns(
    table: datasets.Dataset, flags: list[str], names: list[str] | None, source: str
) -> tuple[np.ndarray, list[str]]:
    if names and set(names) != set(flags):
        raise InputError(
            f"{source}: the labels are {', '.join(flags)}, those of training or of the model's "
            f"head {', '.join(names)}; they must be the same"
        )
    flags = names or flags
    meaning = {0: 0, 1: 1, "0": 0, "1": 1}  # False and True are 0 and 1 as keys, too
    labels = np.zeros((len(table), len(flags)), np.int64)
    for number, name in enumerate(flags):
        values = table[name][:]
        wrong = [i for i, value in enumerate(values) if not _is_flag(value)]
        if wrong:
            raise InputError(
                f"{source}, column '{name}': a label's column holds 0 or 1; found "
                f"{values[wrong[0]]!r} in {list_rows(wrong)}"
            )
        labels[:, number] = [meaning[value] for value in values]
    return labels, flags


def _from_lists(
    values: list[Any], names: list[str] | None, given: list[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    refuse_written_lists(values, where, "a column of 0 and 1 for each label")
    wrong = [i for i, value in enumerate(values) if not isinstance(value, list)]
    if wrong:
        raise InputError(
            f"{where}: a list of labels for each row, which may be empty, is needed; found "
            f"{values[wrong[0]]!r} in {list_rows(wrong)}. For a column of 0 and 1 for each label, "
            "name all of them in `label`, between commas"
        )
    known = names or given
    if _is_table_of_flags(values, known):
        found = known or [str(i) for i in range(len(values[0]))]
        if len(found) != len(values[0]):
            raise InputError(f"{where}: {len(values[0])} flags a row for {len(found)} labels")
        return np.array(values, np.int64), list(found)
    meant = names_by_id(given, names)
    by_id = known if known and takes_ids(known) else None
    rows = [[_name(value, known, meant or by_id) for value in row] for row in values]
    present = sorted({label for row in rows for label in row})
    found = known or present
    unknown = [label for label in present if label not in set(found)]
    if unknown:
        raise InputError(
            f"{where}: unknown label {', '.join(map(repr, unknown[:10]))}; the {len(found)} known "
            f"from the training data or the model's head are {', '.join(map(repr, found[:20]))}"
        )
    if not known and not 0 < len(found) <= max(50, len(rows) / 2):
        raise InputError(
            f"{where}: {len(found)} different labels in {len(rows)} rows do not look like classes; "
            "set `label` to another column"
        )
    ids = {name: i for i, name in enumerate(found)}
    labels = np.zeros((len(rows), len(found)), np.int64)
    for i, row in enumerate(rows):
        labels[i, [ids[label] for label in row]] = 1
    return labels, list(found)


def _name(value: Any, known: list[str] | None, by_id: list[str] | None) -> str:
    """A label as text; a number is an id of `by_id`, if there are such names and it is in range."""
    if by_id and isinstance(value, int):
        return by_id[value] if 0 <= value < len(by_id) else str(value)
    number = made_up_id(value, known) if known and isinstance(value, str) else None
    return str(value) if number is None else str(number)


def _is_flag(value: Any) -> bool:
    return isinstance(value, (int, str, float)) and value in (0, 1, "0", "1")


def _is_table_of_flags(values: list[list[Any]], known: list[str] | None) -> bool:
    """Whether all rows are equally long vectors of 0 and 1, not lists of ids.

    [[1, 0], [0, 1]] could be either. It is flags, unless the classes are known to be of another
    number; a row that has a value twice is no list of ids whatever is known.
    """
    same = len({len(row) for row in values}) == 1 and len(values[0]) > 1
    if not same or not all(value in (0, 1) for row in values for value in row):
        return False
    repeated = any(len(set(row)) < len(row) for row in values)
    return repeated or not known or len(known) == len(values[0])
