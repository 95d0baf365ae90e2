"""Which columns of a row hold what a model reads."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prunella.errors import InputError
from prunella.rows import Record

_QUESTION = ("question", "context")
# What the usual data sets call their columns.
_PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
)
_TEXTS = ("text", "sentence")
_CHOICES = (("text", "choices"), ("question", "choices"), ("prompt", "choices"))
_OTHER_MARKS = ";|\t"  # between the columns of files that are not what their name says


def find_columns(
    names: Collection[str],
    *,
    given: Sequence[str],
    task: str,
    trained: Mapping[str, Any],
) -> tuple[str, ...]:
    """The one or two columns to read.

    Args:
        names: The columns there are.
        given: What the user asked for; empty to find them by the usual names.
        task: What the model is used for.
        trained: What was recorded of the columns that the model was trained on.

    Raises:
        InputError: If they are not there, or it cannot be told which ones to take.
    """
    there = ", ".join(map(repr, names))
    if given:
        for name in given:
            if name not in names:
                close = difflib.get_close_matches(name, list(names), n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise InputError(f"no column '{name}'; the columns are {there}{hint}")
        return tuple(given)
    if task == "question-answering":
        layouts = [_QUESTION]
    elif task == "multiple-choice":
        known = tuple(trained.get(key) or "" for key in ("text", "choices"))
        layouts = [known, *_CHOICES] if all(known) else list(_CHOICES)
    else:
        single = [(name,) for name in _TEXTS]
        pairs = list(_PAIRS) if task in ("classification", "multi-label", "regression") else []
        recorded = tuple(str(trained[key]) for key in ("text", "pair") if trained.get(key))
        layouts = [*([recorded] if trained.get("text") else []), *pairs, *single]
    for layout in layouts:
        if set(layout) <= set(names):
            return layout
    if len(names) == 1 and task not in ("question-answering", "multiple-choice"):
        (name,) = names
        if any(mark in name for mark in _OTHER_MARKS):
            raise InputError(
                f"the only column is {name!r}, which looks like several; csv is cut at commas, tsv "
                "at tabs: convert the file, or name that column with --columns"
            )
        return (name,)
    raise InputError(
        f"cannot tell which columns to read: they are {there}; name them with --columns"
    )


def pick(record: Record, columns: Sequence[str], *, choices: bool = False) -> Any:
    """What the model reads of a row: a text, a pair, or a text and a list of choices.

    Raises:
        InputError: If a column is missing or holds no text.
    """
    if isinstance(record, str):
        return record
    found = []
    for number, name in enumerate(columns):
        value = record.get(name)
        if value is None and number and name == "text_pair":
            continue  # may be left out
        if not isinstance(value, list if choices and number else str):
            wanted = "no list" if choices and number else "no text"
            missing = "missing" if name not in record else f"{wanted} but {type(value).__name__}"
            raise InputError(f"column '{name}' is {missing}")
        found.append(value)
    return found[0] if len(found) == 1 else tuple(found)
