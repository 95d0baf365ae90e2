"""The engine under many threads, after forks, and through many lives."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed.models import WORDS, tiny_model

from prunella.engine.compiled import CompiledModel, compile_model
from prunella.errors import InputError
from prunella.packed.read import PackedFile, read_packed
from prunella.packed.write import assemble

FORKS = 150
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and forks")
Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def tiny(family: str, kind: Any = "int8") -> PackedFile:
    content = tiny_model(family, "SequenceClassification", kind)
    return read_packed(b"".join(assemble(*content)), Path("tiny.prn"))


def batch(sequences: int = 9) -> Batch:
    """Sequences of 1 to 24 tokens."""
    rng = np.random.default_rng(sequences)
    lengths = rng.integers(1, 24, sequences).astype(np.int32)
    ids = rng.integers(0, WORDS, lengths.sum()).astype(np.int32)
    return ids, np.zeros_like(ids), lengths, (np.cumsum(lengths) - lengths).astype(np.int32)


def together(works: list[Callable[[], None]], seconds: float = 60) -> None:
    """Runs them all at once; what one raises is raised here, and so is that they hang."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(w,), daemon=True) for w in works]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads), "they hang"


def test_models_of_their_own_under_many_threads() -> None:
    """Two families, two arithmetics, thread counts below and above the cores, batches of all sizes."""
    runners = [
        compile_model(tiny("bert"), 2),
        compile_model(tiny("distilbert", "bf16"), 3),
        compile_model(tiny("roberta", "fp32"), 4 * (os.cpu_count() or 1)),
    ]
    batches = [batch(n) for n in (1, 2, 30)]
    expected = [[runner.run(*given) for given in batches] for runner in runners]

    def work(number: int) -> None:
        for i in range(30):
            model, given = (number + i) % len(runners), (number * i) % len(batches)
            found = runners[model].run(*batches[given])
            np.testing.assert_array_equal(found, expected[model][given])

    together([lambda n=n: work(n) for n in range(8)])


def test_other_threads_go_on_during_a_run() -> None:
    runner, given = compile_model(tiny("bert"), 1, isa="portable"), batch(4000)
    runner.run(*given)
    done, rounds = threading.Event(), 0

    def run() -> None:
        try:
            for _ in range(5):
                runner.run(*given)
        finally:
            done.set()

    # A thread gets the GIL back from one that computes in Python after this long only.
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        while not done.is_set():
            rounds += 1
            time.sleep(0.0005)
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert rounds > 20  # with the GIL held it would be five or so


def test_more_threads_than_there_are_tasks() -> None:
    one, many = (
        compile_model(tiny("bert"), 1, "portable"),
        compile_model(tiny("bert"), 64, "portable"),
    )
    for sequences in (1, 5, 200):
        given = batch(sequences)
        np.testing.assert_array_equal(one.run(*given), many.run(*given))


def test_too_many_threads_are_refused() -> None:
    with pytest.raises(InputError, match="1024 threads"):
        compile_model(tiny("bert"), 100_000)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Ends this process, a forked child, if it hangs."""
    signal.alarm(seconds)
    yield
    signal.alarm(0)


def fork_and(work: Callable[[], bool]) -> int:
    """Forks; the child's exit status: 0 if `work` was true there, minus a signal if one ended it."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks in a process with threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            with within(20):
                status = 0 if work() else 2
        finally:
            os._exit(status)  # neither pytest's nor anybody else's clean-up
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(runner: CompiledModel, given: Batch, expected: np.ndarray) -> bool:
    return np.array_equal(runner.run(*given), expected)


@linux
def test_a_forked_child_computes_the_same() -> None:
    runner, given = compile_model(tiny("bert"), 3), batch()
    expected = runner.run(*given)
    for _ in range(3):
        assert fork_and(lambda: same(runner, given, expected)) == 0
    assert fork_and(lambda: fork_and(lambda: same(runner, given, expected)) == 0) == 0
    assert same(runner, given, expected)


@linux
def test_many_threads_of_a_forked_child() -> None:
    """All find the parent's state at once; one of them puts it right."""
    runner, given = compile_model(tiny("bert"), 2), batch()
    expected = runner.run(*given)

    def work() -> bool:
        barrier = threading.Barrier(6)

        def one() -> None:
            barrier.wait()
            for _ in range(5):
                assert same(runner, given, expected)

        together([one] * 6, seconds=15)
        return True

    for _ in range(5):
        assert fork_and(work) == 0


@linux
def test_a_fork_in_the_middle_of_a_run() -> None:
    """A thread is inside run(), its lock held and its buffers growing, whenever the fork comes."""
    small, large = batch(3), batch(60)
    busy, stop = compile_model(tiny("bert"), 2), threading.Event()
    expected = busy.run(*small)

    def run() -> None:
        while not stop.is_set():
            busy.run(*large)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(FORKS):
            time.sleep(0.0007 * (i % 7))
            assert fork_and(lambda: same(busy, small, expected)) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert same(busy, small, expected)


@linux
def test_a_child_may_drop_the_model_unused() -> None:
    runner, given = [compile_model(tiny("bert"), 3)], batch()
    runner[0].run(*given)

    def drop() -> bool:
        runner.clear()
        gc.collect()
        return True

    assert fork_and(drop) == 0
    assert runner[0].run(*given).shape == (len(given[2]), 3)


@linux
def test_a_pool_of_forked_processes() -> None:
    import multiprocessing

    global _shared
    given = batch()
    _shared = (compile_model(tiny("bert"), 2), given)
    expected = _shared[0].run(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(_in_child, range(6)).get(timeout=60)
    for outputs in found:
        np.testing.assert_array_equal(outputs, expected)


_shared: tuple[CompiledModel, Batch]


def _in_child(_: int) -> np.ndarray:
    runner, given = _shared
    return runner.run(*given)


def task_count() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@linux
def test_models_come_and_go_without_a_trace() -> None:
    packed, given = tiny("bert"), batch()

    def live(times: int) -> None:
        for _ in range(times):
            compile_model(packed, 4).run(*given)
        gc.collect()

    live(20)
    threads, memory = task_count(), resident()
    live(100)
    assert task_count() == threads
    assert resident() - memory < 8 << 20, "models leak memory"


@linux
def test_a_model_ends_while_its_threads_sleep_or_spin() -> None:
    packed, given = tiny("bert"), batch()
    before = task_count()
    for pause in (0, 0.00003, 0.0001, 0.01):
        for _ in range(20):
            runner = compile_model(packed, 3)
            runner.run(*given)
            time.sleep(pause)
            del runner
    assert task_count() == before


def test_rounds_after_pauses_of_all_lengths() -> None:
    """Threads of the pool are met spinning, asleep, and in between."""
    runner, given = compile_model(tiny("bert"), 4, "portable"), batch(2)
    expected = runner.run(*given)
    rng = np.random.default_rng(0)
    for pause in rng.uniform(0, 0.0003, 400):
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass
        np.testing.assert_array_equal(runner.run(*given), expected)
