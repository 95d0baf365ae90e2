"""A step of `mask` against a step of plain fine-tuning.

Labelled rows without a teacher, which would only dilute what masks add: dL/dm is made of dL/dw, the
scores are stepped, and masks are chosen anew every 0.5 % of the steps. The backbone's embeddings
and biases are frozen, which plain fine-tuning trains.
"""

from __future__ import annotations

from functools import partial

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Variant, call, measure
from benchmarks.workloads import prepare, task_run

_WARMUP = 6
_TURNS = 5
_ROWS = 4000
_AIM = 1.25


def mask_step(options: Options) -> list[Figure]:
    variants = [
        Variant("plain", partial(task_run, rows=_ROWS)),
        Variant("mask", partial(task_run, rows=_ROWS, masked=True)),
    ]
    measured = measure(options, variants, warmup=_WARMUP, turns=_TURNS, groups=options.groups)
    groups = measured.groups
    comparison = Comparison.of("step of mask / of fine-tuning", groups["mask"], groups["plain"])
    figures = [comparison.figure(f"<= {_AIM}")]
    body = {"comparisons": [comparison.to_json()], "seconds_a_step": median_times(groups)}
    write_result("mask-step", figures, body, options)
    return figures


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), mask_step)
