"""The state of pruning: which weights are kept, one byte a weight, outside the model.

The parameters themselves hold the zeros, under their ordinary names, so every checkpoint that is
written at any moment is a sparse model. A pruned ("dormant") weight keeps its last value in the
mask's byte, so that a mask may still move: at the next choice a dormant weight competes with its
old value, as in Prune OFA's reference, where the masked original weight stays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# A byte is a float8 (e4m3): NaN marks a kept weight, any other value is the dormant weight
# divided by the matrix's scale. 3 bits of mantissa: within 6.25 % of the old value from
# 2^-6 / 448 of the matrix's largest weight on; below 2^-10 / 448 of it, it counts as 0.
_KEPT = 0x7F
_FLOAT8_MAX = 448.0
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Masks:
    """Masks over a fixed set of parameters.

    Args:
        parameters: The prunable weights by parameter name; the masks act on them in place.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.codes = {
            name: torch.full_like(p, _KEPT, dtype=torch.uint8)
            for name, p in self.parameters.items()
        }
        # Fixed once, so that a dormant value is rounded once however often masks are chosen.
        self.scales = {
            name: max(p.detach().abs().max().item(), 1e-30) / _FLOAT8_MAX if p.numel() else 1.0
            for name, p in self.parameters.items()
        }

    @classmethod
    def of_zeros(cls, parameters: Mapping[str, nn.Parameter]) -> Masks:
        """Masks that keep exactly what is not zero now: the pattern lock."""
        masks = cls(parameters)
        for name, parameter in masks.parameters.items():
            masks.codes[name][parameter.detach() == 0] = 0
        return masks

    def kept(self, name: str) -> Tensor:
        """Boolean tensor of the parameter's shape, True where the weight is kept."""
        return self._code(name) == _KEPT

    def dense(self, name: str) -> Tensor:
        """The weight with its dormant values in place of zeros: what competes for the mask."""
        code = self._code(name)
        weight = self.parameters[name].detach().clone()
        return _zero(weight, code).add_(_dormant(code, self.scales[name]))

    @torch.no_grad()
    def move(self, keep: Mapping[str, Tensor]) -> None:
        """Takes new masks: newly pruned weights go dormant, chosen dormant ones come back."""
        for name, kept in keep.items():
            dense = self.dense(name)
            scaled = (dense / self.scales[name]).clamp_(-_FLOAT8_MAX, _FLOAT8_MAX)
            code = scaled.to(torch.float8_e4m3fn).view(torch.uint8)
            every_bit = kept.view(torch.uint8).neg()  # of a kept weight, none of a pruned one
            self.codes[name] = (every_bit & _KEPT) | (code & ~every_bit)
            self.parameters[name].copy_(_zero(dense, self.codes[name]))

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Puts the zeros back, after an optimiser step."""
        for name, parameter in self.parameters.items():
            _zero(parameter, self._code(name))

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Pruned weights get no gradient: none in the clipped norm, none in the momentum."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                _zero(parameter.grad, self._code(name))

    def sparsity(self) -> dict[str, float]:
        """Share of pruned weights of each matrix."""
        return {
            name: 1 - self.kept(name).sum().item() / max(1, code.numel())
            for name, code in self.codes.items()
        }

    def total_sparsity(self) -> float:
        """Share of pruned weights over all matrices."""
        total = sum(code.numel() for code in self.codes.values())
        kept = sum(int(self.kept(name).sum()) for name in self.codes)
        return 1 - kept / total if total else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        scales = {
            f"{n}|scale": torch.tensor(s, dtype=torch.float64) for n, s in self.scales.items()
        }
        return {**self.codes, **scales}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, code in self.codes.items():
            code.copy_(state[name])
            self.scales[name] = state[f"{name}|scale"].item()

    def _code(self, name: str) -> Tensor:
        """The bytes of a matrix, where its weights are now: a trainer moves the model late."""
        code, device = self.codes[name], self.parameters[name].device
        if code.device != device:
            code = self.codes[name] = code.to(device)
        return code


def _zero(values: Tensor, code: Tensor) -> Tensor:
    """Zeroes what is pruned, in place, and returns it.

    This runs twice a step over all weights, so it counts: a CPU does these operations on many
    weights at once, and takes ten times as long to compare the bytes and fill by the result.
    """
    every_bit = (code ^ _KEPT).clamp_max_(1).sub_(1)  # of a kept weight, none of a pruned one
    values.view(_INTEGERS[values.element_size()]).bitwise_and_(every_bit.view(torch.int8))
    return values


def _dormant(code: Tensor, scale: float) -> Tensor:
    """The dormant values behind the bytes; 0 for a kept weight."""
    every = torch.arange(256, dtype=torch.uint8, device=code.device).view(torch.float8_e4m3fn)
    values = every.to(torch.float32) * scale
    values[_KEPT] = 0.0
    return values.index_select(0, code.reshape(-1).int()).view(code.shape)
