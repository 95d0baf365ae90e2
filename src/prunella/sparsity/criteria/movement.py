"""Movement: weights that training drives towards 0 go (Sanh et al. 2020, arXiv 2005.07683).

Equation 4 of the paper: S(T) = -sum over steps t < T of dL/dW(t) * W(t). Its constant factor, the
scores' learning rate, has no influence on which scores are lowest. One float32 a weight.
"""

from __future__ import annotations

from torch import Tensor

from prunella.sparsity.criterion import Criterion


class Movement(Criterion):
    """S = -sum w * dL/d(w * m), over all steps."""

    gradients = True
    window = False

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        step = gradient.float() * self.masks.dense(name).float()
        self.state[name] = self.state[name].sub_(step) if name in self.state else -step

    def score(self, name: str) -> Tensor:
        return self.state[name]


CRITERION = Movement
