"""Training steps in fp32 against bf16 autocast.

Masked language modelling; bf16 is what `--precision auto` takes where the processor has
instructions for it.
"""

from __future__ import annotations

from functools import partial

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Variant, call, measure
from benchmarks.workloads import mlm_run, prepare

_WARMUP = 2
_TURNS = 2


def bf16(options: Options) -> list[Figure]:
    variants = [
        Variant("fp32", partial(mlm_run, pruned=False, precision="fp32")),
        Variant("bf16", partial(mlm_run, pruned=False, precision="bf16")),
    ]
    measured = measure(options, variants, warmup=_WARMUP, turns=_TURNS, groups=options.groups)
    groups = measured.groups
    comparison = Comparison.of("bf16 autocast: times faster", groups["fp32"], groups["bf16"])
    figures = [comparison.figure("about 2")]
    body = {"comparisons": [comparison.to_json()], "seconds_a_step": median_times(groups)}
    write_result("bf16", figures, body, options)
    return figures


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), bf16)
