"""Random: the baseline that any criterion must beat."""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Criterion, pseudo_random


class Random(Criterion):
    """s ~ U(0, 1), drawn once for each weight, so that what is removed early stays removed."""

    def score(self, name: str) -> Tensor:
        weight = self.masks.parameters[name]
        return pseudo_random(weight.shape, self.context.seed, name).to(weight.device)


CRITERION = Random
