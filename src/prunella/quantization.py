"""8-bit quantisation-aware training (QAT): int8 weights, uint8 activations, pattern kept.

The scheme (formulas in `prunella.grid`): weights symmetric per output channel, so a zero stays
zero; activations asymmetric with a range of each token's own, so nothing needs calibration.
Gradients pass straight through the rounding (Bengio et al., arXiv 1308.3432; Jacob et al.,
arXiv 1712.05877).

Why not torchao 0.18's eager QAT, against which a test compares this: its weight grid is
absmax / 127.5 with codes down to -128 (in over a third of the rows), which narrow kernels cannot
negate; under bf16 autocast it computes token scales in bf16, so that about 10 % of the activation
codes differ from those of an engine, and rounds the grid itself to bf16. Here the matrix product is
taken over the integer codes, which bf16 and fp32 both hold exactly, and scaled afterwards, as
an engine does: in fp32 the sums are exact whatever their order (below 2^24), in bf16 autocast only
the output is rounded. A training step of a 6 x 384 BERT (one core, 32 x 32 tokens) took 1.07 times
the plain step in fp32 and 1.17 in bf16; with torchao 1.20 and 1.42.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunella.errors import InputError
from prunella.grid import (
    ACTIVATION_MAX,
    SCALES_FILE,
    SMALLEST_SCALE,
    WEIGHT_MAX,
    int_weights,
    load_scales,
    reference_linear,
    save_scales,
)

__all__ = [
    "SCALES_FILE",
    "QuantizedLinear",
    "calibrate_free",
    "finish",
    "int_weights",
    "load_scales",
    "prepare",
    "reference_linear",
    "restore",
    "save_scales",
]


class QuantizedLinear(nn.Linear):
    """A Linear that computes with 8-bit weights and activations; parameters as in `nn.Linear`.

    `scale` is None while training (taken from the weight at every step) and the fixed [out] grid
    afterwards. It is no part of the state dict.
    """

    scale: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        # float16 could not hold the integer sums, so its autocast multiplies in float32.
        dtype = torch.bfloat16 if half == torch.bfloat16 else torch.float32
        with torch.autocast(device, enabled=False):
            scale = weight_scale(self.weight) if self.scale is None else self.scale
            return _IntegerLinear.apply(input, self.weight, self.bias, scale, dtype)


def prepare(model: nn.Module, names: Sequence[str]) -> None:
    """Switches Linears to 8-bit arithmetic in place; parameters and their names stay as they are.

    Args:
        model: Any model with float32 weights.
        names: Module names ("bert.encoder.layer.0.attention.self.query").

    Raises:
        InputError: If a name is no plain float32 `nn.Linear` of the model. (A subclass may belong
            to a fused block that never calls its forward.)
    """
    linears = [_find_linear(model, name) for name in names]  # all, before any is switched
    for linear in linears:
        _switch(linear, scale=None)


@torch.no_grad()
def finish(model: nn.Module) -> dict[str, np.ndarray]:
    """Puts the weights on the grid, in place, and fixes the grid; predictions do not change.

    Returns:
        float32 scales [out] by parameter name ("....query.weight").

    Raises:
        InputError: If a weight is not finite, or the model was not prepared.
    """
    scales: dict[str, np.ndarray] = {}
    for name, module in model.named_modules():
        if not isinstance(module, QuantizedLinear):
            continue
        parameter = f"{name}.weight"
        if not torch.isfinite(module.weight).all():
            raise InputError(f"{parameter}: not finite; training diverged, lower the learning rate")
        if module.scale is None:
            module.scale = weight_scale(module.weight)
        column = module.scale[:, None]
        # + 0.0 makes a plain zero of -0.0, what small negative weights round to.
        module.weight.copy_((module.weight / column).round_().add_(0.0).mul_(column))
        scales[parameter] = module.scale.cpu().numpy().copy()
    if not scales:
        raise InputError("no layer of this model is quantised; name the layers in prepare first")
    return scales


def restore(model: nn.Module, scales: Mapping[str, np.ndarray]) -> None:
    """Gives a model loaded from a quantised checkpoint its 8-bit arithmetic back.

    Args:
        model: The model with the checkpoint's weights, in float32.
        scales: What `load_scales` found beside them.

    Raises:
        InputError: If the model lacks a matrix, or its weights are not on the grid.
    """
    linears = {name: _find_linear(model, name.removesuffix(".weight")) for name in scales}
    for name, linear in linears.items():
        int_weights(linear.weight.detach().cpu().numpy(), scales[name], name)
    for name, linear in linears.items():
        _switch(linear, torch.from_numpy(scales[name].copy()).to(linear.weight.device))


def calibrate_free(model: nn.Module, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Quantises without training; returns the scales as `finish` does.

    Weights are rounded to the nearest, activation ranges are each token's own: no data is needed.
    """
    prepare(model, names)
    return finish(model)


