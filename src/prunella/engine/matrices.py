"""A matrix of a packed file in the arithmetic that the engine shall use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prunella.errors import InputError
from prunella.grid import SMALLEST_SCALE, WEIGHT_MAX
from prunella.packed.bf16 import from_bf16, to_bf16
from prunella.packed.read import SparseMatrix, Weights

Arithmetic = Literal["int8", "bf16", "fp32"]
# With more non-zeros than this, positions cost more than they save.
_DENSE = 0.75


@dataclass(frozen=True)
class Matrix:
    """Compressed rows, or with `indptr` None a dense matrix.

    Attributes:
        values: Non-zeros, or [rows, columns]: int8, uint16 (bits of bf16) or float32.
        indptr, indices: int32.
        columns: Width.
        scale: [rows] float32, only for int8.
    """

    values: np.ndarray
    indptr: np.ndarray | None
    indices: np.ndarray | None
    columns: int
    scale: np.ndarray | None

    @property
    def rows(self) -> int:
        return len(self.values) if self.indptr is None else len(self.indptr) - 1


def stored_arithmetic(packed: Weights, name: str) -> Arithmetic:
    """The one that a matrix was packed for."""
    dtype = packed.info(name).dtype
    if dtype == "int8" and packed.info(name).scale is not None:
        return "int8"
    return "bf16" if dtype == "bf16" else "fp32"


def read_matrix(
    packed: Weights, names: Sequence[str], arithmetic: Arithmetic | None = None
) -> Matrix:
    """Reads matrices, stacked by rows, as one.

    Args:
        packed: The file.
        names: Tensors of the same width.
        arithmetic: What to convert to; None is what the first was packed for. To int8 each row
            is rounded to absmax / 127.

    Raises:
        InputError: If one is missing, no matrix, or not of the others' width.
    """
    if arithmetic not in (None, *get_args(Arithmetic)):
        raise InputError(f"weights '{arithmetic}' is none of {', '.join(get_args(Arithmetic))}")
    for name in names:
        if len(packed.info(name).shape) != 2:
            raise InputError(f"{packed.path}: {name} is no matrix")
    wanted = arithmetic or stored_arithmetic(packed, names[0])
    density = np.mean([1 - packed.info(name).sparsity for name in names])
    read = _dense if density > _DENSE else _sparse
    parts = [read(packed, name, wanted) for name in names]
    if len({part.columns for part in parts}) != 1:
        raise InputError(f"{packed.path}: {', '.join(names)} differ in width")
    return parts[0] if len(parts) == 1 else _stack(parts)


def _dense(packed: Weights, name: str, wanted: Arithmetic) -> Matrix:
    values, scale = _convert(packed, name, packed.tensor(name), None, wanted)
    return Matrix(np.ascontiguousarray(values), None, None, values.shape[1], scale)


def _sparse(packed: Weights, name: str, wanted: Arithmetic) -> Matrix:
    found = _without_zeros(packed.sparse(name), stored_arithmetic(packed, name))
    values, scale = _convert(packed, name, found.values, found.indptr, wanted)
    return Matrix(values, found.indptr, found.indices, found.shape[1], scale)


def _without_zeros(matrix: SparseMatrix, stored: Arithmetic) -> SparseMatrix:
    """-0.0 is stored, as its bits are not zero, but multiplies as a zero: what masks may leave."""
    if stored == "int8":
        return matrix
    zero = matrix.values & 0x7FFF == 0 if stored == "bf16" else matrix.values == 0
    if not zero.any():
        return matrix
    before = np.concatenate([[0], np.cumsum(~zero, dtype=np.int32)])
    return SparseMatrix(
        matrix.shape,
        before[matrix.indptr].astype(np.int32),
        matrix.indices[~zero],
        matrix.values[~zero],
    )


def _convert(
    packed: Weights, name: str, values: np.ndarray, indptr: np.ndarray | None, wanted: Arithmetic
) -> tuple[np.ndarray, np.ndarray | None]:
    stored, scale = stored_arithmetic(packed, name), packed.scale(name)
    if stored == wanted:
        if wanted == "fp32" and values.dtype != np.float32:
            values = values.astype(np.float32)
        return values, scale if wanted == "int8" else None
    if stored == "int8":
        assert scale is not None
        floats = values.astype(np.float32) * _of_each(scale, indptr)
    else:
        floats = from_bf16(values) if stored == "bf16" else values.astype(np.float32)
    if wanted == "fp32":
        return floats, None
    return (to_bf16(floats), None) if wanted == "bf16" else _round(floats, indptr)


def _round(floats: np.ndarray, indptr: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes and the scale of each row."""
    sizes = np.abs(floats)
    if indptr is None:
        most = sizes.max(axis=1, initial=0)
    else:
        most = np.zeros(len(indptr) - 1, np.float32)
        filled = indptr[:-1] < indptr[1:]
        if filled.any():
            most[filled] = np.maximum.reduceat(sizes, indptr[:-1][filled])
    scale = (most / np.float32(WEIGHT_MAX)).astype(np.float32)
    scale = np.where(scale >= SMALLEST_SCALE, scale, np.float32(1))
    with np.errstate(invalid="ignore"):  # a weight that is no number becomes any other
        return np.rint(floats / _of_each(scale, indptr)).astype(np.int8), scale


def _of_each(scale: np.ndarray, indptr: np.ndarray | None) -> np.ndarray:
    """The scale of the row that each value lies in."""
    return scale[:, None] if indptr is None else np.repeat(scale, np.diff(indptr))


def _stack(parts: Sequence[Matrix]) -> Matrix:
    scale = None if parts[0].scale is None else np.concatenate([_known(p.scale) for p in parts])
    values = np.concatenate([part.values for part in parts])
    if parts[0].indptr is None:
        return Matrix(values, None, None, parts[0].columns, scale)
    starts, total = [np.zeros(1, np.int32)], 0
    for part in parts:
        starts.append(_known(part.indptr)[1:] + np.int32(total))
        total += len(part.values)
    indices = np.concatenate([_known(part.indices) for part in parts])
    return Matrix(values, np.concatenate(starts), indices, parts[0].columns, scale)


def _known(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array
