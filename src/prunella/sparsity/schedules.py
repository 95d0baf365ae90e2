"""When and how much: sparsity over steps, and the learning rate that goes with it.

Both are pure functions of the step, so a resumed run needs no state of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PruningSchedule:
    """Gradual pruning in optimiser steps (Zhu & Gupta 2017; Prune OFA, section 3.2).

    Sparsity grows cubically over [start, growth_end]; until `freeze` the masks may still move at
    the final sparsity; from `freeze` to `total` they are fixed. Masks change every `every` steps.
    For the first `still` steps the learning rate is 0, while a score gathers what it needs. No
    choice comes nearer than `apart` steps to that at growth_end or freeze, or a score that sees a
    window would choose masks, the final ones perhaps, by the few steps between the two.
    """

    initial: float
    final: float
    start: int
    growth_end: int
    freeze: int
    total: int
    every: int
    still: int = 0
    apart: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.growth_end <= self.freeze <= self.total:
            raise ValueError(f"windows out of order: {self}")
        if not 0 <= self.initial <= self.final < 1 or self.every < 1:
            raise ValueError(f"sparsities or interval out of range: {self}")

    def sparsity(self, step: int, final: float | None = None) -> float:
        """s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3, clamped to [t0, t1].

        Args:
            step: t.
            final: Another s_f than that of the schedule; s_i is no greater.
        """
        final = self.final if final is None else final
        initial = min(self.initial, final)
        if step >= self.growth_end:
            return final
        if step <= self.start:
            return initial
        progress = (step - self.start) / (self.growth_end - self.start)
        return final + (initial - final) * (1 - progress) ** 3

    def updates_at(self, step: int) -> bool:
        """Whether the masks are chosen anew after optimiser step `step` (counted from 1).

        The ends of both windows count whatever the interval, so that the final sparsity is reached
        exactly.
        """
        if not self.start < step <= self.freeze:
            return False
        if step in self._ends:
            return True
        on_interval = (step - self.start) % self.every == 0
        return on_interval and all(abs(end - step) >= self.apart for end in self._ends)

    def next_update(self, step: int) -> int | None:
        """The next step from `step` on after which masks are chosen; None if there is none."""
        step = max(step, self.start + 1)
        if step > self.freeze:
            return None
        on_interval = self.start + -(-(step - self.start) // self.every) * self.every
        while on_interval < self.freeze and not self.updates_at(on_interval):
            on_interval += self.every
        return min([on_interval, *(end for end in self._ends if end >= step)])

    @property
    def _ends(self) -> tuple[int, ...]:
        """Of growth, unless the other is near, and of all choices."""
        near = 0 < self.freeze - self.growth_end < self.apart
        return (self.freeze,) if near else (self.growth_end, self.freeze)

    def last_rewind(self, step: int) -> int:
        """The last step up to `step` at which the learning rate's decay was reset."""
        if step <= self.start:
            return step
        if step >= self.growth_end:
            return self.growth_end
        return self.start + (step - self.start) // self.every * self.every


def linear_factor(step: int, warmup: int, total: int) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to 0 at `total`; never above 1."""
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def rewound_factor(step: int, warmup: int, schedule: PruningSchedule) -> float:
    """Linear decay whose clock is reset at every pruning step while sparsity grows.

    The factor stays near its peak during growth, then decays once, linearly, to 0 over what
    remains (learning-rate rewinding; Prune OFA, section 3.2). It never exceeds 1. Each decay heads
    for 0 at the end of training, so it stays slow whatever the growth leaves of the run.
    """
    if step < schedule.still:
        return 0.0
    if schedule.still:
        return linear_factor(step - schedule.still, warmup, schedule.total - schedule.still)
    if step < warmup:
        return step / warmup
    reset = max(schedule.last_rewind(step), warmup)
    return max(0.0, (schedule.total - step) / max(1, schedule.total - reset))
