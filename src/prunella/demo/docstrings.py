"""Docstrings of Python source files, read without importing anything."""

import ast
import itertools
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prunella.demo.declarations import Declaration, parameter_declarations
from prunella.demo.prose import paragraphs

SKIPPED_PARTS = frozenset(
    "test tests testing _testing conftest site-packages dist-packages __pycache__ idlelib lib2to3 "
    "encodings pydoc_data externals extern vendor _vendor vendored _vendored cextern".split()
)


@dataclass(frozen=True)
class Entry:
    """What one docstring says.

    Attributes:
        paragraphs: Its English, code between backticks (see `prunella.demo.prose`).
        parameters: The parameters that it describes.
    """

    paragraphs: tuple[str, ...]
    parameters: tuple[Declaration, ...] = ()


@dataclass(frozen=True)
class Document:
    """The docstrings of one module in the file's order, or a topic of the language reference."""

    name: str
    entries: tuple[Entry, ...]


def read_package(
    root: Path, name: str, skip: frozenset[str] = frozenset(), most_bytes: int | None = None
) -> Iterator[Document]:
    """Read the modules below a folder, in sorted order.

    Args:
        root: A package's folder.
        name: The dotted name of `root`; empty for the standard library.
        skip: Further names of files or folders to leave out.
        most_bytes: Read no more source than this: of a larger package, a part of its modules that
            depends on their names alone. None reads all.

    Yields:
        A document for each module that says something in English.
    """
    for file in _chosen_files(root, skip, most_bytes):
        entries = tuple(entry for entry in read_module(file) if entry.paragraphs)
        if entries:
            parts = (name, *file.relative_to(root).with_suffix("").parts)
            yield Document(".".join(p for p in parts if p and p != "__init__"), entries)


def _chosen_files(root: Path, skip: frozenset[str], most_bytes: int | None) -> list[Path]:
    names = (file.relative_to(root) for file in root.rglob("*.py"))
    names = [
        name
        for name in names
        if not any(p in SKIPPED_PARTS or p in skip or p.startswith("test_") for p in name.parts)
    ]
    # In the order of hashes the cap falls on all parts of a package alike.
    names.sort(key=lambda name: (zlib.crc32(name.as_posix().encode()), name))
    ends = itertools.accumulate((root / name).stat().st_size for name in names)
    kept = [
        n for n, end in zip(names, ends, strict=True) if most_bytes is None or end <= most_bytes
    ]
    return [root / name for name in sorted(kept)]


def read_module(file: Path) -> list[Entry]:
    """Read the docstrings of a module, its classes and their functions.

    Returns:
        An entry a docstring, in order; nothing for a file that cannot be read or parsed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    return list(_entries(tree))


def _entries(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[Entry]:
    text = ast.get_docstring(node)
    if text:
        prose = tuple(paragraphs(text))
        yield Entry(prose, tuple(parameter_declarations(text)) if prose else ())
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _entries(child)
