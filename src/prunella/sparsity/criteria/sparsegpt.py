"""SparseGPT: the remaining weights of a row make up for the removed (Frantar & Alistarh 2023).

arXiv 2301.00774, sections 3.2 and 3.3. For a matrix with inputs X, H = X^T X + damping. Columns are
gone through from left to right; removing w_j costs w_j^2 / [H_j^-1]_jj, where H_j is H without the
columns before j, and moves the weights to the right of it by -w_j / [H_j^-1]_jj * [H_j^-1]_j. Both
are in the upper Cholesky factor U of H^-1: [H_j^-1]_jj = U_jj^2, [H_j^-1]_j = U_jj * U_j.

Here all of a mask is chosen first, from the weights before any is moved (the paper chooses 128
columns at a time), so that score, pattern and scope stay apart. Made for one shot. Memory: a
float32 matrix of inputs by inputs for each pruned one while a window is open, 0.6 GB for BERT-Base.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion

# Columns whose effect on those further right is added up before it is applied, as in the paper.
_AT_ONCE = 128


class SparseGpt(Criterion):
    """s_ij = w_ij^2 / U_jj^2.

    Args:
        context: The run.
        damping: Share of the mean of H's diagonal that is added to it.
    """

    inputs = True
    returns = False
    update_every = 0.1

    def __init__(self, context: Context, damping: float = 0.01) -> None:
        super().__init__(context)
        if damping <= 0:
            raise ValueError("damping must be above 0")
        self.damping = damping

    def see_inputs(self, name: str, inputs: Tensor) -> None:
        products = inputs.T @ inputs
        self.sums[name] = self.sums[name].add_(products) if name in self.sums else products

    def score(self, name: str) -> Tensor:
        diagonal = self._factor(name).diagonal().float()
        return (self.masks.dense(name).float() / diagonal).square_()

    def remaining(self, name: str, keep: Tensor, step: int) -> Tensor:
        factor = self._factor(name)
        weight = self.masks.parameters[name].detach().to(factor.dtype, copy=True)
        for start in range(0, weight.shape[1], _AT_ONCE):
            end = min(start + _AT_ONCE, weight.shape[1])
            errors = torch.zeros_like(weight[:, start:end])
            for j in range(start, end):
                error = weight[:, j] * ~keep[:, j] / factor[j, j]
                weight[:, j:end].addr_(error, factor[j, j:end], alpha=-1)
                errors[:, j - start] = error
            weight[:, end:] -= errors @ factor[start:end, end:]
        return weight.to(self.masks.parameters[name].dtype)

    def _factor(self, name: str) -> Tensor:
        """The upper Cholesky factor of H^-1, float64."""
        products = self.sums[name].double()
        diagonal = products.diagonal()
        # An input that is always 0 says nothing: its weights are not moved, and cost nothing.
        diagonal.add_(self.damping * diagonal.mean().clamp_min(1e-30))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
        return torch.linalg.cholesky(inverse, upper=True)


CRITERION = SparseGpt
