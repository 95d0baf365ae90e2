"""Workers that take turns, so that a machine that slows down slows all of them alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunella.bench.arms import Arm

# Rounds beyond which a median does not get better, and below which it means nothing.
_MOST_ROUNDS, _LEAST_ROUNDS = 300, 5
# An arm this much slower than the fastest of its kind after some rounds is out.
_HOPELESS, _RACE_ROUNDS = 1.25, 2
# An engine's idle threads may spin on for a while after a call; the next one should not pay for it.
_REST = 0.005
# A longer call finds no more of its data in the caches when others ran in between.
_WARM_BELOW = 0.1


class WorkerFailed(Exception):
    """An engine refused a model or a batch; the message is its own."""


@dataclass
class Worker:
    """An arm in its process."""

    arm: Arm
    process: subprocess.Popen[str]
    note: str = ""
    load_seconds: float = 0.0
    rss_before: int = 0

    def ask(self, order: dict[str, Any] | None = None) -> dict[str, Any]:
        """Sends an order, if any, and waits for the answer."""
        assert self.process.stdin and self.process.stdout
        try:
            if order is not None:
                self.process.stdin.write(json.dumps(order) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise WorkerFailed(f"its process ended (exit code {code})")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer


@dataclass
class Timing:
    """What an arm took for a workload: seconds of every round, and memory."""

    seconds: list[float] = field(default_factory=list)
    rss: int = 0


@contextmanager
def workers(arms: Sequence[Arm], threads: int) -> Iterator[tuple[list[Worker], dict[str, str]]]:
    """Workers of all arms, loaded, and why others could not be."""
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        running = []
        for arm in arms:
            worker = stack.enter_context(_worker(arm, threads))
            try:
                answer = worker.ask()
            except WorkerFailed as error:
                failed[arm.name] = str(error)
                continue
            worker.note, worker.load_seconds = answer["note"], answer["load_seconds"]
            worker.rss_before = answer["rss_before"]
            running.append(worker)
        yield running, failed


def rotate(
    running: Sequence[Worker], workload: Path, seconds: float, failed: dict[str, str]
) -> dict[Arm, Timing]:
    """Times a workload: in every round each arm once, one after another.

    Args:
        running: The workers.
        workload: File of its batches.
        seconds: Timed seconds for each arm, on average.
        failed: Takes the arms that refuse this workload, with their reason.

    Returns:
        Timings of all that finished; those dropped as hopeless have fewer rounds.
    """
    timings: dict[Arm, Timing] = {}
    racing = [w for w in running if _accepts(w, workload, failed)]
    for worker in racing:
        timings[worker.arm] = Timing()
    spent, rounds = 0.0, 0
    while racing and rounds < _MOST_ROUNDS:
        for worker in list(racing):
            timing = timings[worker.arm]
            warm = not timing.seconds or timing.seconds[-1] < _WARM_BELOW
            time.sleep(_REST)
            try:
                answer = worker.ask({"warm": warm})
            except WorkerFailed as error:
                failed[worker.arm.name] = str(error)
                racing.remove(worker)
                del timings[worker.arm]
                continue
            timing.seconds.append(answer["seconds"])
            timing.rss = max(timing.rss, answer["rss"])
            spent += answer["seconds"]
        rounds += 1
        if rounds == _RACE_ROUNDS:
            racing = _promising(racing, timings)
        if rounds >= _LEAST_ROUNDS and spent > seconds * len(racing):
            break
    return timings


def _promising(racing: Sequence[Worker], timings: dict[Arm, Timing]) -> list[Worker]:
    """Without the arms that another of the same engine and form leaves far behind."""
    best: dict[tuple[str, str], float] = {}
    for worker in racing:
        key = (worker.arm.engine, worker.arm.form)
        best[key] = min(best.get(key, float("inf")), min(timings[worker.arm].seconds))
    return [
        w
        for w in racing
        if min(timings[w.arm].seconds) <= _HOPELESS * best[(w.arm.engine, w.arm.form)]
    ]


def _accepts(worker: Worker, workload: Path, failed: dict[str, str]) -> bool:
    try:
        worker.ask({"workload": str(workload)})
    except WorkerFailed as error:
        failed[worker.arm.name] = str(error)
        return False
    return True


@contextmanager
def _worker(arm: Arm, threads: int) -> Iterator[Worker]:
    spec = {
        "engine": arm.engine,
        "file": str(arm.file),
        "threads": threads,
        "options": dict(arm.options),
    }
    # For the libraries that ask the environment, whatever their own settings say.
    few = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "prunella.bench.worker", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **few, "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        yield Worker(arm, process)
    finally:
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError):
            process.stdin.close()  # it ends by itself when it reads no more orders
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
