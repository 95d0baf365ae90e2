"""A tensor of a packed file as an ordinary array."""

from __future__ import annotations

import numpy as np

from prunella.packed.bf16 import from_bf16
from prunella.packed.read import Weights


def dense_array(packed: Weights, name: str) -> np.ndarray:
    """A tensor with its zeros: int8 scaled, bf16 widened to fp32."""
    array, scale = packed.tensor(name), packed.scale(name)
    if scale is not None:
        return array.astype(np.float32) * scale.reshape(-1, *[1] * (array.ndim - 1))
    if packed.info(name).dtype == "bf16":
        return from_bf16(array)
    return np.ascontiguousarray(array)
