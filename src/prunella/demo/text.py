"""The demo's text: the language reference and the docstrings that every installation carries."""

import importlib.util
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from prunella.demo.docstrings import Document, Entry, read_package
from prunella.demo.prose import paragraphs, plain

PACKAGES = tuple(
    "numpy scipy sklearn pandas matplotlib networkx sympy mpmath torch transformers datasets "
    "huggingface_hub accelerate PIL fsspec pyarrow jinja2 pydantic rich psutil filelock joblib "
    "setuptools pip".split()
)
"""Read where they are installed, in this order. What is missing makes the corpus smaller."""

SKIPPED_FOLDERS = {
    # Thousands of files of code generation and of models that repeat each other's docstrings.
    "torch": frozenset(
        "_inductor _dynamo _export _functorch _higher_order_ops _prims _refs _subclasses ao "
        "distributed fx onnx".split()
    ),
    "transformers": frozenset({"models"}),
}

MOST_SOURCE_BYTES = 5_000_000
"""Read of one package. More would take longer than the demo's minutes of training can use."""

VALIDATION_SHARE = 6
"""Every sixth module is kept for validation: no training of the demo sees its text."""


def read_documents() -> list[Document]:
    """Read the language reference, the standard library and the installed `PACKAGES`.

    Returns:
        Documents in a fixed order: the same installation gives the same list. About 10 seconds.
    """
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    documents = [*_topics(), *read_package(standard_library, "")]
    for package in PACKAGES:
        for root in _folders(package):
            skip = SKIPPED_FOLDERS.get(package, frozenset())
            documents += read_package(root, package, skip, MOST_SOURCE_BYTES)
    return documents


def is_validation(document: Document) -> bool:
    """Whether the module is kept for validation; decided by its name alone."""
    return zlib.crc32(document.name.encode()) % VALIDATION_SHARE == 0


def write_corpus(folder: Path, documents: Iterable[Document] | None = None) -> Path:
    """Write the text for pre-training: nothing in it stands in a module kept for validation.

    Args:
        folder: Where `corpus.txt` goes; made if it is not there.
        documents: From `read_documents`; read now if None.

    Returns:
        The file: UTF-8, one paragraph a line, no paragraph twice, a blank line after each document.
    """
    documents = read_documents() if documents is None else list(documents)
    held_out = (document for document in documents if is_validation(document))
    seen = {same_text_key(p) for d in held_out for entry in d.entries for p in entry.paragraphs}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "corpus.txt"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            lines = [line for entry in document.entries for line in _new_lines(entry, seen)]
            if lines:
                file.write("\n".join(lines) + "\n\n")
    return path


def same_text_key(text: str) -> str:
    """What remains of a text to compare it by: two with the same letters count as one."""
    return re.sub(r"[^a-z]", "", text.lower())


def _new_lines(entry: Entry, seen: set[str]) -> Iterator[str]:
    """The entry's paragraphs that were not there before; a parameter's with its declaration."""
    declared = {parameter.description: str(parameter) for parameter in entry.parameters}
    for text in entry.paragraphs:
        key = same_text_key(text)
        if key in seen:
            continue
        seen.add(key)
        yield f"{declared[text]}: {plain(text)}" if text in declared else plain(text)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        entry = Entry(tuple(paragraphs(text)))
        if entry.paragraphs:
            yield Document(f"topics.{name}", (entry,))


def _folders(package: str) -> list[Path]:
    """Where a package's source lies; found without importing it, empty if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(location) for location in spec.submodule_search_locations]
