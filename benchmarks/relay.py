"""Training runs that take turns: the real loop of each variant in a process of its own.

A variant's batch source waits at the end of each turn until it may go on, so that only one process
computes at a time, and what is compared lies close together in time: slow changes of the machine
(heat, other work) meet all variants alike. Nothing of the loop is replaced. It fetches one batch
ahead, so a turn is the time between the same point of two steps, all their parts included.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import Options, Time
from prunella.settings import TrainingSettings
from prunella.training.loop import BatchSource, Plan, train


@dataclass(frozen=True)
class Run:
    """What `train` takes, and seconds that the variant clocks itself by name."""

    model: nn.Module
    plan: Plan
    settings: TrainingSettings
    clocks: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One of the runs that are compared.

    `build` makes it: (options, steps, folder to work in) -> Run. `turn` is the number of its steps
    in a turn.
    """

    name: str
    build: Callable[[Options, int, Path], Run]
    turn: int = 1


@dataclass(frozen=True)
class Measured:
    """Seconds a step of each group of turns by variant, and the medians of the clocks."""

    groups: Mapping[str, Sequence[Time]]
    clocks: Mapping[str, Mapping[str, Sequence[float]]]


class _Finished(Exception):
    """All turns are taken: what follows the last one (a final state to save) is not measured."""


def measure(
    options: Options, variants: Sequence[Variant], *, warmup: int, turns: int, groups: int
) -> Measured:
    """Runs the variants in turns.

    Args:
        options: Handed to the builders.
        variants: What is compared.
        warmup: Steps before the first turn.
        turns: Turns in a group: enough that groups are alike.
        groups: Groups of turns; each gives one time.
    """
    runners = [_Runner(options, variant, warmup, turns * groups) for variant in variants]
    times: dict[str, list[Time]] = {variant.name: [] for variant in variants}
    for turn in range(turns * groups):
        # Back and forth: none is always the first.
        for runner in runners if turn % 2 == 0 else reversed(runners):
            times[runner.name].append(runner.take_turn())
    clocks = {runner.name: runner.close() for runner in runners}
    grouped = {
        name: [_mean(taken[i : i + turns]) for i in range(0, len(taken), turns)]
        for name, taken in times.items()
    }
    return Measured(grouped, clocks)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a fresh process and returns what it returns."""
    ours, theirs = _context().Pipe()
    process = _context().Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    return _receive(ours, function.__name__, close=process)


class _Runner:
    """A variant in its own process, warmed up and waiting for its turn."""

    def __init__(self, options: Options, variant: Variant, warmup: int, turns: int) -> None:
        self.name, self.turn = variant.name, variant.turn
        self.pipe, theirs = _context().Pipe()
        arguments = (theirs, options, variant, warmup, turns)
        self.process = _context().Process(target=_train, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        _receive(self.pipe, self.name)

    def take_turn(self) -> Time:
        self.pipe.send("go")
        wall, cpu = _receive(self.pipe, self.name)
        return Time(wall / self.turn, cpu / self.turn)

    def close(self) -> Mapping[str, Sequence[float]]:
        self.pipe.send("stop")
        return _receive(self.pipe, self.name, close=self.process)


@dataclass
class _Paced:
    """A batch source that stops at the end of every turn and waits for the next."""

    source: BatchSource
    pipe: Connection
    warmup: int
    turn: int
    turns: int
    begun: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> dict[str, Any]:
        done, rest = divmod(position - self.warmup, self.turn)
        if rest == 0 and done >= 0:
            self._hand_over(last=done == self.turns)
        return self.source[position]

    def _hand_over(self, *, last: bool) -> None:
        wall, cpu = _now()
        self.pipe.send((wall - self.begun[0], cpu - self.begun[1]) if self.begun else "ready")
        self.pipe.recv()
        if last:
            raise _Finished
        self.begun = _now()


def _train(pipe: Connection, options: Options, variant: Variant, warmup: int, turns: int) -> None:
    def body() -> Mapping[str, Sequence[float]]:
        # One more batch is fetched than steps are done.
        steps = warmup + turns * variant.turn + 1
        folder = options.folder / variant.name.replace(" ", "-")
        run = variant.build(options, steps, folder)
        paced = _Paced(run.plan.batches, pipe, warmup, variant.turn, turns)
        try:
            train(run.model, replace(run.plan, batches=paced), run.settings)
        except _Finished:
            return run.clocks
        raise RuntimeError(f"{variant.name}: training ended before its last turn")

    _answer(pipe, body, ())


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sys.stderr = sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115
    try:
        pipe.send(function(*arguments))
    except Exception:
        pipe.send(_Failure(traceback.format_exc()))


@dataclass(frozen=True)
class _Failure:
    text: str


def _receive(pipe: Connection, name: str, close: BaseProcess | None = None) -> Any:
    try:
        message = pipe.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process died") from None
    if isinstance(message, _Failure):
        raise RuntimeError(f"{name} failed:\n{message.text}")
    if close:
        close.join()
    return message


def _context() -> Any:
    """Forked, so that the libraries are imported once; the parent itself never computes."""
    return multiprocessing.get_context("fork")


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _mean(turns: Sequence[Time]) -> Time:
    return Time(
        sum(turn.wall for turn in turns) / len(turns), sum(turn.cpu for turn in turns) / len(turns)
    )
