"""What users pass to a model: texts, pairs, dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prunella.errors import InputError


@dataclass(frozen=True)
class Example:
    """One text, or two (a pair, or a question and its context), or one and its choices."""

    first: str
    second: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """All of them, in the order that they are read in."""
        second = [] if self.second is None else [self.second]
        return [self.first, *second, *self.choices]


def is_lone(inputs: Any) -> bool:
    """Whether this is one input (a lone one gives a lone result) and not a list of them."""
    return isinstance(inputs, (str, tuple, Mapping, bytes)) or not isinstance(inputs, Iterable)


def single(value: Any) -> Example:
    """A text, given as such or as {"text": ...}.

    Raises:
        InputError: If it is anything else.
    """
    example = text_or_pair(value)
    if example.second is not None:
        raise InputError("this task takes single texts; this is a pair")
    return example


def text_or_pair(value: Any) -> Example:
    """A text or a pair: "text", ("one", "two"), {"text": ..., "text_pair": ...}."""
    if isinstance(value, Mapping):
        return _example(_fields(value, ("text",), ("text_pair",)))
    if isinstance(value, tuple):
        return _example(_two(value, "a pair of texts"))
    return Example(_string(value, "a text"))


def question(value: Any) -> Example:
    """A question and its context: ("q", "c") or {"question": ..., "context": ...}."""
    if isinstance(value, Mapping):
        example = _example(_fields(value, ("question", "context"), ()))
    elif isinstance(value, tuple):
        example = _example(_two(value, "a question and its context"))
    else:
        raise InputError(
            'a question needs its context: pass {"question": ..., "context": ...} or a tuple '
            f"(question, context), not {_kind(value)}"
        )
    for name, text in zip(("question", "context"), example.texts, strict=True):
        if not text.strip():
            raise InputError(f"the {name} is empty")
    return example


def with_choices(value: Any) -> Example:
    """A text and its choices: ("text", ["one", "two"]) or {"text": ..., "choices": [...]}."""
    if isinstance(value, Mapping) and set(value) == {"text", "choices"}:
        value = (value["text"], value["choices"])
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(
            'a text needs its choices: pass {"text": ..., "choices": [...]} or a tuple '
            f"(text, choices), not {_kind(value)}"
        )
    text, choices = value
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        raise InputError("choices are a list of two strings or more")
    return Example(
        _string(text, "the text"), choices=tuple(_string(choice, "a choice") for choice in choices)
    )


def _example(texts: list[str]) -> Example:
    return Example(texts[0], texts[1] if len(texts) > 1 else None)


def _fields(
    value: Mapping[Any, Any], needed: tuple[str, ...], optional: tuple[str, ...]
) -> list[str]:
    missing = [name for name in needed if name not in value]
    unknown = [repr(key) for key in value if key not in (*needed, *optional)]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
        fields = ", ".join((*needed, *(f"{name} (optional)" for name in optional)))
        raise InputError(f"a dictionary {wrong}; its keys are {fields}")
    names = [*needed, *(name for name in optional if value.get(name) is not None)]
    return [_string(value[name], name) for name in names]


def _two(value: tuple[Any, ...], what: str) -> list[str]:
    if len(value) != 2:
        raise InputError(f"{what} is a tuple of 2 strings; this one has {len(value)} items")
    return [_string(item, what) for item in value]


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} must be a string, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "list (a pair is a tuple; the list of several inputs is the outermost one)"
    return "bytes (decode them first)" if isinstance(value, bytes) else type(value).__name__
