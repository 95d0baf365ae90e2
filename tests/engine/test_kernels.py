"""Every kernel, on one table of shapes: bit for bit against integers, or close to floats."""

import gc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from prunella.engine import _native
from prunella.engine.compiled import usable_isas

KERNELS = [(k["arithmetic"], k["name"]) for k in _native.kernels() if k["usable"]]
DENSE = {(k["arithmetic"], k["name"]): k["dense"] for k in _native.kernels()}

# (outputs, inputs, tokens, share of non-zeros)
SHAPES = [
    *((n, 64, 16, 0.1) for n in (1, 15, 16, 17, 31, 32, 33, 48, 64, 96, 100)),
    *(
        (48, k, 16, 0.1)
        for k in (1, 2, 3, 4, 5, 31, 32, 33, 63, 65, 127, 128, 129, 768, 1024, 1025, 3072)
    ),
    *(
        (33, 130, t, 0.1)
        for t in (1, 2, 3, 7, 8, 15, 17, 31, 32, 33, 63, 64, 65, 100, 128, 255, 256, 257)
    ),
    *((64, 256, 20, d) for d in (0.0, 0.001, 0.05, 0.2, 0.5, 0.9, 1.0)),
    (5, 7, 3, 1.0),
    (768, 768, 128, 0.1),
    *((580, 1600, t, 0.1) for t in (16, 20, 65)),  # windows and tiles that end anywhere
    (0, 64, 4, 0.5),
    (16, 0, 4, 0.5),
]


def csr(dense):
    starts = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int32)
    indices = np.nonzero(dense)[1].astype(np.int32)
    return starts, indices, dense[dense != 0]


def run(arithmetic, kernel, dense, inputs, **more):
    if DENSE[arithmetic, kernel]:
        return _native.multiply(kernel, np.ascontiguousarray(dense), inputs, **more)
    return _native.multiply(kernel, *csr(dense), inputs, **more)


def bf16(x):
    """Floats that bf16 holds exactly, and their bits."""
    bits = (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return (bits.astype(np.uint32) << 16).view(np.float32), bits


def matrix(rng, rows, columns, density):
    mask = rng.random((rows, columns)) < density
    return mask, rng.normal(size=(rows, columns)).astype(np.float32) * mask


@pytest.mark.parametrize(("arithmetic", "kernel"), KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_a_kernel_multiplies(arithmetic, kernel, shape):
    rows, columns, tokens, density = shape
    rng = np.random.default_rng(rows + columns + tokens)
    mask, weights = matrix(rng, rows, columns, density)
    if arithmetic == "int8":
        weights = (rng.choice([-127, -1, 1, 3, 50, 127], size=mask.shape) * mask).astype(np.int8)
        inputs = rng.choice([0, 1, 127, 128, 254, 255], size=(tokens, columns)).astype(np.uint8)
        sums, _, _ = run(arithmetic, kernel, weights, inputs)
        assert_array_equal(sums, inputs.astype(np.int32) @ weights.astype(np.int32).T)
        return
    inputs = rng.normal(size=(tokens, columns)).astype(np.float32)
    if arithmetic == "bf16":
        (weights, weight_bits), (inputs, input_bits) = bf16(weights), bf16(inputs)
        sums, _, _ = run(arithmetic, kernel, weight_bits, input_bits)
    else:
        sums, _, _ = run(arithmetic, kernel, weights, inputs)
    exact = inputs.astype(np.float64) @ weights.astype(np.float64).T
    size = np.abs(inputs).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    assert (np.abs(sums - exact) <= 1e-6 * size + 1e-30).all()


@pytest.mark.parametrize(("arithmetic", "kernel"), KERNELS)
@pytest.mark.parametrize("block", [(4, 1), (1, 4)], ids=["4x1", "1x4"])
@pytest.mark.parametrize(
    "shape",
    [(1, 7, 3), (33, 130, 17), (64, 768, 64), (100, 1540, 40), (580, 1600, 33), (18, 3072, 5)],
)
def test_blocks_of_weights(arithmetic, kernel, block, shape):
    rows, columns, tokens = shape
    rng = np.random.default_rng(rows)
    down, across = -(-rows // block[0]), -(-columns // block[1])
    mask = np.kron(rng.random((down, across)) < 0.1, np.ones(block))[:rows, :columns]
    mask[0, 0] = 1
    weights = rng.integers(1, 127, size=(rows, columns)) * mask
    inputs = rng.integers(0, 255, size=(tokens, columns))
    sums = multiply_integers(arithmetic, kernel, weights, inputs)
    assert_allclose(sums, inputs @ weights.T, rtol=1e-6)


def multiply_integers(arithmetic, kernel, weights, inputs):
    """Small whole numbers in any arithmetic."""
    if arithmetic == "int8":
        return run(arithmetic, kernel, weights.astype(np.int8), inputs.astype(np.uint8))[0]
    if arithmetic == "bf16":
        return run(arithmetic, kernel, bf16(weights)[1], bf16(inputs)[1])[0]
    return run(arithmetic, kernel, weights.astype(np.float32), inputs.astype(np.float32))[0]


@pytest.mark.parametrize(("arithmetic", "kernel"), KERNELS)
def test_rows_without_weights_are_zero(arithmetic, kernel):
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 100, size=(70, 200)) * (rng.random((70, 200)) < 0.2)
    weights[[0, 5, 16, 69]] = 0
    weights[:, [0, 3, 64, 199]] = 0
    inputs = rng.integers(0, 255, size=(20, 200))
    sums = multiply_integers(arithmetic, kernel, weights, inputs)
    assert_allclose(sums, inputs @ weights.T, rtol=1e-6)
    assert (sums[:, [0, 5, 16, 69]] == 0).all()


@pytest.mark.parametrize(("arithmetic", "kernel"), [k for k in KERNELS if not DENSE[k]])
@pytest.mark.parametrize(
    ("starts", "indices"),
    [
        ([0, 2], [0, 9]),
        ([0, 2], [3, 3]),
        ([0, 2], [-1, 3]),
        ([0, 3], [0, 1]),
        ([1, 2], [0, 1]),
        ([0, 2, 1, 2], [0, 1]),
    ],
)
def test_a_matrix_that_is_none_is_refused(arithmetic, kernel, starts, indices):
    weight, inputs = {
        "int8": (np.int8, np.uint8),
        "bf16": (np.uint16,) * 2,
        "fp32": (np.float32,) * 2,
    }[arithmetic]
    with pytest.raises(ValueError, match="compressed rows"):
        _native.multiply(
            kernel,
            np.array(starts, np.int32),
            np.array(indices, np.int32),
            np.ones(len(indices), weight),
            np.zeros((1, 8), inputs),
        )


@pytest.mark.parametrize("isa", usable_isas())
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float32])
def test_a_dense_matrix_is_kept_by_those_alone_that_read_it_as_it_is(isa, dtype):
    values = np.ones((128, 256), dtype)
    scale = np.ones(128, np.float32) if dtype == np.int8 else None
    linear = _native.linear(values, scale, None, _native.Tuner(isa))
    info = linear.info()
    borrows = bool({"portable dense", "dense"} & set(info["kernels"]))
    kept, size = weakref.ref(values), values.nbytes
    del values
    gc.collect()
    assert (kept() is not None) == borrows
    assert info["bytes"] >= size
    del linear
    gc.collect()
    assert kept() is None
