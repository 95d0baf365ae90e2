"""Distillation with cached teacher outputs against plain fine-tuning.

The first pass over the rows fills the cache and is not measured; all variants see the same batches.
"""

from __future__ import annotations

from functools import partial

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Variant, call, measure
from benchmarks.workloads import prepare, task_run
from prunella.settings import DistillationSettings

_BATCH = 32
_BATCHES = 16  # in an epoch, and in a group
_DEFAULT = DistillationSettings(logits=0.5, hidden=0.5)
_LOGITS = DistillationSettings(logits=0.5)


def cached_teacher(options: Options) -> list[Figure]:
    build = partial(task_run, rows=_BATCH * _BATCHES)
    variants = [
        Variant("plain", build),
        Variant("logits", partial(build, signals=_LOGITS)),
        Variant("logits and hidden states", partial(build, signals=_DEFAULT)),
        Variant("without a cache", partial(build, signals=_DEFAULT, cached=False)),
    ]
    measured = measure(
        options, variants, warmup=_BATCHES + 2, turns=_BATCHES, groups=options.groups
    )
    groups = measured.groups
    comparisons = [
        Comparison.of(f"distillation, {name}", groups[name], groups["plain"])
        for name in groups
        if name != "plain"
    ]
    aims = ["<= 1.05", "<= 1.05", "–"]
    figures = [each.figure(aim) for each, aim in zip(comparisons, aims, strict=True)]
    body = {
        "comparisons": [each.to_json() for each in comparisons],
        "seconds_a_step": median_times(groups),
        "batch_size": _BATCH,
    }
    write_result("cached-teacher", figures, body, options)
    return figures


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), cached_teacher)
