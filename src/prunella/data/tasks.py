"""Labelled tasks: one text or a pair of texts, with a class or a score for each."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np

from prunella.data.labels import clean, list_rows, looks_like_scores, to_class_ids, to_scores
from prunella.data.readers import read_table
from prunella.errors import InputError

Kind = Literal["classification", "regression"]

# What the usual data sets call their columns.
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
)
TEXT_COLUMNS = ("sentence", "text")
LABEL_COLUMNS = ("label", "labels", "score")


@dataclass(frozen=True, eq=False)
class TaskData:
    """The examples of one split of a task, in the order of the file.

    Attributes:
        kind: What the labels are.
        texts: n texts, none empty.
        pairs: The second text of each example, or None for single-text tasks.
        labels: [n]; int64 class ids, or float32 scores.
        label_names: The name of each class id; empty for regression.
        source: Where the data came from.
        fingerprint: sha256 (hex) of everything above but `source`.
    """

    kind: Kind
    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray
    label_names: list[str]
    source: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.texts)


def load_task(
    source: str,
    *,
    text: str | None,
    pair: str | None,
    label: str | None,
    kind: Literal["auto", "classification", "regression"] = "auto",
    label_names: list[str] | None = None,
    split: str | None = None,
) -> TaskData:
    """Load and check one split of a task.

    Load the training split first, then the others with its `kind` and `label_names`: then a
    class means the same everywhere, and a label that training never saw is an error.

    Args:
        source: See `prunella.data.readers.read_table`.
        text: Column of the (first) text; None finds the usual names.
        pair: Column of the second text; None for single texts, or found together with `text`.
        label: Column of the label; None finds the usual names.
        kind: "auto" is regression where a label has a fraction, else classification.
        label_names: Classes in the order of their ids, from training or from a model's head.
            None (or empty) takes the names that come with the data, else the sorted labels.
        split: The split of a Hub data set.

    Raises:
        InputError: Anything wrong with the file, its columns, its texts or its labels.
    """
    table = read_table(source, split)
    text, pair, label = find_columns(table.column_names, text, pair, label, source)
    texts = _texts(table, text, source)
    pairs = _texts(table, pair, source) if pair else None
    where = f"{source}, column '{label}'"
    labels = clean(table[label][:], where)
    names = label_names or _names_of(table, label)
    if kind == "auto":
        kind = "regression" if not names and looks_like_scores(labels) else "classification"
    if kind == "regression":
        # A regression head has one output, which transformers calls LABEL_0.
        if label_names and len(label_names) > 1:
            raise InputError(f"{where}: scores, but the classes {label_names} were given with them")
        numbers, names = to_scores(labels, where), []
    else:
        numbers, names = to_class_ids(labels, names or None, where)
    numbers.flags.writeable = False
    fingerprint = _fingerprint(kind, texts, pairs, numbers, names)
    return TaskData(kind, texts, pairs, numbers, names, source, fingerprint)


def find_columns(
    columns: Sequence[str], text: str | None, pair: str | None, label: str | None, source: str
) -> tuple[str, str | None, str]:
    """The columns of text, second text (None for single texts) and label.

    What is None is found by its usual name, if exactly one of the usual names is there.
    """
    for setting, name in (("text", text), ("pair", pair), ("label", label)):
        if name is not None and name not in columns:
            close = difflib.get_close_matches(name, columns, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InputError(f"{source}: no column '{name}' ({setting}); {_present(columns)}{hint}")
    if text is None:
        if pair is not None:
            raise InputError(
                f"{source}: `pair: {pair}` needs `text` set to the first text's column"
            )
        layouts = [found for found in PAIR_COLUMNS if set(found) <= set(columns)]
        layouts = layouts or [(name, None) for name in TEXT_COLUMNS if name in columns]
        if len(layouts) != 1:
            raise _undecided("texts", "`text` (and `pair` for two texts)", layouts, columns, source)
        text, pair = layouts[0]
    if label is None:
        labels = [(name,) for name in LABEL_COLUMNS if name in columns]
        if len(labels) != 1:
            raise _undecided("label", "`label`", labels, columns, source)
        label = labels[0][0]
    if len({text, pair, label}) < 3:
        raise InputError(f"{source}: text, pair and label must be different columns")
    return text, pair, label


def _undecided(
    what: str, setting: str, found: Sequence[tuple], columns: Sequence[str], source: str
) -> InputError:
    options = " or ".join("+".join(filter(None, names)) for names in found)
    problem = f"it could be {options}" if found else "none of the usual names is there"
    return InputError(
        f"{source}: cannot tell which column holds the {what}: {problem}. Set {setting}; "
        f"{_present(columns)} (a csv or tsv must name its columns in the first line)"
    )


def _present(columns: Sequence[str]) -> str:
    return f"the columns are {', '.join(map(repr, columns))}"


def _texts(table: datasets.Dataset, column: str, source: str) -> list[str]:
    texts = table[column][:]
    where = f"{source}, column '{column}'"
    wrong = [i for i, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if not wrong:
        return texts
    first = texts[wrong[0]]
    if first is None or isinstance(first, str):
        raise InputError(f"{where}: no text in {list_rows(wrong)}; drop or complete them")
    raise InputError(f"{where}: row {wrong[0] + 1} holds a {type(first).__name__}, not text")


def _names_of(table: datasets.Dataset, column: str) -> list[str] | None:
    feature = table.features[column]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _fingerprint(
    kind: Kind, texts: list[str], pairs: list[str] | None, labels: np.ndarray, names: list[str]
) -> str:
    contents = json.dumps([kind, texts, pairs, labels.tolist(), names])
    return hashlib.sha256(contents.encode()).hexdigest()
