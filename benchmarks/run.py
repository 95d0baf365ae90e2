"""All benchmarks, one table.

Writes a file of results for each, and speed.json with the table, from which
`python benchmarks/tables.py` makes those of the documents.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from benchmarks.attention import attention
from benchmarks.bf16 import bf16
from benchmarks.bucketing import bucketing
from benchmarks.cached_teacher import cached_teacher
from benchmarks.common import Figure, Options, run, write_result
from benchmarks.mask_step import mask_step
from benchmarks.memory import memory
from benchmarks.pruning_step import pruning_step
from benchmarks.relay import call
from benchmarks.workloads import prepare

_ALL = (pruning_step, cached_teacher, mask_step, bf16, attention, bucketing, memory)


def everything(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    seconds: dict[str, float] = {}
    for benchmark in _ALL:
        begun = time.monotonic()
        figures += benchmark(options)
        seconds[benchmark.__name__] = round(time.monotonic() - begun, 1)
        print(f"{benchmark.__name__}: {seconds[benchmark.__name__]:.0f} s", file=sys.stderr)
    write_result("speed", figures, {"seconds": seconds}, options)
    return figures


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), everything)
