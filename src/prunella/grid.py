"""The arithmetic of 8-bit layers in numpy: the int8 grid of weights, its side file, the reference.

What a quantised Linear computes, and what the CPU engine must compute, for a token x of K features
and an output row w of K weights::

    s_x = (max(x, 0) - min(x, 0)) / 255      i = 1 / s_x            one pair for each token
    z   = -rint(min(x, 0) * i)                                      zero point, 0..255
    u   = min(rint(x * i) + z, 255)                                 unsigned byte
    w   = s_w * c,  c in -127..127                                  one s_w for each output row
    y   = float32(sum_k u_k * c_k - z * sum_k c_k) * s_x * s_w + bias

Sums are 32-bit integers (exact while K < 66,000); everything else is float32, each operation
rounded by itself, left to right; `rint` rounds halves to even. A code of -128 never occurs, so
kernels may negate codes; a pruned weight has code 0 and contributes nothing to either sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prunella.errors import InputError

SCALES_FILE = "quantization.safetensors"
SCHEME = "w8 symmetric per output channel, a8 asymmetric per token"
WEIGHT_MAX = 127
ACTIVATION_MAX = 255
# A token or row whose scale would be subnormal counts as zeros: 1 / scale stays finite.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)

Floats = NDArray[np.float32]


def int_weights(weight: Floats, scale: Floats, name: str = "weight") -> NDArray[np.int8]:
    """The int8 codes of a matrix that lies on its grid, exactly.

    Args:
        weight: [out, in] float32, every value equal to code * scale of its row, bit for bit.
        scale: [out] float32, positive.
        name: What to call the matrix in an error.

    Raises:
        InputError: If the shapes do not fit, a scale is not a positive normal number, or a weight
            is not on the grid.
    """
    if weight.dtype != np.float32 or scale.dtype != np.float32:
        raise InputError(
            f"{name}: expected float32 weights and scales, found {weight.dtype} and {scale.dtype}; "
            "load the quantised model in float32"
        )
    if weight.ndim != 2 or scale.shape != weight.shape[:1]:
        raise InputError(
            f"{name}: scales of shape {scale.shape} do not fit weights of shape {weight.shape}; "
            f"{SCALES_FILE} belongs to another model"
        )
    if not (np.isfinite(scale) & (scale >= SMALLEST_SCALE)).all():
        raise InputError(
            f"{name}: a scale is not a positive finite number; quantize the model again"
        )
    column = scale[:, None]
    with np.errstate(over="ignore", invalid="ignore"):  # damaged values fail the comparison below
        codes = np.rint(weight / column)
        on_grid = (codes * column == weight) & (np.abs(codes) <= WEIGHT_MAX)
    if not on_grid.all():
        row, col = np.argwhere(~on_grid)[0]
        raise InputError(
            f"{name}: {np.count_nonzero(~on_grid)} of {weight.size} weights are not on the int8 "
            f"grid, the first at row {row}, column {col}; the weights were changed after "
            "quantising, or the scales belong to another model: quantize again"
        )
    return codes.astype(np.int8)


def quantize_tokens(x: Floats) -> tuple[NDArray[np.uint8], Floats, NDArray[np.int32]]:
    """Unsigned bytes, scales [T, 1] and zero points [T, 1] of activations [T, K]."""
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    scale = (high - low) / np.float32(ACTIVATION_MAX)
    scale = np.where(scale >= SMALLEST_SCALE, scale, np.float32(1))
    inverse = np.float32(1) / scale
    zero_point = -np.rint(low * inverse)
    codes = np.minimum(np.rint(x * inverse) + zero_point, ACTIVATION_MAX)
    return codes.astype(np.uint8), scale, zero_point.astype(np.int32)


def reference_linear(
    x: Floats, int_weight: NDArray[np.int8], scale: Floats, bias: Floats | None = None
) -> Floats:
    """A quantised Linear in integer arithmetic (see the module's formulas).

    Args:
        x: [T, K] float32 activations, one token a row.
        int_weight: [O, K] int8 codes.
        scale: [O] float32 scale of each output row.
        bias: [O] float32, or None.

    Returns:
        [T, O] float32.
    """
    codes, token_scale, zero_point = quantize_tokens(x)
    wide = int_weight.astype(np.int32)
    total = codes.astype(np.int32) @ wide.T - zero_point * wide.sum(axis=1, dtype=np.int32)
    y = total.astype(np.float32) * token_scale * scale
    return y if bias is None else y + bias


def save_scales(folder: str | Path, scales: Mapping[str, Floats]) -> None:
    """Writes the scales beside a checkpoint's weights, keyed by parameter name ("....weight")."""
    arrays = {name: np.ascontiguousarray(scale, np.float32) for name, scale in scales.items()}
    save_file(arrays, Path(folder) / SCALES_FILE, metadata={"scheme": SCHEME})


def load_scales(folder: str | Path) -> dict[str, Floats] | None:
    """The scales beside a checkpoint's weights; None if the checkpoint is not quantised.

    Raises:
        InputError: If the file is damaged, or of a scheme that this version does not know.
    """
    path = Path(folder) / SCALES_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            scheme = (file.metadata() or {}).get("scheme")
            scales = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again") from None
    if scheme != SCHEME:
        raise InputError(f"{path}: quantised as '{scheme}', this version knows only '{SCHEME}'")
    return scales
