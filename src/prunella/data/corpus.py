"""A corpus: raw text, tokenised once, kept as one flat memory-mapped array of token ids.

On disk a corpus is a folder of the cache, named by the hash of all it depends on:
`tokens.bin` (uint16 or uint32, document after document, no special tokens added),
`documents.npy` (int64, where each document begins, and the end) and `corpus.json`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from prunella.data import near_duplicates
from prunella.data.encoding import Progress, TextPipeline, plain_encoder
from prunella.data.sources import Source, resolve
from prunella.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
"""Raise it when the same input would give other files: old caches are then not found."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token ids of documents, memory-mapped.

    Attributes:
        tokens: The ids of all documents of the folder, flat, uint16 or uint32.
        documents: (n_documents + 1,) int64: document d is tokens[documents[d]:documents[d + 1]].
        fingerprint: Hash of the text, the tokenizer and, after a split, of the choice.
        path: The folder.
        n_tokens: Tokens in the chosen documents.
        chosen: (n_chosen,) int64, ascending: the documents that belong to this corpus; None
            means all of them.
        paragraphs: Paragraphs of the folder, unless it was made before they were counted.
        dropped: Near-duplicate paragraphs that were left out of it.
    """

    tokens: np.memmap
    documents: np.ndarray
    fingerprint: str
    path: Path
    n_tokens: int
    chosen: np.ndarray | None = None
    paragraphs: int | None = None
    dropped: int = 0

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the chosen documents begin in `tokens`, and their lengths (int64)."""
        starts, lengths = self.documents[:-1], np.diff(self.documents)
        if self.chosen is None:
            return starts, lengths
        return starts[self.chosen], lengths[self.chosen]

    def __reduce__(self) -> tuple:
        """Another process maps the files again: pickling never copies the tokens."""
        return _reopen, (self.path, self.fingerprint, self.n_tokens, self.chosen)


