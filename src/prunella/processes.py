"""Which of several processes this one is, as torchrun tells it. No torch needed."""

from __future__ import annotations

import os


def world_size() -> int:
    """Processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0
