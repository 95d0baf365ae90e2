"""Batches of a task: tokenised once, then padded to the longest row of each batch.

A sentence of SST-2 has 13 tokens on average, so padding to a maximum of 128 would spend nine
tenths of the arithmetic on nothing. Sorting by length within mega-batches, as in fairseq and in
transformers' own `LengthGroupedSampler`, keeps the padding small and the order random enough.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from prunella.data.tasks import TaskData
from prunella.errors import InputError

# Batches that are sorted by length together: enough for little padding, few enough that a batch
# still meets different neighbours in every epoch.
MEGA_BATCH = 50
_TOKENIZE_AT_ONCE = 1000  # texts; bounds the memory of the tokenizer's intermediate objects


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """The token ids of n examples, end to end in one array.

    Attributes:
        ids: [total tokens] int32; example i is ids[offsets[i] : offsets[i + 1]].
        offsets: [n + 1] int64.
        token_types: [total tokens] uint8, or None where the model takes none.
        labels: [n] int64 class ids or float32 scores.
        max_length: Tokens that an example may have at most, special ones included.
        fingerprint: sha256 (hex) of ids, token types and labels: what a model would see. A
            teacher's cached outputs belong to it.
    """

    ids: np.ndarray
    offsets: np.ndarray
    token_types: np.ndarray | None
    labels: np.ndarray
    max_length: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example: [n] int64."""
        return np.diff(self.offsets)


def encode(
    data: TaskData, tokenizer: PreTrainedTokenizerFast, max_length: int, *, token_types: bool
) -> EncodedTask:
    """Tokenise a task once, with special tokens, cut to `max_length` tokens.

    Of a pair the longer text is cut first (`longest_first`).

    Args:
        data: The task.
        tokenizer: A fast tokenizer; it is left as it was.
        max_length: Tokens an example may have at most, special ones included.
        token_types: Whether the model takes token_type_ids (DistilBERT does not).

    Raises:
        InputError: `max_length` has no room for text, or is more than the tokenizer's model takes.
    """
    special = tokenizer.num_special_tokens_to_add(pair=data.pairs is not None)
    least = special + (1 if data.pairs is None else 2)
    if not least <= max_length <= tokenizer.model_max_length:
        raise InputError(
            f"max_length {max_length}: this tokenizer takes {least} to {tokenizer.model_max_length}"
        )
    ids: list[list[int]] = []
    types: list[list[int]] = []
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    try:
        for start in range(0, len(data), _TOKENIZE_AT_ONCE):
            part = slice(start, start + _TOKENIZE_AT_ONCE)
            out = tokenizer(
                data.texts[part],
                None if data.pairs is None else data.pairs[part],
                truncation="longest_first",
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=token_types,
            )
            ids += out["input_ids"]
            types += out["token_type_ids"] if token_types else []
    finally:  # else the limit set here would be saved with the tokenizer
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    flat = _flat(ids, np.int32, offsets[-1])
    flat_types = _flat(types, np.uint8, offsets[-1]) if token_types else None
    digest = hashlib.sha256()
    for array in (offsets, flat, flat_types, data.labels):
        digest.update(b"none" if array is None else array.tobytes())
    return EncodedTask(flat, offsets, flat_types, data.labels, max_length, digest.hexdigest())


def _flat(rows: list[list[int]], dtype: type[np.generic], total: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=total)


