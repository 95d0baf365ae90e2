"""SQuAD's own JSON, v1.1 and v2: articles hold paragraphs, paragraphs hold questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from prunella.errors import InputError

_ANSWERS = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int64())})


def is_squad(value: Any) -> bool:
    """Whether a document has SQuAD's shape: {"data": [{"paragraphs": [...]}, ...]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and all(isinstance(article, dict) and "paragraphs" in article for article in articles)
    )


def squad_table(value: dict[str, Any], source: str) -> pa.Table:
    """One row a question.

    Returns:
        id, title, context, question, answers (`text` and `answer_start`, in characters, as
        equally long lists), and is_impossible where any question of the file has it.

    Raises:
        InputError: A part is missing or of a wrong type; the message names the question.
    """
    rows = list(_rows(value["data"], source))
    types = {name: pa.string() for name in ("id", "title", "context", "question")}
    types["answers"] = _ANSWERS
    if any(row["is_impossible"] is not None for row in rows):
        types["is_impossible"] = pa.bool_()
        rows = [{**row, "is_impossible": bool(row["is_impossible"])} for row in rows]
    try:
        return pa.table({n: pa.array([row[n] for row in rows], t) for n, t in types.items()})
    except (UnicodeEncodeError, pa.ArrowInvalid, OverflowError) as error:
        raise InputError(
            f"{source}: a text that holds half of a surrogate pair, or a number beyond all texts "
            f"({error}); repair it"
        ) from None


def _rows(articles: list[Any], source: str) -> Iterator[dict[str, Any]]:
    count = 0
    for i, article in enumerate(articles, start=1):
        title = _get(article, "title", str, f"{source}, article {i}", "")
        where = f"{source}, article {i} ({title})" if title else f"{source}, article {i}"
        for j, paragraph in enumerate(_get(article, "paragraphs", list, where), start=1):
            place = f"{where}, paragraph {j}"
            context = _get(paragraph, "context", str, place)
            for k, question in enumerate(_get(paragraph, "qas", list, place), start=1):
                count += 1
                yield {
                    "title": title,
                    "context": context,
                    **_question(question, f"{place}, question {k}", count),
                }


def _question(value: Any, where: str, number: int) -> dict[str, Any]:
    text = _get(value, "question", str, where)
    impossible = _get(value, "is_impossible", bool, where, None)
    # Without a flag that says so, a question must not lose its answers unnoticed.
    answers = _get(value, "answers", list, where, *([[]] if impossible else []))
    return {
        "id": str(value.get("id", number)),
        "question": text,
        "is_impossible": impossible,
        "answers": {
            "text": [_get(a, "text", str, f"{where}, answers") for a in answers],
            "answer_start": [_get(a, "answer_start", int, f"{where}, answers") for a in answers],
        },
    }


def _get(value: Any, name: str, kind: type, where: str, *default: Any) -> Any:
    """A member of an object, of the right type."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, found {type(value).__name__}")
    if name not in value:
        if default:
            return default[0]
        raise InputError(f"{where}: no '{name}'")
    if not isinstance(value[name], kind):
        raise InputError(
            f"{where}: '{name}' must be {_NAMES[kind]}, found {type(value[name]).__name__}"
        )
    return value[name]


_NAMES = {str: "text", list: "a list", int: "a whole number", bool: "true or false"}
