"""Steps of learned scores that do not depend on the scale of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

_DECAY = 0.99


def without_scale(state: dict[str, Tensor], name: str, gradient: Tensor) -> Tensor:
    """A gradient over its root mean square in the matrix, averaged over steps, cut to [-1, 1].

    Tails are heavy: one weight in a thousand holds a third of the square. Uncut, a single batch
    would move these further than a hundred others can move them back.

    Args:
        state: Of a criterion; keeps the average under `name|square` and `name|steps`.
        name: The matrix.
        gradient: Of this step.
    """
    square, steps = f"{name}|square", f"{name}|steps"
    if square not in state:
        state[square], state[steps] = gradient.new_zeros(()), gradient.new_zeros(())
    state[square].mul_(_DECAY).add_(gradient.square().mean(), alpha=1 - _DECAY)
    state[steps] += 1
    mean = state[square] / (1 - _DECAY ** state[steps])  # as Adam takes off the bias to 0
    return (gradient / mean.sqrt().clamp_min(1e-30)).clamp_(-1, 1)


def first_scores(weight: Tensor, head_start: float) -> Tensor:
    """Scores by the size of weights, from -head_start / 2 (the smallest) to head_start / 2.

    Learning from equal scores, the first removals follow the noise of a few batches.
    """
    return (ranks(weight.abs()) - 0.5) * head_start


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0, the lowest, to 1; of equal ones the first is lower. float32, same shape."""
    flat = values.reshape(-1)
    found = torch.empty(flat.numel(), device=values.device)
    found[flat.argsort(stable=True)] = torch.linspace(0, 1, flat.numel(), device=values.device)
    return found.view(values.shape)
