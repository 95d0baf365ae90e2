"""Choosing one of several places: a token of a window, or a choice of an example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e9


def spread(logits: Tensor, sizes: Tensor) -> Tensor:
    """Groups of unequal size side by side, filled up with what is never chosen.

    Args:
        logits: [sum of sizes, outputs], group after group.
        sizes: [groups].

    Returns:
        [groups, largest size, outputs] float32.
    """
    there = torch.arange(int(sizes.max()), device=logits.device) < sizes[:, None]
    out = logits.new_full((*there.shape, logits.shape[-1]), _NEVER, dtype=torch.float32)
    out[there] = logits.float()
    return out


def divergence(student: Tensor, teacher: Tensor, sizes: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over the places of each group, mean over groups and outputs."""
    log_p = F.log_softmax(spread(student, sizes) / temperature, dim=1)
    log_q = F.log_softmax(spread(teacher, sizes) / temperature, dim=1)
    per_place = log_q.exp() * (log_q - log_p)  # a place that is filled up adds 0 * 0
    return per_place.sum(dim=1).mean() * temperature**2
