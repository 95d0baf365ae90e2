"""The columns of a labelled table: which one holds what, and the texts in them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from prunella.data.labels import list_rows
from prunella.errors import InputError

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


@dataclass(frozen=True)
class Columns:
    """Columns as a user names them; None is to be found by its usual name.

    Attributes:
        text: The (first) text, the words of token classification, or the question.
        pair: The second text, or the context of a question.
        label: The label, the tags, or the answers; several between commas for 0/1 columns.
        choices: The choices of multiple choice: a column of lists, or several between commas.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    choices: str | None = None


@dataclass(frozen=True)
class Usual:
    """The usual names of a kind of task.

    Attributes:
        texts: (text, second text or None); of those that are there exactly one must be.
        labels: Likewise of the labels.
    """

    texts: tuple[tuple[str, str | None], ...]
    labels: tuple[str, ...]


TEXTS = Usual((*PAIR_COLUMNS, *((name, None) for name in TEXT_COLUMNS)), LABEL_COLUMNS)


def find_columns(
    columns: Sequence[str],
    text: str | None,
    pair: str | None,
    label: str | None,
    source: str,
    usual: Usual = TEXTS,
) -> tuple[str, str | None, str]:
    """The columns of text, second text (None for single texts) and label.

    What is None is found by its usual name, if exactly one of the usual names is there; a text
    that is there with a second one counts as a pair.
    """
    if label is not None:
        check_column(columns, "label", label, source)
    text, pair = find_texts(columns, text, pair, source, usual)
    if label is None:
        labels = [(name,) for name in usual.labels if name in columns]
        if len(labels) != 1:
            raise undecided("label", "`label`", labels, columns, source)
        label = labels[0][0]
    if len({text, pair, label}) < 3:
        raise InputError(f"{source}: text, pair and label must be different columns")
    return text, pair, label


def find_texts(
    columns: Sequence[str],
    text: str | None,
    pair: str | None,
    source: str,
    usual: Usual = TEXTS,
) -> tuple[str, str | None]:
    """The columns of text and second text alone, as `find_columns` finds them."""
    for setting, name in (("text", text), ("pair", pair)):
        if name is not None:
            check_column(columns, setting, name, source)
    if text is None:
        if pair is not None:
            raise InputError(
                f"{source}: `pair: {pair}` needs `text` set to the first text's column"
            )
        text, pair = _usual_texts(columns, usual, source)
    if text == pair:
        raise InputError(f"{source}: text and pair must be different columns")
    return text, pair


def check_column(columns: Sequence[str], setting: str, name: str, source: str) -> None:
    """Refuses a column that is not there.

    Raises:
        InputError: Naming those that are, and the nearest one.
    """
    if name not in columns:
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(f"{source}: no column '{name}' ({setting}); {_present(columns)}{hint}")


def several(columns: Sequence[str], setting: str, names: str, source: str) -> list[str]:
    """The columns that a setting names, between commas; a column may have commas in its name."""
    if names in columns:
        return [names]
    found = [name.strip() for name in names.split(",")]
    for name in found:
        check_column(columns, setting, name, source)
    if len(set(found)) < len(found):
        raise InputError(f"{source}: `{setting}: {names}` names a column twice")
    return found


def undecided(
    what: str,
    setting: str,
    found: Sequence[tuple[str | None, ...]],
    columns: Sequence[str],
    source: str,
) -> InputError:
    """The error of a column that cannot be told from its name."""
    options = " or ".join("+".join(filter(None, names)) for names in found)
    problem = f"it could be {options}" if found else "none of the usual names is there"
    return InputError(
        f"{source}: cannot tell which column holds the {what}: {problem}. Set {setting}; "
        f"{_present(columns)} (a csv or tsv must name its columns in the first line)"
    )


def texts_of(
    table: datasets.Dataset, column: str, source: str, *, blanks: bool = False
) -> list[str]:
    """The texts of a column.

    Args:
        table: The rows.
        column: Its name.
        source: For messages.
        blanks: Whether texts may be blank or missing, as second ones of QQP are, though not all of
            them; they are read as "".

    Raises:
        InputError: If one is missing, blank, or no text.
    """
    texts = table[column][:]
    empty = [text is None or (isinstance(text, str) and not text.strip()) for text in texts]
    if blanks and not all(empty):
        texts = ["" if none else text for text, none in zip(texts, empty, strict=True)]
        empty = [False] * len(texts)
    where = f"{source}, column '{column}'"
    wrong = [
        i
        for i, (text, none) in enumerate(zip(texts, empty, strict=True))
        if none or not isinstance(text, str)
    ]
    if not wrong:
        return texts
    first = texts[wrong[0]]
    if first is None or isinstance(first, str):
        raise InputError(f"{where}: no text in {list_rows(wrong)}; drop or complete them")
    raise InputError(f"{where}: row {wrong[0] + 1} holds a {type(first).__name__}, not text")


def names_of(table: datasets.Dataset, column: str) -> list[str] | None:
    """The names of the classes in a column (or in its lists), where the data has them."""
    feature: Any = table.features[column]
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def first_value(table: datasets.Dataset, named: str | None, usual: Sequence[str]) -> Any:
    """What stands first in the named column, or in the only usual one; None without one."""
    found = [named] if named else [name for name in usual if name in table.column_names]
    if len(found) != 1 or found[0] not in table.column_names:
        return None
    return next((value for value in table[found[0]] if value is not None), None)


def _usual_texts(columns: Sequence[str], usual: Usual, source: str) -> tuple[str, str | None]:
    there = [layout for layout in usual.texts if {n for n in layout if n} <= set(columns)]
    pairs = [layout for layout in there if layout[1]]
    found = pairs or there
    if not found and {"question", "context"} <= set(columns):
        raise InputError(
            f"{source}: questions with contexts, but no column 'answers' as SQuAD has it; set "
            f"`kind: question-answering` and `label` to the column of the answers; "
            f"{_present(columns)}"
        )
    if len(found) != 1:
        raise undecided("texts", "`text` (and `pair` for two texts)", found, columns, source)
    return found[0]


def _present(columns: Sequence[str]) -> str:
    return f"the columns are {', '.join(map(repr, columns))}"
