"""What is computed: batches of token ids, of one length or of the lengths of real texts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prunella.errors import InputError

_TEXT_KEYS = (("sentence1", "sentence2"), ("question", "sentence"), ("question1", "question2"))
_TEXT_KEYS += (("premise", "hypothesis"), ("text", "text_pair"), ("sentence", ""), ("text", ""))
_FIRST_ID = 5  # below are special tokens of some vocabularies


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences one after another, without padding.

    Attributes:
        ids: [N] int32.
        types: [N] int32 token types.
        lengths: [B] int32, N is their sum.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    lengths: NDArray[np.int32]

    def padded(self, pad_id: int) -> dict[str, NDArray[np.int64]]:
        """The usual inputs of other engines, [B, longest]."""
        shape = len(self.lengths), int(self.lengths.max())
        real = np.arange(shape[1]) < self.lengths[:, None]
        ids, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
        ids[real], types[real] = self.ids, self.types
        return {
            "input_ids": ids,
            "attention_mask": real.astype(np.int64),
            "token_type_ids": types,
        }


@dataclass(frozen=True, eq=False)
class Workload:
    """Batches that are run one after another; their times are added up."""

    name: str
    batches: tuple[Batch, ...]

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return sum(len(batch.ids) for batch in self.batches)

    @property
    def padded_tokens(self) -> int:
        """Tokens that an engine with rectangular batches computes."""
        return sum(len(batch.lengths) * int(batch.lengths.max()) for batch in self.batches)


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """(batch, length) of each "8x128" between commas.

    Raises:
        InputError: If one is not of that form.
    """
    shapes = []
    for item in filter(None, text.replace(" ", ",").split(",")):
        batch, _, length = item.partition("x")
        if not (batch.isdigit() and length.isdigit() and int(batch) and int(length)):
            raise InputError(f"--shapes: '{item}' is not BATCHxLENGTH, such as 8x128")
        shapes.append((int(batch), int(length)))
    return shapes


def equal_lengths(
    name: str, shapes: Sequence[tuple[int, int]], vocabulary: int, seed: int = 0
) -> Workload:
    """Random ids; one batch for each (batch, length)."""
    generator = np.random.default_rng(seed)
    first = min(_FIRST_ID, vocabulary - 1)
    batches = []
    for count, length in shapes:
        ids = generator.integers(first, vocabulary, count * length, np.int32)
        batches.append(Batch(ids, np.zeros_like(ids), np.full(count, length, np.int32)))
    return Workload(name, tuple(batches))


def text_batches(
    name: str, texts: Sequence[tuple[str, str]], tokenizer: Tokenizer, size: int, longest: int
) -> Workload:
    """Texts in their order, `size` to a batch.

    Args:
        name: Of the workload.
        texts: A text and a second one, which may be empty.
        tokenizer: Of the model.
        size: Texts in a batch.
        longest: Longer texts are cut to this many tokens.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    found = [tokenizer.encode(a, b) if b else tokenizer.encode(a) for a, b in texts]
    batches = []
    for start in range(0, len(found), size):
        part = found[start : start + size]
        ids = np.concatenate([np.array(row.ids, np.int32) for row in part])
        types = np.concatenate([np.array(row.type_ids, np.int32) for row in part])
        batches.append(Batch(ids, types, np.array([len(row.ids) for row in part], np.int32)))
    return Workload(name, tuple(batches))


def read_texts(path: Path, count: int) -> list[tuple[str, str]]:
    """The first texts of a file: one a line, or JSON lines with the usual keys; also .gz.

    Raises:
        InputError: If it cannot be read or holds no text.
    """
    rows = ".jsonl" in path.suffixes
    texts: list[tuple[str, str]] = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    texts.append(_row(line, f"{path}, line {number}") if rows else (line, ""))
                if len(texts) == count:
                    break
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not texts:
        raise InputError(f"{path}: holds no text")
    return texts


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None
    for first, second in _TEXT_KEYS:
        found = [row.get(key, "") if isinstance(row, dict) else "" for key in (first, second)]
        if isinstance(found[0], str) and found[0].strip() and (not second or found[1]):
            return found[0], str(found[1])
    usual = ", ".join(" and ".join(filter(None, keys)) for keys in _TEXT_KEYS)
    raise InputError(f"{where}: no text; looked for are {usual}")


def save_workload(workload: Workload, path: Path) -> None:
    """Writes it for other processes."""
    arrays = {}
    for number, batch in enumerate(workload.batches):
        arrays |= {f"{number}.{part}": array for part, array in vars(batch).items()}
    np.savez(path, allow_pickle=False, **arrays)


def load_batches(path: Path) -> list[Batch]:
    """The batches that `save_workload` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        count = len(arrays.files) // 3
        parts = ("ids", "types", "lengths")
        return [Batch(*(arrays[f"{n}.{part}"] for part in parts)) for n in range(count)]
