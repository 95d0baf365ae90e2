"""From a column of labels to numbers: class ids or scores. One function for each kind of task."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunella.errors import InputError

Label = str | int | float
_FEW_CLASSES = 10  # so many different numbers with fractions may be names, as of versions
_NUMBER = re.compile(r"-?(0|[1-9]\d*|(?=\.))(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_LIST = re.compile(r"\s*\[\s*(['\"]|[\d.]+[,\s]).*\]\s*", re.DOTALL)  # as Python and numpy write it
_SHORT_LIST = re.compile(r"\s*\[\s*\d*\s*\]\s*")  # "[]" or "[3]": alone it may be a name
_COMMA = "looks like a number with a decimal comma; write a point"  # in English it parts thousands


def list_rows(rows: Sequence[int], shown: int = 5) -> str:
    """Row numbers for a message, counted from 1: "row 3", "rows 3, 9 and 4 more"."""
    text = ", ".join(str(row + 1) for row in rows[:shown])
    more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
    return f"row{'s' if len(rows) > 1 else ''} {text}{more}"


def refuse_written_lists(values: Sequence[Any], where: str, instead: str) -> None:
    """Refuses a column of lists that a program wrote as text.

    Args:
        values: Of the column.
        where: File and column, for messages.
        instead: What to write, besides JSON lines or parquet.
    """
    telling = [v for v in values if not (isinstance(v, str) and _SHORT_LIST.fullmatch(v))]
    written = [v for v in telling if isinstance(v, str) and _LIST.fullmatch(v)]
    if len(written) > len(telling) / 2:
        raise InputError(
            f"{where}: holds lists that were written as text, as pandas does in csv "
            f"({written[0]!r:.40}); write JSON lines or parquet, or {instead}"
        )


def clean(values: Sequence[Any], where: str) -> list[Label]:
    """Labels as plain values: all numbers (whole ones as int), or all strings.

    Text that holds numbers throughout, as every csv does, becomes numbers.

    Raises:
        InputError: A label is missing, or is no single value, or a list that was written as text.
    """
    missing = [
        i
        for i, v in enumerate(values)
        if v is None or v == "" or (isinstance(v, float) and math.isnan(v))
    ]
    if missing:
        raise InputError(f"{where}: no label in {list_rows(missing)}; drop or complete them")
    if isinstance(values[0], (list, dict)):
        raise InputError(
            f"{where}: row 1 holds a {type(values[0]).__name__}; a label must be one value"
        )
    refuse_written_lists(values, where, "a column of 0 and 1 for each label")
    numbers = [_number(v) for v in values]
    if any(number is None for number in numbers):
        return [str(v) for v in values]
    return [number for number in numbers if number is not None]


def _number(value: Any) -> int | float | None:
    """The number that a label is, or None; infinities are none.

    Text must look like a number as a program would write it: "007" and "+1" stay text, because
    as numbers they could meet another label.
    """
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    if isinstance(value, int):
        return int(value)  # exact, however large; True is 1
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def looks_like_scores(labels: Sequence[Label]) -> bool:
    """Whether labels are numbers with a fraction somewhere, so a regression."""
    return any(isinstance(label, float) for label in labels)


def to_scores(labels: Sequence[Label], where: str) -> np.ndarray:
    """Labels as float32 targets of a regression."""
    scores = np.full(len(labels), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        for i, label in enumerate(labels):
            with contextlib.suppress(ValueError):
                scores[i] = float(label)
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        found = labels[wrong[0]]
        comma = f", which {_COMMA}" if _with_point(found) != found else ""
        raise InputError(
            f"{where}: a score must be a finite number; found {found!r} in "
            f"{list_rows(wrong.tolist())}{comma}"
        )
    return scores


def to_class_ids(
    labels: Sequence[Label], names: Sequence[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    """Labels as int64 class ids, and the name of each id.

    Args:
        labels: From `clean`.
        names: The classes in the order of their ids, where that is settled already (by the
            training file, by a model's head); None to sort what is there, numbers by value.
        where: File and column, for messages.

    Returns:
        ids [n] and names. With `names` given, a label is looked up among them; whole numbers that
        are no names are taken as ids, unless the names are numbers themselves.

    Raises:
        InputError: A label that `names` does not know; one class only; labels that are no classes.
    """
    if looks_like_scores(labels):
        raise InputError(f"{where}: labels with fractions are no classes; set `kind: regression`")
    present: list[Label] = sorted(set(labels))  # one type throughout, see `clean`
    if names is None:
        _check_scores(labels, where)
        _check_classes(present, len(labels), where)
        names = [str(label) for label in present]
    ids = _ids_by_name(present, names, where)
    return np.array([ids[label] for label in labels], dtype=np.int64), list(names)


def by_own_names(
    labels: Sequence[Label], own: Sequence[str] | None, known: Sequence[str] | None
) -> list[Label]:
    """Labels with their numbers replaced by the names that these have in the table.

    Args:
        labels: From `clean`.
        own: The names that come with the table.
        known: The classes that are settled already, if any.

    Returns:
        All names (a number that has none becomes text); the labels as they were where the table
        has no names, or names that have nothing to do with those that are known.
    """
    meant = names_by_id(own, known)
    if meant is None or not all(isinstance(label, int) for label in labels):
        return list(labels)
    return [meant[int(v)] if 0 <= int(v) < len(meant) else str(v) for v in labels]


def names_by_id(own: Sequence[str] | None, known: Sequence[str] | None) -> list[str] | None:
    """What each id of a table is called among the classes that are known.

    A table and a head may put the same classes in another order, or write them in other case, so
    the table's numbers must not be taken for the head's. A name of the table that is not known
    stays, and is an unknown label wherever it occurs.

    Returns:
        None where the table has no names, or where none of them is known: its numbers can only be
        ids of the known classes then.
    """
    if own is None:
        return None
    if known is None:
        return list(own)
    exact, folded = set(known), {name.casefold(): name for name in known}
    meant = [name if name in exact else folded.get(name.casefold(), name) for name in own]
    return meant if exact & set(meant) else None


def made_up_id(label: Label, names: Sequence[str]) -> int | None:
    """The class that "LABEL_3" means where classes are plain numbers; None if it means none.

    transformers calls classes so that have no names, and labels may be called so themselves.
    """
    found = re.fullmatch(r"LABEL_(0|[1-9]\d*)", str(label), re.ASCII)
    if not found or list(names) != [str(i) for i in range(len(names))]:
        return None
    return int(found[1]) if int(found[1]) < len(names) else None


def takes_ids(names: Sequence[str]) -> bool:
    """Whether a number that is none of these names may be an id of theirs.

    Names that are numbers must match as names: with names 1, 2, 3 the label 0 is an error, and
    reading 0, 1, 2 as ids would shift every class by one without a word.
    """
    return not any(isinstance(_number(name), int) for name in names)


def _ids_by_name(present: list[Label], names: Sequence[str], where: str) -> dict[Label, int]:
    if len(set(names)) < len(names):
        raise InputError(f"label names must differ: {', '.join(names)}")
    known = {name: i for i, name in enumerate(names)}
    found = {label: known.get(str(label), made_up_id(label, names)) for label in present}
    unknown = [label for label, number in found.items() if number is None]
    if not unknown:
        return {label: number for label, number in found.items() if number is not None}
    if takes_ids(names) and all(isinstance(v, int) and 0 <= v < len(names) for v in present):
        return {label: int(label) for label in present}
    listed = ", ".join(repr(label) for label in unknown[:10])
    more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    raise InputError(
        f"{where}: unknown label {listed}{more}; the {len(names)} classes known from the training "
        f"data or the model's head are {', '.join(map(repr, names[:20]))}"
    )


def _with_point(label: Label) -> Label:
    """A number with a decimal comma, with a point; anything else as it is."""
    if not isinstance(label, str) or "." in label:
        return label
    pointed = label.replace(",", ".")
    return label if _number(pointed) is None else pointed


def _check_scores(labels: Sequence[Label], where: str) -> None:
    """Refuses scores of which a few are no numbers, or that have a decimal comma.

    As classes they would all be text.
    """
    numbers = [_number(_with_point(label)) for label in labels]
    odd = [i for i, number in enumerate(numbers) if number is None]
    commas = [i for i, label in enumerate(labels) if "," in str(label)]
    scores = {number for number in numbers if number is not None}
    if not looks_like_scores(list(scores)):
        return
    if 0 < len(odd) <= len(labels) / 10 and len(scores) > _FEW_CLASSES:
        raise InputError(
            f"{where}: {labels[odd[0]]!r} in {list_rows(odd)} is no number, the other labels are "
            "scores; repair or drop what is none"
        )
    if not odd and commas:
        raise InputError(
            f"{where}: {labels[commas[0]]!r} in {list_rows(commas)} {_COMMA}; for several labels a "
            "row write lists in JSON lines, and names of classes otherwise"
        )


def _check_classes(present: list[Label], n: int, where: str) -> None:
    if len(present) == 1:
        hidden = " (-1 usually means that labels are withheld)" if present[0] == -1 else ""
        raise InputError(f"{where}: every label is {present[0]!r}{hidden}; two classes are needed")
    if len(present) > max(50, n / 2):
        raise InputError(
            f"{where}: {len(present)} different labels in {n} rows do not look like classes; "
            "set `label` to another column, or `kind: regression`"
        )
    bare: dict[str, str] = {}
    for name in map(str, present):
        alike = bare.setdefault(name.strip(), name)
        if alike != name:
            raise InputError(
                f"{where}: {alike!r} and {name!r} differ in spaces alone; write one of them "
                "throughout"
            )
