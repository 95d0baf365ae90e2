"""Text to token ids: a bounded pipeline of a reader, encoding threads and a consumer."""

import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from prunella.data.near_duplicates import SeenParagraphs
from prunella.data.sources import Piece, Source
from prunella.data.word_process import WordProcess
from prunella.data.words import WordEncoder, spaces_separate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK_CHARACTERS = 1 << 18
"""Text encoded at once by one thread; memory is some 70 MB a thread."""

_WORTH_PROCESSES = 1 << 21
"""Characters from which on it pays to start a process for each thread."""

_MOST_PROCESSES = 16
"""More would wait for the one reader."""

Progress = Callable[[int, int], None]
_EncodeTexts = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def plain_encoder(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """Copy the Rust tokenizer, without the caller's padding and truncation."""
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = True  # "[MASK]" in a text is five ordinary characters
    return encoder


class Encoded(NamedTuple):
    """A chunk of text as ids."""

    ids: np.ndarray
    """(n,), paragraph after paragraph."""
    begins: np.ndarray
    """Where in them documents begin, int64."""
    paragraphs: int
    """How many it is made of."""
    dropped: int
    """How many more there were, nearly the same as earlier ones."""


class _Chunk(NamedTuple):
    pieces: list[Piece]
    dropped: int
    done: int
    """How much input is read by then."""


@dataclass(frozen=True)
class TextPipeline:
    """Sources on their way to ids, in constant memory.

    Attributes:
        sources: The text.
        encoder: From `plain_encoder`.
        threads: Chunks encoded at once.
        progress: Called with (done, total), in bytes on disk of the files and rows of data sets.
        deduplicate: Leave out paragraphs that are nearly the same as an earlier one.
    """

    sources: list[Source]
    encoder: Tokenizer
    threads: int
    progress: Progress | None
    deduplicate: bool = False

    def encoded(self, dtype: np.dtype) -> Generator[Encoded]:
        """Yield the text in order, in chunks."""
        waiting: deque[tuple[Future[Encoded], int]] = deque()
        total = sum(source.size for source in self.sources)
        chunks = _without_duplicates(self._chunks()) if self.deduplicate else self._chunks()
        by_words = spaces_separate(self.encoder)
        threads = min(self.threads, _MOST_PROCESSES) if by_words else self.threads
        with contextlib.ExitStack() as stack:
            stack.enter_context(_no_inner_threads())
            encode: _EncodeTexts = partial(_encode_directly, self.encoder, dtype)
            if by_words:
                encode = stack.enter_context(_Words(self.encoder, dtype, threads)).encode
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            while True:
                for chunk in islice(chunks, 2 * threads - len(waiting)):
                    waiting.append((pool.submit(_encode, encode, chunk), chunk.done))
                if not waiting:
                    break
                result, done = waiting.popleft()
                yield result.result()
                if self.progress:
                    self.progress(done, total)

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the text in chunks of about CHUNK_CHARACTERS."""
        before = 0
        for source in self.sources:
            chunk: list[Piece] = []
            characters = 0
            for piece in source.pieces():
                chunk.append(piece)
                characters += len(piece.text)
                if characters >= CHUNK_CHARACTERS:
                    yield _Chunk(chunk, 0, before + piece.position)
                    chunk, characters = [], 0
            before += source.size
            if chunk:
                yield _Chunk(chunk, 0, before)


def _without_duplicates(chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
    """Drop near duplicates; a document then begins with the first paragraph that it keeps."""
    seen, begins = SeenParagraphs(), False
    for chunk in chunks:
        kept: list[Piece] = []
        new = seen.unseen([piece.text for piece in chunk.pieces])
        for piece, is_new in zip(chunk.pieces, new.tolist(), strict=True):
            begins = begins or piece.starts_document
            if is_new:
                kept.append(piece._replace(starts_document=begins))
                begins = False
        yield _Chunk(kept, len(chunk.pieces) - len(kept), chunk.done)


class _Words:
    """Encodes by tables of words, each in one thread alone.

    Python's lock would let only one of several threads work. So where the text is long, each has
    a process, which begins with the words that were met here; until then they share one table.
    """

    def __init__(self, encoder: Tokenizer, dtype: np.dtype, threads: int) -> None:
        self._here, self._turn = WordEncoder(encoder, dtype), threading.Lock()
        self._left = _WORTH_PROCESSES if threads > 1 else math.inf
        self._own = threading.local()
        self._processes: list[WordProcess] = []

    def __enter__(self) -> "_Words":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        with self._turn:
            if self._left > 0:
                self._left -= sum(map(len, texts))
                return self._here.encode(texts)
            if not hasattr(self._own, "process"):
                self._own.process = WordProcess(self._here)
                self._processes.append(self._own.process)
        return self._own.process.encode(texts)


def _encode_directly(
    encoder: Tokenizer, dtype: np.dtype, texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the texts end to end, and how many each text has."""
    encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
    pieces = [np.array(encoding.ids, dtype=dtype) for encoding in encodings]
    ids = np.concatenate([np.empty(0, dtype), *pieces])  # all of a chunk may be dropped
    return ids, np.array([len(piece) for piece in pieces], dtype=np.int64)


def _encode(encode: _EncodeTexts, chunk: _Chunk) -> Encoded:
    texts = [piece.text for piece in chunk.pieces]
    ids, lengths = encode(texts)
    begins = np.cumsum(lengths) - lengths
    starts = np.array([piece.starts_document for piece in chunk.pieces], dtype=bool)
    return Encoded(ids, begins[starts], len(texts), chunk.dropped)


@contextlib.contextmanager
def _no_inner_threads() -> Iterator[None]:
    """Keep the Rust encoder to the thread that calls it: we have our own.

    It also spares a later fork (data loader workers) the library's warning about threads.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
