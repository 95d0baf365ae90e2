"""Text to token ids: a bounded pipeline of a reader, encoding threads and a consumer."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from prunella.data.sources import Piece, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK_CHARACTERS = 1 << 18
"""Text encoded at once by one thread; memory is some 30 MB a thread."""

Progress = Callable[[int, int], None]


def plain_encoder(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """Copy the Rust tokenizer, without the caller's padding and truncation."""
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = True  # "[MASK]" in a text is five ordinary characters
    return encoder


@dataclass(frozen=True)
class TextPipeline:
    """Sources on their way to ids, in constant memory.

    Attributes:
        sources: The text.
        encoder: From `plain_encoder`.
        threads: Chunks encoded at once.
        progress: Called with (done, total), in bytes on disk of the files and rows of data sets.
    """

    sources: list[Source]
    encoder: Tokenizer
    threads: int
    progress: Progress | None

    def encoded(self, dtype: np.dtype) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """Yield chunks in order: ids (n,), and where in them documents begin (int64)."""
        waiting: deque[tuple[Future[tuple[np.ndarray, np.ndarray]], int]] = deque()
        total = sum(source.size for source in self.sources)
        chunks = self._chunks()
        with _no_inner_threads(), ThreadPoolExecutor(self.threads) as pool:
            while True:
                for chunk, done in islice(chunks, 2 * self.threads - len(waiting)):
                    waiting.append((pool.submit(_encode, self.encoder, chunk, dtype), done))
                if not waiting:
                    break
                result, done = waiting.popleft()
                yield result.result()
                if self.progress:
                    self.progress(done, total)

    def _chunks(self) -> Iterator[tuple[list[Piece], int]]:
        """Yield lists of about CHUNK_CHARACTERS, and how much input is read by then."""
        before = 0
        for source in self.sources:
            chunk: list[Piece] = []
            characters = 0
            for piece in source.pieces():
                chunk.append(piece)
                characters += len(piece.text)
                if characters >= CHUNK_CHARACTERS:
                    yield chunk, before + piece.position
                    chunk, characters = [], 0
            before += source.size
            if chunk:
                yield chunk, before


def _encode(
    encoder: Tokenizer, chunk: list[Piece], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    encodings = encoder.encode_batch_fast([p.text for p in chunk], add_special_tokens=False)
    pieces = [np.array(encoding.ids, dtype=dtype) for encoding in encodings]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return np.concatenate(pieces), begins[[piece.starts_document for piece in chunk]]


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
