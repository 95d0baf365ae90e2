"""One engine in a process of its own: `python -m prunella.bench.worker SPEC`.

It obeys lines of JSON on standard input and answers each with a line on its standard output: it
computes only when it is told to, so that engines take turns.

{"workload": FILE}   reads batches and makes their inputs ready
{"warm": true}       runs them once beforehand
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Loads what SPEC says, then answers until standard input ends."""
    answers = _own_output()
    spec = json.loads(sys.argv[1])
    try:
        _serve(spec, sys.stdin, answers)
    except Exception as error:  # whatever a library raises is the parent's to report
        reason = next(iter(str(error).strip().splitlines()), "")
        _answer(answers, {"error": f"{type(error).__name__}: {reason}"})


def _serve(spec: dict[str, Any], orders: TextIO, answers: TextIO) -> None:
    from prunella.bench.engines import load
    from prunella.bench.workloads import load_batches

    before, begun = resident(), time.perf_counter()
    loaded = load(spec["engine"], Path(spec["file"]), spec["threads"], spec["options"])
    seconds = time.perf_counter() - begun
    _answer(answers, {"note": loaded.note, "load_seconds": seconds, "rss_before": before})
    calls: list[Callable[[], Any]] = []
    for line in orders:
        order = json.loads(line)
        if "workload" in order:
            calls = [loaded.prepare(batch) for batch in load_batches(Path(order["workload"]))]
            for call in calls:  # first calls choose kernels and reserve memory
                call()
            _answer(answers, {})
        else:
            if order["warm"]:
                for call in calls:
                    call()
            begun = time.perf_counter()
            for call in calls:
                call()
            seconds = time.perf_counter() - begun
            _answer(answers, {"seconds": seconds, "rss": resident()})


def resident() -> int:
    """Bytes of memory that this process holds now (where /proc tells), else at most."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _own_output() -> TextIO:
    """Standard output for answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
