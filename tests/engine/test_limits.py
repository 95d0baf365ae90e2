"""8-bit kernels where their arithmetic is narrowest: the largest codes, of one sign, in long rows."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from prunella.engine import _native

KERNELS = {
    k["name"]: k["dense"] for k in _native.kernels() if k["usable"] and k["arithmetic"] == "int8"
}
WEIGHTS = {
    "largest": [127],
    "most negative": [-127],
    "opposite": [-127, 127],
    "large": list(range(90, 128)) + list(range(-127, -89)),
    "too large for four": [64, 65, -64, -65],
    "small": [*range(1, 30), *range(-30, 0)],
    "one large": [1, 2, 3, 4, 5, 127],
}
INPUTS = {"highest": [255], "lowest": [0], "extremes": [0, 255], "middle": [127, 128, 129]}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("density", [0.1, 0.7])
def test_sums_are_exact_at_the_limits(kernel, weights, inputs, density):
    rng = np.random.default_rng(0)
    columns = 3072
    w = rng.choice(WEIGHTS[weights], size=(67, columns))
    w = (w * (rng.random(w.shape) < density)).astype(np.int8)
    x = rng.choice(INPUTS[inputs], size=(19, columns)).astype(np.uint8)
    if KERNELS[kernel]:
        sums, _, _ = _native.multiply(kernel, w, x)
    else:
        starts = np.concatenate([[0], np.cumsum((w != 0).sum(1))]).astype(np.int32)
        indices = np.nonzero(w)[1].astype(np.int32)
        sums, _, _ = _native.multiply(kernel, starts, indices, w[w != 0], x)
    assert_array_equal(sums, x.astype(np.int32) @ w.astype(np.int32).T)