def tokenize_corpus(
    sources: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    cache_dir: Path,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
    max_tokens: int | None = None,
    deduplicate: bool = False,
) -> Corpus:
    """Tokenise text once, or open what an earlier run made of the same text and tokenizer.

    Two processes may ask for the same corpus at once: one builds it, the other waits. A build
    that is killed leaves nothing that looks like a corpus.

    Args:
        sources: Files, globs or hub:NAME[/CONFIG][:COLUMN]; see `prunella.data.sources`.
        tokenizer: Its normaliser, pre-tokeniser and model are used; it is not changed. The names
            of special tokens in the text are plain text.
        cache_dir: Where the folder of the corpus is made.
        processes: Texts encoded in parallel; default: all cores.
        progress: Called with (done, total), in bytes on disk of the files and rows of data sets.
        max_tokens: Stop after this many tokens; None takes all text.
        deduplicate: Leave out paragraphs that are nearly the same as an earlier one; see
            `prunella.data.near_duplicates`.

    Raises:
        InputError: Missing, empty or damaged text; a cache that cannot be written.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; it must be at least 1.")
    if processes is not None and processes < 1:
        raise InputError(f"processes is {processes}; it must be at least 1.")
    found = resolve(sources)
    encoder = plain_encoder(tokenizer)
    fingerprint = _fingerprint(found, encoder, max_tokens, deduplicate)
    folder = cache_dir / f"corpus-{fingerprint[:24]}"
    if not folder.exists():
        threads = processes or len(os.sched_getaffinity(0))
        texts = TextPipeline(found, encoder, threads, progress, deduplicate)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with _lock(folder.with_suffix(".lock")):
                if not folder.exists():  # nobody built it while we waited
                    _build(folder, texts, fingerprint, max_tokens)
        except OSError as error:
            raise InputError(
                f"{cache_dir}: the tokenised corpus cannot be written: {error.strerror or error}. "
                "Free space there or choose another cache folder."
            ) from error
    return open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """Map a finished corpus folder.

    Raises:
        InputError: The folder is not a whole corpus.
    """
    try:
        facts = json.loads((folder / "corpus.json").read_text())
        documents = np.load(folder / "documents.npy")
        tokens = np.memmap(folder / "tokens.bin", dtype=facts["dtype"], mode="r")
        if not len(tokens) == facts["n_tokens"] == documents[-1]:
            raise ValueError("the files do not belong together")
        return Corpus(
            tokens,
            documents,
            facts["fingerprint"],
            folder,
            len(tokens),
            paragraphs=facts.get("paragraphs"),
            dropped=facts.get("dropped", 0),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder}: this tokenised corpus is damaged ({error}). Delete the folder."
        ) from error


def split(corpus: Corpus, validation_tokens: int, seed: int) -> tuple[Corpus, Corpus]:
    """Set whole documents aside for validation, drawn at random; nothing is copied.

    Documents longer than `validation_tokens` are not drawn, so validation gets between one and
    two times what was asked for; of a small corpus at most about half of it. Each side gets at
    least one document.

    Args:
        corpus: What to split.
        validation_tokens: Tokens wanted for validation.
        seed: The same seed chooses the same documents.

    Returns:
        Training and validation corpus.

    Raises:
        InputError: Fewer than two documents.
    """
    _, lengths = corpus.spans()
    if len(lengths) < 2:
        raise InputError(
            "the text is one document, which cannot be split into training and held-out text; "
            "give --validation-text, or separate the documents by blank lines"
        )
    if validation_tokens < 1:
        raise InputError(f"validation_tokens is {validation_tokens}; it must be at least 1.")
    wanted = min(validation_tokens, corpus.n_tokens // 2)
    order = np.random.Generator(np.random.Philox(key=seed % 2**64)).permutation(len(lengths))
    order = order[lengths[order] <= wanted]
    if len(order):
        enough = int(np.searchsorted(np.cumsum(lengths[order]), wanted)) + 1
        drawn = order[: min(enough, len(lengths) - 1)]
    else:
        drawn = np.array([int(np.argmin(lengths))])
    held_out = np.zeros(len(lengths), dtype=bool)
    held_out[drawn] = True
    train, validation = (
        _choose(corpus, lengths, np.flatnonzero(side), f"{validation_tokens}:{seed}:{label}")
        for side, label in ((~held_out, "train"), (held_out, "validation"))
    )
    return train, validation


def _choose(corpus: Corpus, lengths: np.ndarray, rows: np.ndarray, label: str) -> Corpus:
    chosen = rows if corpus.chosen is None else corpus.chosen[rows]
    fingerprint = hashlib.sha256(f"{corpus.fingerprint}:{label}".encode()).hexdigest()
    n_tokens = int(lengths[rows].sum())
    return replace(corpus, fingerprint=fingerprint, n_tokens=n_tokens, chosen=chosen)


def _reopen(path: Path, fingerprint: str, n_tokens: int, chosen: np.ndarray | None) -> Corpus:
    return replace(open_corpus(path), fingerprint=fingerprint, n_tokens=n_tokens, chosen=chosen)


def _fingerprint(
    sources: list[Source], encoder: Tokenizer, max_tokens: int | None, deduplicate: bool
) -> str:
    parts = json.loads(encoder.to_str())
    what_decides_ids = ("normalizer", "pre_tokenizer", "model", "added_tokens")
    facts = {
        "format": FORMAT,
        "tokenizer": {key: parts.get(key) for key in what_decides_ids},
        "sources": [source.digest() for source in sources],
        "max_tokens": max_tokens,
    }
    if deduplicate:
        facts["near_duplicates"] = near_duplicates.METHOD
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases even if we are killed."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, texts: TextPipeline, fingerprint: str, max_tokens: int | None) -> None:
    """Write the folder under another name, then rename it: it appears whole or not at all."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a build that was killed
    partial.mkdir()
    try:
        largest = max(texts.encoder.get_vocab().values(), default=0)
        dtype = np.dtype(np.uint16 if largest < 1 << 16 else np.uint32)
        borders, counts = _write_tokens(partial / "tokens.bin", texts, dtype, max_tokens)
        np.save(partial / "documents.npy", borders)
        facts = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "dtype": dtype.name,
            **counts,
            "n_documents": len(borders) - 1,
            "sources": [source.name for source in texts.sources],
        }
        (partial / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n")
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_tokens(
    path: Path, texts: TextPipeline, dtype: np.dtype, max_tokens: int | None
) -> tuple[np.ndarray, dict[str, int]]:
    """Stream ids to the file; return the document borders (int64) and what was counted."""
    total, limit = 0, max_tokens or 2**62
    paragraphs = dropped = 0
    starts = [np.zeros(1, np.int64)]
    with path.open("wb") as file, contextlib.closing(texts.encoded(dtype)) as chunks:
        for chunk in chunks:
            starts.append(chunk.begins + total)
            file.write(chunk.ids[: limit - total].data)
            total = min(total + len(chunk.ids), limit)
            paragraphs += chunk.paragraphs
            dropped += chunk.dropped
            if total == limit:
                break
    if total == 0:
        raise InputError(f"{texts.sources[0].name}: the tokenizer makes no token of this text.")
    borders = np.unique(np.concatenate(starts))  # a document without tokens adds no border
    counts = {"n_tokens": total, "paragraphs": paragraphs, "dropped": dropped}
    return np.append(borders[borders < total], total), counts
