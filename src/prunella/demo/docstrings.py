"""Docstrings of Python source files, read without importing anything."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prunella.demo.declarations import Declaration, function_declaration, parameter_declarations
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
        function: The function that it describes, with the first paragraph; None for the rest.
        parameters: The parameters that it describes.
    """

    paragraphs: tuple[str, ...]
    function: Declaration | None = None
    parameters: tuple[Declaration, ...] = ()


@dataclass(frozen=True)
class Document:
    """The docstrings of one module, in the file's order (or one topic of the language reference)."""

    name: str
    entries: tuple[Entry, ...]


def read_package(root: Path, name: str, skip: frozenset[str] = frozenset()) -> Iterator[Document]:
    """Read every module below a folder (or one file), in sorted order.

    Args:
        root: A package's folder or a module's file.
        name: The dotted name of `root`; empty for the standard library.
        skip: Further names of files or folders to leave out.

    Yields:
        A document for each module that says something in English.
    """
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts if root.is_dir() else ()
        if any(part in SKIPPED_PARTS or part in skip or part.startswith("test_") for part in parts):
            continue
        entries = tuple(entry for entry in read_module(file) if entry.paragraphs)
        if entries:
            dotted = ".".join(part for part in (name, *parts) if part and part != "__init__")
            yield Document(dotted, entries)


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
        function = None
        if prose and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = function_declaration(node.name, _arguments(node), prose[0])
        yield Entry(prose, function, tuple(parameter_declarations(text)))
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _entries(child)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
