"""Kinds of tasks: how rows are read and encoded, what is learned from them, what is predicted."""

from __future__ import annotations

from typing import Any

from prunella.data.readers import read_table
from prunella.data.tasks import Columns
from prunella.tasks.base import Deciding, Kind, Predictions, Reading, Rows
from prunella.tasks.classification import Classification
from prunella.tasks.multi_label import MultiLabel
from prunella.tasks.multiple_choice import MultipleChoice
from prunella.tasks.question_answering import QuestionAnswering
from prunella.tasks.regression import Regression
from prunella.tasks.token_classification import TokenClassification

__all__ = [
    "KINDS",
    "Columns",
    "Deciding",
    "Kind",
    "Predictions",
    "Reading",
    "Rows",
    "load_rows",
]

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (  # `auto` takes the first that fits
        QuestionAnswering(),
        MultipleChoice(),
        TokenClassification(),
        MultiLabel(),
        Regression(),
        Classification(),
    )
}


def load_rows(
    source: str,
    columns: Columns,
    *,
    kind: str = "auto",
    names: list[str] | None = None,
    split: str | None = None,
) -> tuple[Kind[Any], Rows]:
    """Reads and checks one split of a task.

    Load the training split first, then the others with its kind and its names: then a class means
    the same everywhere, and a label that training never saw is noticed.

    Args:
        source: See `prunella.data.readers.read_table`.
        columns: As the user names them.
        kind: One of KINDS, or "auto" to go by what the columns hold.
        names: The classes in the order of their ids, where that is settled already.
        split: The split of a Hub data set.

    Raises:
        InputError: Anything wrong with the file, its columns, its texts or its labels.
    """
    table = read_table(source, split)
    if kind == "auto":
        kind = next(name for name, one in KINDS.items() if one.fits(table, columns))
    chosen = KINDS[kind]
    return chosen, chosen.read(table, columns, names or None, source)
