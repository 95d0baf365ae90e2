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


def top_k_mask(scores: Tensor, k: int, first: Tensor | None = None) -> Tensor:
    """A boolean mask of exactly `k` trues at the highest scores; ties go to the lowest index.

    NaN scores are refused: they would be chosen first and hide a diverged run.

    Args:
        scores: Any shape.
        k: How many.
        first: True where an item comes before all others, whatever their scores.
    """
    flat = scores.reshape(-1)
    _refuse_nan(flat)
    if k >= flat.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if first is not None:
        more = k - int(first.sum())
        if more <= 0:
            return top_k_mask(scores.masked_fill(~first, -torch.inf), k)
        return first | top_k_mask(scores.masked_fill(first, -torch.inf), more)
    threshold = _kth_smallest(flat, flat.numel() - k + 1)
    mask = flat >= threshold
    surplus = int(mask.sum()) - k
    if surplus:
        ties = torch.nonzero(flat == threshold).squeeze(1)
        mask[ties[-surplus:]] = False
    return mask.reshape(scores.shape)


def select(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: str,
    first: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Which weights (or groups of them) to keep.

    Args:
        scores: A score tensor for each matrix; higher is more important.
        sparsity: Share of weights to remove, in [0, 1).
        scope: "uniform": each matrix reaches the sparsity by itself; "row": each row of it;
            "global": all matrices share one threshold, so that the sum reaches it; each keeps
            its best weight at least.
        first: True where a weight is kept before all others, for each matrix.

    Returns:
        A boolean tensor for each matrix, True where the weight stays.
    """
    if scope == "uniform":
        return {
            name: top_k_mask(
                score, keep_count(score.numel(), sparsity), first[name] if first else None
            )
            for name, score in scores.items()
        }
    if scope == "row":
        return {
            name: _by_row(score, sparsity, first[name] if first else None)
            for name, score in scores.items()
        }
    if scope != "global":
        raise ValueError(f"unknown scope '{scope}'")
    return _global(scores, sparsity, first)


def _by_row(scores: Tensor, sparsity: float, first: Tensor | None) -> Tensor:
    _refuse_nan(scores.reshape(-1))
    order = scores.argsort(dim=1, descending=True, stable=True)
    if first is not None:  # a stable sort by `first` keeps the order by score within
        by_first = first.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, by_first)
    best = order[:, : keep_count(scores.shape[1], sparsity)]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def _global(
    scores: Mapping[str, Tensor], sparsity: float, first: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    if not scores:
        return {}
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    _refuse_nan(flat)
    sizes = [score.numel() for score in scores.values()]
    filled = [piece for piece in flat.split(sizes) if len(piece)]
    for piece in filled:
        piece[piece.argmax()] = torch.inf  # of equal ones the first
    before = torch.cat([first[name].reshape(-1) for name in scores]) if first else None
    mask = top_k_mask(flat, max(keep_count(flat.numel(), sparsity), len(filled)), before)
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
