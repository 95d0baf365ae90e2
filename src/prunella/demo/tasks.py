"""The demo's two labelled tasks, made from docstrings: what is this text about?

single: a text and its subject. pair: two texts, one about computers and one about numbers; which of
them is the one about numbers?
Names of packages and pieces of code, which would give the subject away, are masked or left out.
Training and validation rows come from different modules.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prunella.demo.docstrings import Document
from prunella.demo.prose import masked
from prunella.demo.text import is_validation

SUBJECTS = {
    "the internet": "http urllib socket socketserver ssl asyncio smtplib ftplib imaplib poplib "
    "xmlrpc wsgiref ipaddress webbrowser selectors uuid email huggingface_hub httpx h11 anyio",
    "files and processes": "os posixpath ntpath shutil pathlib subprocess multiprocessing "
    "threading tempfile zipfile tarfile logging concurrent signal glob fnmatch gzip bz2 lzma io "
    "_pyio platform sched queue psutil fsspec pty zipimport",
    "drawing": "tkinter turtle matplotlib PIL curses colorsys",
    "arrays of numbers": "statistics fractions random numpy scipy",
    "tables of data": "sqlite3 pandas pyarrow dbm csv datasets",
    "machine learning": "sklearn torch transformers accelerate tokenizers",
    "mathematics": "sympy mpmath networkx graphlib",
}
"""Subjects, and the packages whose docstrings are about them."""

_NUMBERS = ("arrays of numbers", "machine learning", "mathematics")
_STRIDE = 97
_WORDS = range(10, 61)
_MOST_MASKS = 8  # one in so many words
_ROWS = {"train": 5600, "validation": 1400}
# Words that name a package but are ordinary English as well.
_ENGLISH = frozenset("queue random signal statistics fractions threading logging platform".split())
_GIVEAWAYS = {w.lower() for names in SUBJECTS.values() for w in names.split()} - _ENGLISH
_GIVEAWAYS |= {"pytorch", "scikit", "tensorflow", "dataframe", "dataframes", "ndarray"}


@dataclass(frozen=True)
class Text:
    """A paragraph with its subject; `number` orders and chooses, the same every time."""

    words: str
    subject: str
    number: int


def write_tasks(folder: Path, read: Iterable[Document]) -> dict[str, str]:
    """Writes single-*.jsonl and pair-*.jsonl; returns what each task is, in a sentence."""
    texts = list(_texts(read))
    for split, count in _ROWS.items():
        chosen = _balanced((t for held, t in texts if held == (split == "validation")), count)
        single = [{"text": t.words, "label": t.subject} for t in chosen]
        pair = list(_pairs(chosen))
        for name, rows in (("single", single), ("pair", pair)):
            path = folder / f"{name}-{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "single": f"single text, which of {len(SUBJECTS)} subjects a docstring is about "
        "(identifiers masked)",
        "pair": "text pair, which of two docstrings is the one about numbers, not computers",
    }


def _texts(read: Iterable[Document]) -> Iterator[tuple[bool, Text]]:
    """(held out?, text) of every usable paragraph, each once."""
    seen: set[str] = set()
    for document in read:
        subject = _subject(document)
        if subject is None:
            continue
        for entry in document.entries:
            for paragraph in entry.paragraphs:
                if len(paragraph.split()) not in _WORDS:
                    continue
                words = masked(paragraph)
                key = re.sub(r"[^a-z]", "", words.lower())
                if key not in seen and _usable(paragraph, words):
                    seen.add(key)
                    yield is_validation(document), Text(words, subject, zlib.crc32(key.encode()))


def _subject(document: Document) -> str | None:
    package = document.name.split(".")[0]
    for subject, packages in SUBJECTS.items():
        if package in packages.split():
            return subject
    return None


def _usable(paragraph: str, words: str) -> bool:
    tells = {word.lower() for word in re.findall(r"[A-Za-z]\w*", paragraph)} & _GIVEAWAYS
    return words.count("X") * _MOST_MASKS <= len(words.split()) and not tells


def _balanced(texts: Iterable[Text], count: int) -> list[Text]:
    """As many texts of each subject, at most `count` in all, in an order that mixes them."""
    ordered = sorted(texts, key=lambda t: t.number)
    each = count // len(SUBJECTS)
    chosen: list[Text] = []
    for subject in SUBJECTS:
        chosen += [t for t in ordered if t.subject == subject][:each]
    return sorted(chosen, key=lambda t: t.number)


def _pairs(texts: Iterable[Text]) -> Iterator[dict[str, str]]:
    """Texts about numbers beside texts about computers, in either order, as many as texts."""
    ordered = list(texts)
    numbers = [t for t in ordered if t.subject in _NUMBERS]
    computers = [t for t in ordered if t.subject not in _NUMBERS]
    for i in range(len(ordered) if numbers and computers else 0):
        # Each text comes several times, every time beside another one.
        one = numbers[i % len(numbers)]
        other = computers[(i + i // len(numbers) * _STRIDE) % len(computers)]
        first = zlib.crc32(f"{one.number} {other.number}".encode()) % 2 == 0
        texts_in_order = (one.words, other.words) if first else (other.words, one.words)
        yield {
            "text": texts_in_order[0],
            "text_pair": texts_in_order[1],
            "label": "first" if first else "second",
        }
