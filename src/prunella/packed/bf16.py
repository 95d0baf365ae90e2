"""bfloat16, the upper half of a float32, as numpy's unsigned 16-bit integers."""

from __future__ import annotations

import numpy as np


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 bits, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    # Rounding may carry a NaN over to infinity: cut it short instead, and keep it quiet.
    quiet = bits | np.uint32(0x400000)
    return (
        (np.where(np.isnan(values), quiet, rounded) >> 16).astype(np.uint16).reshape(values.shape)
    )


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 bits -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
