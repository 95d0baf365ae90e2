"""Micro-batches: sequences of similar length together, as many as fit a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def micro_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cuts sequences, longest first, into batches.

    There is no padding, so this is not about waste: sequences of one length make even work for
    the threads, and the budget bounds the memory of the activations.

    Args:
        lengths: Tokens of each sequence.
        budget: Tokens of a batch at most; a longer sequence makes a batch of its own.

    Yields:
        Indices into `lengths`; each occurs once.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and tokens + lengths[index] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
