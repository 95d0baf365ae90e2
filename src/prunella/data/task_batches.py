"""Batches of a task: tokenised once, then padded to the longest row of each batch.

A sentence of SST-2 has 13 tokens on average, so padding to a maximum of 128 would spend nine
tenths of the arithmetic on nothing. Sorting by length within mega-batches, as in fairseq and in
transformers' own `LengthGroupedSampler`, keeps the padding small and the order random enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prunella.errors import InputError

# Batches that are sorted by length together: enough for little padding, few enough that a batch
# still meets different neighbours in every epoch.
MEGA_BATCH = 50


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """The token ids of n sequences, end to end in one array.

    Most rows are one sequence; a long text is several windows, a multiple choice one a choice.

    Attributes:
        ids: [total tokens] int32; sequence i is ids[offsets[i] : offsets[i + 1]].
        offsets: [n + 1] int64.
        token_types: [total tokens] uint8, or None where the model takes none.
        labels: What the loss compares with: a row for each sequence, or an id for each watched
            token if `token_labels`.
        max_length: Tokens that a sequence may have at most, special ones included.
        examples: [n] int64, rising: the row of each sequence; None if sequence i is row i.
        together: Whether the sequences of a row must be in one batch.
        watched: [total tokens] bool: the tokens whose outputs are read; None if a sequence has
            one output.
        token_labels: Whether labels belong to watched tokens.
        counts: What was odd, and how often ("rows_cut"), for the user to know.
    """

    ids: np.ndarray
    offsets: np.ndarray
    token_types: np.ndarray | None
    labels: np.ndarray
    max_length: int
    examples: np.ndarray | None = None
    together: bool = False
    watched: np.ndarray | None = None
    token_labels: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence: [n] int64."""
        return np.diff(self.offsets)

    @cached_property
    def output_offsets(self) -> np.ndarray:
        """Outputs of sequence i, among those of all, are [i] : [i + 1]. [n + 1] int64."""
        if self.watched is None:
            return np.arange(len(self) + 1)
        return np.concatenate([[0], np.cumsum(self.watched)])[self.offsets].astype(np.int64)


def joined(parts: Sequence[EncodedTask]) -> EncodedTask:
    """The sequences of several encodings of one kind of task, in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    tokens = ends([len(part.ids) for part in parts])
    rows = ends([_rows(part) for part in parts])

    def end_to_end(arrays: Iterable[np.ndarray | None]) -> np.ndarray | None:
        found = [array for array in arrays if array is not None]
        return np.concatenate(found) if found else None

    offsets = [part.offsets[1:] + begin for part, begin in zip(parts, tokens, strict=False)]
    examples = [
        None if part.examples is None else part.examples + begin
        for part, begin in zip(parts, rows, strict=False)
    ]
    return replace(
        first,
        ids=np.concatenate([part.ids for part in parts]),
        offsets=np.concatenate([first.offsets[:1], *offsets]),
        token_types=end_to_end(part.token_types for part in parts),
        labels=np.concatenate([part.labels for part in parts]),
        examples=end_to_end(examples),
        watched=end_to_end(part.watched for part in parts),
    )


def only(
    logits: Tensor, inputs: Mapping[str, Tensor], rows: Tensor
) -> tuple[Tensor, dict[str, Tensor], float]:
    """Logits and what a loss compares them with, of some sequences of a batch alone.

    Args:
        logits: [sequences, outputs], or [watched tokens, outputs].
        inputs: From `collate`.
        rows: [sequences] bool: which to take.

    Returns:
        Logits, inputs, and the share that they have of what the loss is the mean over: of the
        labels, or of the rows whose sequences belong together.
    """
    outputs = rows
    if "watched" in inputs:
        outputs = rows.repeat_interleave(inputs["watched"].sum(dim=1))
    labels = inputs["labels"]
    found = {"labels": labels[outputs if len(labels) == len(outputs) else rows]}
    found |= {key: inputs[key][rows] for key in ("watched", "example") if key in inputs}
    if "example" in inputs:
        counts = [len(one["example"].unique()) for one in (found, inputs)]
    else:
        counts = [len(one["labels"]) for one in (found, inputs)]
    return logits[outputs], found, counts[0] / max(1, counts[1])


def places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the entries of the sequences `rows` stand in a flat array, one after the other."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def collate(
    encoded: EncodedTask, rows: np.ndarray, pad_id: int, width: int | None = None
) -> dict[str, Tensor]:
    """One batch of the sequences `rows` [b], padded on the right to `width` or to the longest.

    Returns:
        input_ids, attention_mask and, if encoded, token_type_ids: [b, width] int64; watched, if
        any: [b, width] bool; labels of these sequences or of these watched tokens; index [b]
        int64, which is `rows`; example [b] int64 where they belong together.
    """
    lengths = encoded.offsets[rows + 1] - encoded.offsets[rows]
    mask = np.arange(width or int(lengths.max())) < lengths[:, None]
    where = places(encoded.offsets, rows)

    def padded(flat: np.ndarray, fill: int, dtype: type[np.generic] = np.int64) -> Tensor:
        out = np.full(mask.shape, fill, dtype=dtype)
        out[mask] = flat[where]
        return torch.from_numpy(out)

    labelled = places(encoded.output_offsets, rows) if encoded.token_labels else rows
    batch = {
        "input_ids": padded(encoded.ids, pad_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.from_numpy(encoded.labels[labelled]),
        "index": torch.from_numpy(rows.astype(np.int64)),
    }
    if encoded.token_types is not None:
        batch["token_type_ids"] = padded(encoded.token_types, 0)
    if encoded.watched is not None:
        batch["watched"] = padded(encoded.watched, 0, np.bool_)
    if encoded.together and encoded.examples is not None:
        batch["example"] = torch.from_numpy(encoded.examples[rows])
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
            batch_size: Examples in a micro-batch: sequences, or rows whose sequences belong
                together.
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
        self._units = _units(encoded)
        self.batches_per_epoch = math.ceil((len(self._units) - 1) / batch_size)
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
        rows = places(self._units, self._plan[1][at])
        return collate(self.encoded, rows, self._pad_id, width)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._units) - 1)
        if not self._bucket:
            return _cut(order, self.batch_size)
        lengths = np.maximum.reduceat(self.encoded.lengths, self._units[:-1])
        mega_batches = _cut(order, MEGA_BATCH * self.batch_size)
        by_length = [mega[np.argsort(lengths[mega], kind="stable")] for mega in mega_batches]
        batches = _cut(np.concatenate(by_length), self.batch_size)
        return [batches[i] for i in rng.permutation(len(batches))]


class EvalBatches:
    """Every sequence once, sorted by length; "index" tells which one it is."""

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


def ends(lengths: Sequence[int]) -> np.ndarray:
    """0 and the cumulative sums: [n + 1] int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _rows(encoded: EncodedTask) -> int:
    """Rows of the table that the sequences are of."""
    if encoded.examples is None:
        return len(encoded)
    return int(encoded.examples[-1]) + 1


def _units(encoded: EncodedTask) -> np.ndarray:
    """Example i is the sequences [i] : [i + 1]. [examples + 1] int64."""
    if not encoded.together or encoded.examples is None:
        return np.arange(len(encoded) + 1)
    begins = np.flatnonzero(np.diff(encoded.examples, prepend=-1))
    return np.append(begins, len(encoded))


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]