def collate(
    encoded: EncodedTask, rows: np.ndarray, pad_id: int, width: int | None = None
) -> dict[str, Tensor]:
    """One batch of the examples `rows` [b], padded on the right to `width` or to the longest row.

    Returns:
        input_ids, attention_mask and, if encoded, token_type_ids: [b, width] int64; labels [b];
        index [b] int64, which is `rows`.
    """
    starts = encoded.offsets[rows]
    lengths = encoded.offsets[rows + 1] - starts
    columns = np.arange(width or int(lengths.max()))
    mask = columns < lengths[:, None]
    where = (starts[:, None] + columns)[mask]

    def padded(flat: np.ndarray, fill: int) -> Tensor:
        out = np.full(mask.shape, fill, dtype=np.int64)
        out[mask] = flat[where]
        return torch.from_numpy(out)

    batch = {
        "input_ids": padded(encoded.ids, pad_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.from_numpy(encoded.labels[rows]),
        "index": torch.from_numpy(rows.astype(np.int64)),
    }
    if encoded.token_types is not None:
        batch["token_type_ids"] = padded(encoded.token_types, 0)
    return batch


class TaskBatches:
    """The micro-batches of a whole training run; each is a pure function of its position.

    An epoch holds each example once. Epoch e's order depends on (seed, e) alone: shuffle, sort
    by length within mega-batches, cut into batches, shuffle the batches. Only one epoch's order
    is in memory.
    """

    def __init__(
        self,
        encoded: EncodedTask,
        *,
        batch_size: int,
        epochs: float | None,
        steps: int | None,
        seed: int,
        accumulation: int = 1,
        bucket: bool = True,
        pad_id: int,
    ) -> None:
        """Set up the run.

        Args:
            encoded: The examples.
            batch_size: Examples in a micro-batch.
            epochs: Length of the run in passes over the data; part of one is allowed.
            steps: Or its length in optimiser steps of `accumulation` micro-batches.
            seed: Seed of the order, >= 0.
            accumulation: Micro-batches in an optimiser step; only matters for `steps`.
            bucket: False shuffles only and pads everything to `encoded.max_length`: the plain
                way, as a baseline to measure against.
            pad_id: The tokenizer's padding token.
        """
        if (epochs is None) == (steps is None):
            raise InputError("give the length of training as either epochs or steps")
        if not len(encoded) or batch_size < 1 or accumulation < 1 or (epochs or steps or 0) <= 0:
            raise InputError(
                f"nothing to train on: {len(encoded)} examples, batch_size {batch_size}, "
                f"accumulation {accumulation}, epochs {epochs}, steps {steps}"
            )
        self.encoded = encoded
        self.batch_size = batch_size
        self.batches_per_epoch = math.ceil(len(encoded) / batch_size)
        self._seed = seed
        self._bucket = bucket
        self._pad_id = pad_id
        if steps is not None:
            self._total = steps * accumulation
        else:  # rounded first: 8.3 * 30 comes out a little above 249
            self._total = max(1, math.ceil(round((epochs or 0) * self.batches_per_epoch, 6)))
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        if not 0 <= position < self._total:
            raise IndexError(f"batch {position} of {self._total}")
        epoch, at = divmod(position, self.batches_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self._epoch(epoch))
        width = None if self._bucket else self.encoded.max_length
        return collate(self.encoded, self._plan[1][at], self._pad_id, width)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self.encoded))
        if not self._bucket:
            return _cut(order, self.batch_size)
        lengths = self.encoded.lengths
        mega_batches = _cut(order, MEGA_BATCH * self.batch_size)
        by_length = [mega[np.argsort(lengths[mega], kind="stable")] for mega in mega_batches]
        batches = _cut(np.concatenate(by_length), self.batch_size)
        return [batches[i] for i in rng.permutation(len(batches))]


class EvalBatches:
    """Every example once, sorted by length; "index" tells which row of the task it is."""

    def __init__(self, encoded: EncodedTask, batch_size: int, pad_id: int) -> None:
        # The longest first: if memory is too small it shows at once, not at the end.
        order = np.argsort(-encoded.lengths, kind="stable")
        self._rows = _cut(order, batch_size)
        self._encoded = encoded
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return collate(self._encoded, self._rows[position], self._pad_id)


def eval_batches(encoded: EncodedTask, batch_size: int, pad_id: int) -> EvalBatches:
    """Batches for evaluation: see `EvalBatches`. The order does not matter for the result."""
    return EvalBatches(encoded, batch_size, pad_id)


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]
