"""What docstrings say of a parameter: its name, what it is, its description."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunella.demo.prose import is_prose, paragraph, plain

MOST_KIND = 60
"""A longer "type" of a parameter is no type but a sentence that went astray (characters)."""

_NUMPYDOC = re.compile(r"^(\w+) ?: (\S.*)$")
_GOOGLE = re.compile(r"^\s+[`*]{0,2}(\w+)[`*]{0,2} ?\(([^:]*)\): ?(.*)$")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\.\.) ")
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_+")


@dataclass(frozen=True)
class Declaration:
    """A parameter.

    Attributes:
        name: Its name in words: "keep ends" for `keep_ends` or `keepEnds`.
        kind: What it is, as the docstring has it: "int, optional".
        description: One paragraph, code between backticks.
    """

    name: str
    kind: str
    description: str

    def __str__(self) -> str:
        """The declaration without its description."""
        return f"{self.name}, {self.kind}"


def in_words(name: str) -> str:
    """An identifier as words: `n_jobs` and `nJobs` both become "n jobs"."""
    return " ".join(_WORD_BOUNDARY.sub(" ", name).lower().split())


def parameter_declarations(docstring: str) -> Iterator[Declaration]:
    """The parameters that a docstring of the numpydoc or the Google habit describes in English."""
    lines = docstring.splitlines()
    for position, line in enumerate(lines):
        match = _NUMPYDOC.match(line)
        body = [] if match else None
        if match is None:
            match = _GOOGLE.match(line)
            body = [match.group(3)] if match else None
        if match is None or body is None:
            continue
        kind = plain(paragraph([match.group(2)]))
        description = paragraph([*body, *_indented(lines[position + 1 :], line)])
        if len(kind) <= MOST_KIND and is_prose(description):
            yield Declaration(in_words(match.group(1)), kind, description)


def _indented(lines: Sequence[str], head: str) -> Iterator[str]:
    """The lines of the first paragraph that stands deeper than its head."""
    depth = len(head) - len(head.lstrip())
    for line in lines:
        deeper = line.strip() and len(line) - len(line.lstrip()) > depth
        if not deeper or _LIST_ITEM.match(line):
            return
        yield line.strip()
