"""oBERT: optimal brain surgeon with a block-diagonal empirical Fisher (Kurtic et al. 2022).

arXiv 2203.07259, section 3. F = damping * I + mean over m gradients of g g^T, for blocks of 50
neighbouring weights. Removing weight q costs s_q = w_q^2 / (2 [F^-1]_qq). The remaining weights K
of a block move to the minimum of the quadratic loss with all of its removed weights Q at 0:
w_K + F_KK^-1 F_KQ w_Q, which is the paper's update for Q solved jointly.

A gradient is that of an optimiser step, so m is --window. Memory: `block` float32 a weight while a
window is open: 17 GB for BERT-Base, 8.5 GB for DistilBERT, a third of it with block 16. A removed
weight does not return, since the others have made up for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion

# Blocks at a time in float64: 80 MB of blocks of 50.
_AT_ONCE = 4096


class Obert(Criterion):
    """s_q = w_q^2 / (2 [F^-1]_qq).

    Args:
        context: The run.
        block: Neighbouring weights whose curvature is seen together.
        damping: Added to the diagonal of F.
    """

    gradients = True
    returns = False
    update_every = 0.1

    def __init__(self, context: Context, block: float = 50, damping: float = 1e-7) -> None:
        super().__init__(context)
        if block < 1 or block != int(block) or damping <= 0:
            raise ValueError("block must be a whole number from 1, damping above 0")
        self.block, self.damping = int(block), damping

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        # A removed weight cannot make up for others, so F is of those that are left.
        g = self._blocks(gradient.float() * self.masks.kept(name))
        if name not in self.state:
            self.state[name] = g.new_zeros(len(g), self.block, self.block)
            self.state[f"{name}|count"] = g.new_zeros(())
        self.state[name].baddbmm_(g.unsqueeze(2), g.unsqueeze(1))
        self.state[f"{name}|count"] += 1

    def score(self, name: str) -> Tensor:
        weight = self.masks.parameters[name].detach()
        costs = [
            w.square() / (2 * _inverse_diagonal(fisher))
            for fisher, w in self._pieces(name, self._blocks(weight))
        ]
        return self._whole(costs, weight)

    def remaining(self, name: str, keep: Tensor, step: int) -> Tensor:
        weight = self.masks.parameters[name].detach()
        moved = []
        kept = iter(self._blocks(keep.double()).split(_AT_ONCE))
        for fisher, w in self._pieces(name, self._blocks(weight)):
            k = next(kept)
            pull = k * (fisher @ (w * (1 - k)).unsqueeze(2)).squeeze(2)  # F_KQ w_Q
            among_kept = fisher * k.unsqueeze(1) * k.unsqueeze(2) + torch.diag_embed(1 - k)
            moved.append(k * (w + torch.linalg.solve(among_kept, pull)))
        return self._whole(moved, weight)

    def _blocks(self, values: Tensor) -> Tensor:
        """[blocks, block]; the last one is filled up with zeros."""
        flat = values.reshape(-1)
        return F.pad(flat, (0, -len(flat) % self.block)).view(-1, self.block)

    def _whole(self, blocks: list[Tensor], like: Tensor) -> Tensor:
        return torch.cat(blocks).reshape(-1)[: like.numel()].view(like.shape).to(like.dtype)

    def _pieces(self, name: str, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some blocks of F, and of `values`, at a time, float64."""
        count = self.state[f"{name}|count"].item()
        damping = self.damping * torch.eye(self.block, dtype=torch.float64, device=values.device)
        pieces = zip(self.state[name].split(_AT_ONCE), values.split(_AT_ONCE), strict=True)
        for products, piece in pieces:
            yield products.double().div_(count).add_(damping), piece.double()


def _inverse_diagonal(matrices: Tensor) -> Tensor:
    """[F^-1]_qq of positive definite matrices, [n, b, b] -> [n, b]."""
    lower, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any():  # not positive definite to working precision: gradients beyond all measure
        return torch.linalg.inv(matrices).diagonal(dim1=1, dim2=2)
    # F = L L^T, so it is the squared length of column q of L^-1: half the work of F^-1.
    eye = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device)
    inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
    return inverse.square().sum(dim=1)


CRITERION = Obert
