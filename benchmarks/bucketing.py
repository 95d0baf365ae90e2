"""Fine-tuning steps padded to the maximum length against batches of like length.

Without --data, the phrases have the lengths of those of SST-2. A group is one epoch of the bucketed
batches, and a sample of the padded ones, which are all of one size.
"""

from __future__ import annotations

from functools import partial

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Variant, call, measure
from benchmarks.workloads import prepare, task_run

_BATCH = 32
_TURN = 8  # bucketed batches for one padded
_TURNS = 6


def bucketing(options: Options) -> list[Figure]:
    build = partial(task_run, rows=_BATCH * _TURN * _TURNS)
    variants = [
        Variant("padded", partial(build, bucket=False)),
        Variant("bucketed", build, turn=_TURN),
    ]
    groups = max(1, options.groups // 2)
    measured = measure(options, variants, warmup=2, turns=_TURNS, groups=groups)
    times = measured.groups
    comparison = Comparison.of(
        "batches bucketed by length: times faster", times["padded"], times["bucketed"]
    )
    figures = [comparison.figure(">= 2")]
    body = {
        "comparisons": [comparison.to_json()],
        "seconds_a_step": median_times(times),
        "batch_size": _BATCH,
        "max_length": 128,
    }
    write_result("bucketing", figures, body, options)
    return figures


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), bucketing)
