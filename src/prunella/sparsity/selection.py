"""Exactly k weights to keep, by score: in each matrix or over all of them together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def keep_count(n: int, sparsity: float) -> int:
    """How many of `n` weights stay at `sparsity`: n - round(sparsity * n), at least one.

    At least one, because a matrix without any weight passes no signal and gets no gradient.
    """
    return max(1, n - round(sparsity * n)) if n else 0


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """A boolean mask of exactly `k` trues at the highest scores; ties go to the lowest index.

    NaN scores are refused: they would be chosen first and hide a diverged run.
    """
    flat = scores.reshape(-1)
    _refuse_nan(flat)
    if k >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(flat, flat.numel() - k + 1)
    mask = flat >= threshold
    surplus = int(mask.sum()) - k
    if surplus:
        ties = torch.nonzero(flat == threshold).squeeze(1)
        mask[ties[-surplus:]] = False
    return mask.reshape(scores.shape)


def select(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """Which weights to keep.

    Args:
        scores: A score tensor for each matrix; higher is more important.
        sparsity: Share of weights to remove, in [0, 1).
        scope: "uniform": each matrix reaches the sparsity by itself; "global": all matrices
            share one threshold, so that the sum reaches it; each keeps its best weight at least.

    Returns:
        A boolean tensor for each matrix, True where the weight stays.
    """
    if scope == "uniform":
        return {
            name: top_k_mask(score, keep_count(score.numel(), sparsity))
            for name, score in scores.items()
        }
    if scope != "global":
        raise ValueError(f"unknown scope '{scope}'")
    if not scores:
        return {}
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    _refuse_nan(flat)
    sizes = [score.numel() for score in scores.values()]
    filled = [piece for piece in flat.split(sizes) if len(piece)]
    for piece in filled:
        piece[piece.argmax()] = torch.inf  # of equal ones the first
    mask = top_k_mask(flat, max(keep_count(flat.numel(), sparsity), len(filled)))
    pieces = mask.split(sizes)
    return {
        name: piece.reshape(score.shape)
        for (name, score), piece in zip(scores.items(), pieces, strict=True)
    }


def _refuse_nan(scores: Tensor) -> None:
    if scores.numel() and torch.isnan(scores.amax()):  # a NaN is the maximum of all
        raise FloatingPointError("a pruning score is NaN: training has diverged")


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest value, k from 1."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return torch.kthvalue(values, k).values
    # Ten times as fast as torch's: numpy selects with the processor's vector instructions.
    return torch.from_numpy(np.partition(values.detach().numpy(), k - 1)[k - 1 : k])