def weight_scale(weight: Tensor) -> Tensor:
    """The grid of each output row: absmax / 127 [out]; 1 for a row of zeros."""
    return _usable(weight.detach().abs().amax(1) / WEIGHT_MAX)


class _IntegerLinear(torch.autograd.Function):
    """y = (u - z) c^T s_x s_w + bias; the gradient is that of the dequantised product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, dtype: torch.dtype
    ) -> Tensor:
        tokens, token_scale = _token_codes(x.reshape(-1, x.shape[-1]).float(), dtype)
        codes = (weight / scale[:, None]).round_().to(dtype)
        # Up to 255 and 127 in magnitude: bf16 and fp32 hold the codes and multiply them exactly.
        y = (tokens @ codes.t()).float().mul_(token_scale).mul_(scale)
        if bias is not None:
            y.add_(bias)
        ctx.save_for_backward(tokens, token_scale, codes, scale)
        ctx.input_shape, ctx.input_dtype = x.shape, x.dtype
        return y.to(dtype).view(*x.shape[:-1], codes.shape[0])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        tokens, token_scale, codes, scale = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, codes.shape[0]).float()
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = (gradient * scale).to(codes.dtype) @ codes
            for_x = for_x.to(ctx.input_dtype).view(ctx.input_shape)
        if ctx.needs_input_grad[1]:
            for_weight = ((gradient * token_scale).to(tokens.dtype).t() @ tokens).float()
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum(0)
        return for_x, for_weight, for_bias, None, None


def _token_codes(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes less their zero point, u - z [T, K], and scales [T, 1], of activations [T, K]."""
    # amin and amax, because aminmax along a dimension is some 15 times slower on a CPU.
    low, high = x.amin(1, keepdim=True).clamp_(max=0), x.amax(1, keepdim=True).clamp_(min=0)
    scale = _usable((high - low) / ACTIVATION_MAX)
    inverse = scale.reciprocal()
    codes = (x * inverse).round_()
    # Both ends may round outwards by a half, one code more than there are; below it cannot pass.
    highest = (low * inverse).round_().add_(ACTIVATION_MAX)
    return torch.minimum(codes, highest, out=codes).to(dtype), scale


def _usable(scale: Tensor) -> Tensor:
    return torch.where(scale >= SMALLEST_SCALE, scale, 1.0)


def _switch(linear: nn.Linear, scale: Tensor | None) -> None:
    # The object stays: whoever holds it, or hooked into it, sees the 8-bit layer.
    linear.__class__ = QuantizedLinear
    linear.register_buffer("scale", scale, persistent=False)


def _find_linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InputError(
            f"'{name}' is no module of this {type(model).__name__}; quantised layers are named "
            "exactly as in the checkpoint they were quantised in"
        ) from None
    if isinstance(module, QuantizedLinear):
        raise InputError(f"'{name}' is quantised already; load the model afresh")
    if type(module) is not nn.Linear:
        raise InputError(f"'{name}' is a {type(module).__name__}; only plain Linears are quantised")
    if module.weight.dtype != torch.float32:
        raise InputError(
            f"'{name}' holds {module.weight.dtype} weights; load the model with dtype=torch.float32"
        )
    return module
