"""Micro-batches of two texts in one run."""

from collections.abc import Callable

import numpy as np
import torch

from prunella.data.mlm_batches import MlmBatches

_PURPOSE = 3  # of the random stream, beside those in mlm_batches


class MixedBatches:
    """Micro-batches of a text with a share of another's, each a pure function of its position.

    Which text a position takes is drawn once from the seed; within each text the micro-batches
    follow as they would alone, so that an epoch of either uses every token once.
    """

    def __init__(
        self,
        main: Callable[[int], MlmBatches],
        other: Callable[[int], MlmBatches],
        *,
        share: float,
        count: int,
        seed: int,
    ) -> None:
        """Set up the mixture.

        Args:
            main: Makes so many micro-batches of the text itself.
            other: Makes so many of the other text.
            share: Expected share of the other, 0 to 1.
            count: Micro-batches in all.
            seed: Decides, with the position, which text it takes.
        """
        random = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, _PURPOSE])
        self._from_other = np.random.Generator(random).random(count) < share
        others = np.cumsum(self._from_other)
        self._places = np.where(self._from_other, others - 1, np.arange(count) - others)
        many = int(others[-1]) if count else 0
        self._sources = (main(count - many), other(many))

    def __len__(self) -> int:
        return len(self._from_other)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        if not 0 <= position < len(self):
            raise IndexError(f"micro-batch {position} of {len(self)}")
        return self._sources[int(self._from_other[position])][int(self._places[position])]
