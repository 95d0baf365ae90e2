"""Wanda: weights by the size of what they multiply (Sun et al. 2024, arXiv 2306.11695).

Equation 1 of the paper: s_ij = |w_ij| * ||x_j||, the norm over the tokens of a window of input j of
the matrix. The paper compares within an output and prunes in one shot: --scope row --one-shot. One
float32 an input.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Criterion


class Wanda(Criterion):
    """s_ij = |w_ij| * ||x_j||."""

    inputs = True
    update_every = 0.1

    def see_inputs(self, name: str, inputs: Tensor) -> None:
        squares = inputs.square().sum(0)
        self.sums[name] = self.sums[name].add_(squares) if name in self.sums else squares

    def score(self, name: str) -> Tensor:
        return self.masks.dense(name).abs_().float() * self.sums[name].sqrt()


CRITERION = Wanda
