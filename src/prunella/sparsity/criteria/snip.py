"""SNIP: how much the loss depends on a connection (Lee et al. 2019, arXiv 1810.02340).

Equation 5 of the paper: s = |dL/dc| for a gate c = 1 on each weight, which is |w * dL/dw|, from the
gradient of the batches of a window. The paper prunes in one shot before any training. One float32 a
weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Criterion


class Snip(Criterion):
    """s = |sum w * dL/d(w * m)|, over the steps of a window."""

    gradients = True
    update_every = 0.1

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        step = gradient.float() * self.masks.dense(name).float()
        self.state[name] = self.state[name].add_(step) if name in self.state else step

    def score(self, name: str) -> Tensor:
        return self.state[name].abs()


CRITERION = Snip
