"""Settings from outside, with errors in the words of the person who wrote them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prunella.errors import InputError
from prunella.settings import Settings

S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Validates values as settings.

    Args:
        kind: The settings class.
        values: What the user wrote.
        where: Where they wrote it, for the message ("recipe.yaml, step 2 (prune)").

    Raises:
        InputError: All that is wrong, one line each, with the right key where it is mistyped.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(explain(error, kind, where)) from None


def explain(error: ValidationError, kind: type[BaseModel], where: str) -> str:
    """The complaints of a validation error, one line each."""
    lines = [f"{where}: {_line(problem, kind)}" for problem in error.errors()]
    return "\n".join(dict.fromkeys(lines))


def suggestion(wrong: str, known: list[str]) -> str:
    """ "did you mean 'x'?", or the names that exist."""
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


@contextmanager
def flags_below(name: str, kind: type[BaseModel]) -> Iterator[None]:
    """Corrects advice about flags of settings that are nested here: --window is --NAME.window."""
    flags = "|".join(field.replace("_", "-") for field in kind.model_fields)
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(rf"--(?=({flags})\b(?!-))", f"--{name}.", str(error))) from error


def _line(problem: Any, kind: type[BaseModel]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(part for part in path if not part.isdigit())
    if problem["type"] == "extra_forbidden":
        return f"unknown setting '{name}'; {suggestion(path[-1], _known(kind, path[:-1]))}"
    if problem["type"] == "missing":
        return f"'{name}' is missing: {_help(kind, path)}"
    if problem["type"] == "tuple_type":
        message = f"a list is needed, such as [{problem['input']}]"
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name} = {problem['input']!r}: {message}. {_help(kind, path)}"


def _known(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        inner = _inner_model(kind, part)
        if inner is None:
            break
        kind = inner
    return list(kind.model_fields)


def _help(kind: type[BaseModel], path: list[str]) -> str:
    for part in path[:-1]:
        kind = _inner_model(kind, part) or kind
    field = kind.model_fields.get(path[-1]) or kind.model_fields.get(path[0])
    return (field.description or "") if field else ""


def _inner_model(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = kind.model_fields.get(name)
    candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
