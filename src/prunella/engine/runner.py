"""What the engine's Python half asks of its native half."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Runner(Protocol):
    """A compiled model: packed sequences of token ids in, outputs of the head out.

    Sequences lie one after another without any padding; `lengths` tells where each ends. Calls
    from several threads at once are safe.
    """

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        ...

    @property
    def width(self) -> int:
        """Width of the head's output; `hidden` for a model without a head."""
        ...

    @property
    def memory(self) -> int:
        """Bytes of weights held."""
        ...

    def run(self, ids: Ints, types: Ints, lengths: Ints, rows: Ints) -> Floats:
        """The head's output for some of the tokens.

        Args:
            ids: [N] token ids, N the sum of the lengths.
            types: [N] token types.
            lengths: [B] tokens of each sequence, at least 1.
            rows: [M] which of the N tokens go through the head.

        Returns:
            [M, width], in the order of `rows`.
        """
        ...

    def hidden_states(self, ids: Ints, types: Ints, lengths: Ints) -> Floats:
        """[N, hidden] hidden states of the last layer, without the head."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """The kernel chosen for each matrix."""
        ...
