"""Training steps in bf16 with PyTorch's attention and dropout against those that training takes.

Masked language modelling in blocks of 128 tokens, with the model's own dropout of 0.1.
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
        Variant("pytorch", _pytorch),
        Variant("ours", partial(mlm_run, pruned=False, precision="bf16")),
    ]
    measured = measure(options, variants, warmup=_WARMUP, turns=_TURNS, groups=options.groups)
    groups = measured.groups
    name = "attention and dropout in training, bf16: times faster than PyTorch's"
    comparison = Comparison.of(name, groups["pytorch"], groups["ours"])
    figures = [comparison.figure("> 1")]
    body = {"comparisons": [comparison.to_json()], "seconds_a_step": median_times(groups)}
    write_result("attention", figures, body, options)
    return figures


def _pytorch(options: Options, steps: int, folder: Path) -> Run:
    """A process of its own, so nobody else misses what is taken away."""
    loop.cpu_attention = lambda model, bf16: nullcontext()
    loop.cpu_dropout = lambda model: nullcontext()
    return mlm_run(options, steps, folder, pruned=False, precision="bf16")


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), attention)
