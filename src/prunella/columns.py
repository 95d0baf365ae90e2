"""Which columns of a row hold what a model reads."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunella.engine.kinds import TEXTS_OR_PAIRS, trained_on_pairs
from prunella.errors import InputError
from prunella.rows import Record


@dataclass(frozen=True)
class Layout:
    """Columns that are read together.

    Attributes:
        text: Of the text, of the words, or of the question.
        pair: Of the second text, if there is one.
        choices: In multiple choice that of their lists, or one for each choice.
    """

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order that they are read in."""
        return (self.text, *([self.pair] if self.pair else []), *self.choices)


# What the usual data sets call their columns.
_QUESTIONS = (Layout("question", "context"),)
_PAIRS = (
    Layout("text", "text_pair"),
    Layout("sentence1", "sentence2"),
    Layout("question1", "question2"),
    Layout("question", "sentence"),
    Layout("premise", "hypothesis"),
)
_TEXTS = (Layout("text"), Layout("sentence"))
_WORDS = (Layout("tokens"), Layout("words"))
_CHOICES = tuple(Layout(text, None, ("choices",)) for text in ("text", "question", "prompt"))
_OTHER_MARKS = ";|\t"  # between the columns of files that are not what their name says


def find_columns(
    names: Collection[str],
    *,
    given: Sequence[str],
    task: str,
    trained: Mapping[str, Any],
) -> Layout:
    """The columns to read.

    Args:
        names: The columns there are.
        given: The one or two that the user asked for; empty to take those of training, or else
            those of the usual names.
        task: What the model is used for.
        trained: What was recorded of the rows that the model was trained on.

    Raises:
        InputError: If they are not there, if it cannot be told which ones to take, or if they are
            single texts for a model of pairs, or the other way round.
    """
    pairs = trained_on_pairs(task, trained)
    if given:
        layout = _given(given, names, task)
        _check_arity(layout, pairs)
        return layout
    layouts = _recorded(task, trained, names)
    # Choices that were read behind a second text are not what the usual columns hold.
    if not (task == "multiple-choice" and any(layout.pair for layout in layouts)):
        layouts += _usual(task)
    there = [layout for layout in layouts if set(layout.names) <= set(names)]
    found = next((one for one in there if pairs is None or bool(one.pair) == pairs), None)
    if found is not None:
        return found
    if there:
        _check_arity(there[0], pairs)
    if len(names) == 1 and task not in ("question-answering", "multiple-choice"):
        (name,) = names
        if any(mark in name for mark in _OTHER_MARKS):
            raise InputError(
                f"the only column is {name!r}, which looks like several; csv is cut at commas, tsv "
                "at tabs: convert the file, or name that column with --columns"
            )
        _check_arity(Layout(name), pairs)
        return Layout(name)
    raise InputError(
        f"cannot tell which columns to read: they are {', '.join(map(repr, names))}; name them "
        "with --columns"
    )


def check_pairs(found: bool, pairs: bool | None, advice: str) -> None:
    """Refuses single texts for a model of pairs, and the other way round.

    Args:
        found: Whether there are pairs.
        pairs: Whether the model was trained on them; None if that is not known.
        advice: What to do about it.
    """
    if pairs is not None and found != pairs:
        one, two = "single texts", "pairs of texts"
        raise InputError(
            f"holds {two if found else one}, the model was trained on {two if pairs else one}; "
            f"{advice}"
        )


def pick(record: Record, layout: Layout, *, words: bool = False, pairs: bool | None = None) -> Any:
    """What the model reads of a row: a text, a pair, or a text and a list of choices.

    Args:
        record: The row.
        layout: Its columns.
        words: Whether the text may be a list of words; they are joined as in training.
        pairs: Whether the model was trained on pairs; None if that is not known.

    Raises:
        InputError: If a column is missing or holds no text.
    """
    if isinstance(record, str):
        check_pairs(False, pairs, "give both")
        return record
    value = record.get(layout.text)
    if words and isinstance(value, list) and None not in value:
        return " ".join(map(str, value))
    text, second = _text(record, layout.text), _second(record, layout.pair, pairs)
    if layout.choices:
        choices = _choices(record, layout.choices)
        return text, choices if second is None else [f"{second} {choice}" for choice in choices]
    return text if second is None else (text, second)


def _check_arity(layout: Layout, pairs: bool | None) -> None:
    columns = f"name the column{'s' if pairs else ''} with --columns"
    check_pairs(layout.pair is not None, pairs, f"{columns}, or take other rows")


def _given(given: Sequence[str], names: Collection[str], task: str) -> Layout:
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, list(names), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            there = ", ".join(map(repr, names))
            raise InputError(f"no column '{name}'; the columns are {there}{hint}")
    text, *others = given
    if task == "multiple-choice":
        return Layout(text, None, tuple(others))
    return Layout(text, others[0] if others else None)


def _recorded(task: str, trained: Mapping[str, Any], names: Collection[str]) -> list[Layout]:
    """The columns that training found, and those that it was told of, where it is recorded."""
    layouts: list[Layout] = []
    for known in (trained.get("columns"), trained):
        if not isinstance(known, Mapping) or not known.get("text"):
            continue
        text, pair, choices = (known.get(key) for key in ("text", "pair", "choices"))
        if task == "multiple-choice":
            if choices:
                layouts.append(Layout(str(text), pair, _several(str(choices), names)))
        elif task == "question-answering":
            if pair:
                layouts.append(Layout(str(text), str(pair)))
        elif task in TEXTS_OR_PAIRS or not pair:
            layouts.append(Layout(str(text), str(pair) if pair else None))
    return layouts


def _usual(task: str) -> Sequence[Layout]:
    if task == "question-answering":
        return _QUESTIONS
    if task == "multiple-choice":
        return _CHOICES
    if task in TEXTS_OR_PAIRS:
        return (*_PAIRS, *_TEXTS)
    return (*_TEXTS, *_WORDS) if task == "token-classification" else _TEXTS


def _several(names: str, there: Collection[str]) -> tuple[str, ...]:
    """Columns between commas; one may have commas in its name."""
    return (names,) if names in there else tuple(name.strip() for name in names.split(","))


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise InputError(f"column '{name}' is {_lacks(record, name, 'no text')}")
    return value


def _second(record: Mapping[str, Any], name: str | None, pairs: bool | None) -> str | None:
    if name is None:
        return None
    if record.get(name) is None:
        if pairs:
            return ""  # as training reads one that is missing
        if name == "text_pair":
            return None  # may be left out
    return _text(record, name)


def _choices(record: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    if len(names) > 1:
        return [_text(record, name) for name in names]
    value = record.get(names[0])
    if isinstance(value, Mapping):  # {"label": [...], "text": [...]}, as ARC has it
        value = value.get("text")
    if not isinstance(value, list):
        raise InputError(f"column '{names[0]}' is {_lacks(record, names[0], 'no list')}")
    return value


def _lacks(record: Mapping[str, Any], name: str, wanted: str) -> str:
    return f"{wanted} but {type(record[name]).__name__}" if name in record else "missing"
