"""A training step with pruning against the same step without.

Masked language modelling without a teacher, the cheapest step that pruning can burden: zeros are
put back into weights and gradients at every step, masks are chosen anew every --update-every steps.
A group of steps holds one such choice.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.common import Comparison, Figure, Options, median_times, run, write_result
from benchmarks.relay import Variant, call, measure
from benchmarks.workloads import mlm_run, prepare

_WARMUP = 4
_AIM = 1.02


def pruning_step(options: Options) -> list[Figure]:
    variants = [
        Variant("plain", partial(mlm_run, pruned=False)),
        Variant("pruning", partial(mlm_run, pruned=True)),
    ]
    measured = measure(
        options, variants, warmup=_WARMUP, turns=options.update_every, groups=options.groups
    )
    groups = measured.groups
    comparison = Comparison.of("training step with pruning", groups["pruning"], groups["plain"])
    parts = _parts(measured.clocks["pruning"], options.update_every)
    step = statistics.median(time.wall for time in groups["plain"])
    direct = 1 + sum(parts.values()) / step
    figures = [
        comparison.figure(f"<= {_AIM}"),
        Figure("… by clocking its parts", f"{direct:.3f}", _spell(parts), f"<= {_AIM}"),
    ]
    body = {
        "comparisons": [comparison.to_json()],
        "by_parts": direct,
        "seconds_a_step": median_times(groups),
        "seconds_a_step_of_parts": parts,
    }
    write_result("pruning-step", figures, body, options)
    return figures


def _parts(clocks: Mapping[str, Sequence[float]], update_every: int) -> dict[str, float]:
    """Seconds a step that each part of pruning takes; a choice is shared out over its steps."""
    return {
        "zero weights": statistics.median(clocks["zero_weights"]),
        "zero gradients": statistics.median(clocks["zero_gradients"]),
        "choice of masks": statistics.median(clocks["choice"]) / update_every,
    }


def _spell(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in parts.items())


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), pruning_step)
