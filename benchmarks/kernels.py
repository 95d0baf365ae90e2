"""Every matrix kernel of the CPU engine that runs here, one thread, by shape, density and tokens.

The figure is the dense equivalent: 2 x tokens x inputs x outputs / seconds, in GFLOP/s, whatever
share of the products a kernel skips. Times are the least of many repetitions: other work on the
machine can only lengthen them. Arranging activations and quantising them are not in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Figure, Options, run, write_result
from prunella.engine import _native
from prunella.engine.compiled import usable_isas

_SHAPES = ((768, 768), (768, 3072), (3072, 768))  # (inputs, outputs)
_DENSITIES = (0.05, 0.1, 0.2)
_TOKENS = (1, 4, 16, 64, 128)
_IN_TABLE = 0.1
_SECONDS = 0.05  # of repetitions for one figure
_TYPES: dict[str, tuple[type, type]] = {
    "int8": (np.uint8, np.int8),
    "bf16": (np.uint16, np.uint16),
    "fp32": (np.float32, np.float32),
}


@dataclass(frozen=True)
class Pattern:
    """How non-zeros lie: alone, or in blocks of outputs x inputs."""

    name: str
    block: tuple[int, int]
    densities: tuple[float, ...]


_PATTERNS = (
    Pattern("single", (1, 1), _DENSITIES),
    Pattern("blocks of 4x1", (4, 1), (0.1,)),
    Pattern("blocks of 1x4", (1, 4), (0.1,)),
)


@dataclass(frozen=True)
class Measurement:
    """One kernel on one matrix: dense-equivalent GFLOP/s, and bytes a weight of its layout."""

    kernel: str
    pattern: str
    density: float
    inputs: int
    outputs: int
    tokens: int
    gflops: float
    bytes_per_weight: float


def kernels(options: Options) -> list[Figure]:
    measurements = [m for kernel in usable() for m in measure(kernel)]
    figures = list(summary(measurements))
    # A machine with fewer instruction sets has results of its own.
    name = f"kernels-{usable_isas()[-1]}"
    write_result(name, figures, {"measurements": [asdict(m) for m in measurements]}, options)
    return figures


def usable() -> list[_native.KernelEntry]:
    """What runs here; plain loops only where nothing else does."""
    entries = [entry for entry in _native.kernels() if entry["usable"]]
    return [entry for entry in entries if entry["isa"] != "portable"] or entries


def measure(kernel: _native.KernelEntry) -> Iterator[Measurement]:
    """One kernel on all matrices; the zeros of a dense one cost the same everywhere."""
    rng = np.random.default_rng(0)
    name = f"{kernel['arithmetic']} {kernel['name']}"
    for pattern in _PATTERNS[:1] if kernel["dense"] else _PATTERNS:
        for density in (_IN_TABLE,) if kernel["dense"] else pattern.densities:
            for inputs, outputs in _SHAPES:
                weights = _weights(rng, kernel, pattern, density, inputs, outputs)
                for tokens in _TOKENS:
                    x = rng.integers(0, 255, size=(tokens, inputs))
                    x = _codes(x, kernel["arithmetic"], _TYPES[kernel["arithmetic"]][0])
                    seconds, size = _time(kernel["name"], weights, x)
                    work = 2 * tokens * inputs * outputs / seconds / 1e9
                    size /= inputs * outputs
                    yield Measurement(
                        name, pattern.name, density, inputs, outputs, tokens, work, size
                    )


def summary(measurements: list[Measurement]) -> Iterator[Figure]:
    """The median over shapes, at one density; of blocks, for the kernels that are made for them."""
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    for m in measurements:
        meant = m.pattern == "single" or m.pattern.removeprefix("blocks of ") in m.kernel
        if m.density == _IN_TABLE and meant:
            groups.setdefault((m.kernel, m.pattern, m.tokens), []).append(m)
    for (kernel, pattern, tokens), members in groups.items():
        rates = [m.gflops for m in members]
        what = f"{kernel}, {pattern}, {tokens} tokens"
        spread = f"{min(rates):.0f} to {max(rates):.0f} by shape"
        yield Figure(what, f"{statistics.median(rates):.0f} GFLOP/s", spread, "")


def _weights(
    rng: np.random.Generator,
    kernel: _native.KernelEntry,
    pattern: Pattern,
    density: float,
    inputs: int,
    outputs: int,
) -> tuple[NDArray[Any], ...]:
    """A dense matrix, or compressed rows: what the kernel takes."""
    down, across = pattern.block
    mask = rng.random((outputs // down, inputs // across)) < density
    mask = mask.repeat(down, axis=0).repeat(across, axis=1)
    weights = rng.integers(1, 127, size=mask.shape) * mask
    weights = _codes(weights, kernel["arithmetic"], _TYPES[kernel["arithmetic"]][1])
    if kernel["dense"]:
        return (weights,)
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    return starts, np.nonzero(mask)[1].astype(np.int32), weights[mask]


def _codes(numbers: NDArray[Any], arithmetic: str, kind: type) -> NDArray[Any]:
    if arithmetic == "bf16":
        return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(kind)


def _time(kernel: str, weights: tuple[NDArray[Any], ...], x: NDArray[Any]) -> tuple[float, int]:
    """(least seconds, bytes of the layout)"""
    multiply: Any = partial(_native.multiply, kernel, *weights, x)
    _, seconds, _ = multiply(repeat=3)
    repeat = int(np.clip(_SECONDS / seconds, 3, 1000))
    _, seconds, size = multiply(repeat=repeat)
    return seconds, size


if __name__ == "__main__":
    run(__doc__, lambda options: None, kernels)
