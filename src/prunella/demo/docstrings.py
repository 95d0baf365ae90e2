"""Docstrings of Python source files, read without importing anything."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED_PARTS = frozenset(
    "test tests testing _testing conftest site-packages dist-packages __pycache__ idlelib lib2to3 "
    "encodings pydoc_data externals extern vendor _vendor vendored _vendored cextern".split()
)


@dataclass(frozen=True)
class Entry:
    """One documented object.

    Attributes:
        name: Its own name, without the names around it ("" for a module or a topic).
        parameters: Its parameters' names, in order, without `self` and `cls`; empty unless a function.
        text: The docstring, indentation cleaned.
    """

    name: str
    parameters: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Document:
    """The docstrings of one module, in the file's order (or one topic of the language reference)."""

    name: str
    entries: tuple[Entry, ...]


def read_package(root: Path, name: str, skip: frozenset[str] = frozenset()) -> Iterator[Document]:
    """Read every module below a folder (or one file), in sorted order.

    Args:
        root: A package's folder or a module's file.
        name: The dotted name of `root`.
        skip: Further file or folder names to leave out.

    Yields:
        A document for each module that has a docstring. Files that do not parse are left out.
    """
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts if root.is_dir() else ()
        if any(part in SKIPPED_PARTS or part in skip or part.startswith("test_") for part in parts):
            continue
        entries = tuple(read_module(file))
        if entries:
            dotted = ".".join(part for part in (name, *parts) if part and part != "__init__")
            yield Document(dotted, entries)


def read_module(file: Path) -> list[Entry]:
    """Read the docstrings of a module, its classes and its functions; nothing if it does not parse."""
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
        name = "" if isinstance(node, ast.Module) else node.name
        yield Entry(name, _parameters(node), text)
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _entries(child)


def _parameters(node: ast.AST) -> tuple[str, ...]:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return ()
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return tuple(a.arg for a in arguments if a.arg not in ("self", "cls"))
