"""Magnitude: |w| (gradual magnitude pruning; Zhu & Gupta 2017, arXiv 1710.01878)."""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Criterion


class Magnitude(Criterion):
    """s = |w|."""

    def score(self, name: str) -> Tensor:
        return self.masks.dense(name).abs_()


CRITERION = Magnitude
