"""Sequences of a task whose texts may take several windows, as they are collected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunella.data.task_batches import EncodedTask, ends
from prunella.engine.tokens import Window
from prunella.tasks.base import Reading


class Collected:
    """Windows that are added one by one, and the arrays that they become."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []
        self.watched: list[np.ndarray] = []
        self.labels: list[Sequence[int]] = []
        self.examples: list[int] = []

    def add(
        self, example: int, window: Window, watched: Sequence[int], labels: Sequence[int]
    ) -> None:
        """Adds a window of an example.

        Args:
            example: Row of the table.
            window: From the engine's `TextEncoder`.
            watched: The tokens of the window whose outputs are read, in order.
            labels: A label for each of these, or those of the window as a whole.
        """
        mask = np.zeros(len(window), bool)
        mask[list(watched)] = True
        self.ids.append(window.ids)
        self.types.append(window.types.astype(np.uint8))
        self.watched.append(mask)
        self.labels.append(labels)
        self.examples.append(example)

    def task(self, *, token_labels: bool, counts: dict[str, int]) -> EncodedTask:
        """The encoded task; `token_labels` tells what the labels belong to."""
        labels = (
            np.array([label for row in self.labels for label in row], np.int64)
            if token_labels
            else np.array(self.labels, np.int64)
        )
        return EncodedTask(
            np.concatenate(self.ids),
            ends([len(ids) for ids in self.ids]),
            np.concatenate(self.types) if self.reading.token_types else None,
            labels,
            self.reading.max_length,
            examples=np.array(self.examples, np.int64),
            watched=np.concatenate(self.watched),
            token_labels=token_labels,
            counts=counts,
        )
