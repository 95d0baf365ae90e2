"""Training steps in bf16 with PyTorch's fused attention against the plain one that training takes.

Masked language modelling in blocks of 128 tokens. Beyond 256 the fused one is taken in any case.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Run, Variant, call, measure
from benchmarks.workloads import mlm_run, prepare
from prunella.training import loop

_WARMUP = 2
_TURNS = 2


def attention(options: Options) -> list[Figure]:
    variants = [
        Variant("fused", _fused),
        Variant("plain", partial(mlm_run, pruned=False, precision="bf16")),
    ]
    measured = measure(options, variants, warmup=_WARMUP, turns=_TURNS, groups=options.groups)
    groups = measured.groups
    name = "attention in training, bf16: times faster than fused"
    comparison = Comparison.of(name, groups["fused"], groups["plain"])
    figures = [comparison.figure("> 1")]
    body = {"comparisons": [comparison.to_json()], "seconds_a_step": median_times(groups)}
    write_result("attention", figures, body, options)
    return figures


def _fused(options: Options, steps: int, folder: Path) -> Run:
    """A process of its own, so nobody else misses the attention that is taken away."""
    loop.cpu_attention = lambda model, bf16: nullcontext()
    return mlm_run(options, steps, folder, pruned=False, precision="bf16")


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), attention)
