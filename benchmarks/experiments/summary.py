"""From the results of single runs to figures of models: means over seeds and tasks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.experiments.matrix import Weights


class Arm(NamedTuple):
    """A model in one form."""

    model: str
    weights: Weights


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None of a single value) of `n` values."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of no values."""
        found = list(values)
        if not found:
            return None
        return cls(
            statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found)
        )


@dataclass(frozen=True)
class Difference:
    """An average over tasks of how one arm differs from another.

    `spread` is over the seeds that all of `tasks` have; its mean alone takes every seed there is.
    """

    spread: Spread
    tasks: tuple[str, ...]


class Scores:
    """The main metric of every run, times 100."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes the results of one matrix.

        Raises:
            ValueError: If two results of a task name different main metrics.
        """
        self.metrics: dict[str, str] = {}
        self.by_seed: dict[tuple[Arm, str], dict[int, float]] = {}
        for record in records:
            task, main = record["task"], record["main"]
            if self.metrics.setdefault(task, main) != main:
                raise ValueError(f"{record['name']}: scored by {main}, others by "
                                 f"{self.metrics[task]}")  # fmt: skip
            arm = Arm(record["model"], record["weights"])
            seeds = self.by_seed.setdefault((arm, task), {})
            seeds[record["seed"]] = 100 * record["metrics"][main]

    def of(self, arm: Arm, task: str) -> Mapping[int, float]:
        """Scores by seed."""
        return self.by_seed.get((arm, task), {})

    def spread(self, arm: Arm, task: str) -> Spread | None:
        """Over the seeds."""
        return Spread.of(self.of(arm, task).values())

    def tasks(self, arms: Sequence[Arm], among: Sequence[str]) -> tuple[str, ...]:
        """The tasks that all of the arms have results of."""
        return tuple(task for task in among if all(self.of(arm, task) for arm in arms))

    def averages(self, arms: Sequence[Arm], tasks: Sequence[str]) -> dict[Arm, Spread]:
        """The mean over tasks of each arm, over the seeds that every arm has of every task.

        So a seed that is kind to all of them, or to none, does not tell for one of them alone.
        """
        each = [set(self.of(arm, task)) for arm in arms for task in tasks]
        common = sorted(set.intersection(*each)) if each else []
        means = {
            arm: [statistics.fmean(self.of(arm, task)[seed] for task in tasks) for seed in common]
            for arm in arms
        }
        return {arm: spread for arm in arms if (spread := Spread.of(means[arm]))}

    def difference(
        self, arm: Arm, reference: Arm, among: Sequence[str], *, relative: bool
    ) -> Difference | None:
        """How an arm differs from another, on average over the tasks that both have.

        Args:
            arm: The one.
            reference: The other; runs of equal seed are compared.
            among: Tasks.
            relative: In per cent of the reference; otherwise in points.

        Returns:
            None if there is no task with a seed of both.
        """

        def by_seed(task: str) -> dict[int, float]:
            ours, theirs = self.of(arm, task), self.of(reference, task)
            return {
                seed: (100 * (ours[seed] / theirs[seed] - 1))
                if relative
                else ours[seed] - theirs[seed]
                for seed in ours.keys() & theirs.keys()
            }

        tasks = tuple(task for task in among if by_seed(task))
        if not tasks:
            return None
        found = [by_seed(task) for task in tasks]
        mean = statistics.fmean(statistics.fmean(values.values()) for values in found)
        common = sorted(set.intersection(*(set(values) for values in found)))
        over = Spread.of(statistics.fmean(values[seed] for values in found) for seed in common)
        spread = Spread(mean, over.deviation if over else None, over.n if over else 0)
        return Difference(spread, tasks)
