"""Milliseconds of the starting checkpoints of a matrix in this engine, packed, one after another.

A fine-tuned model has the shape and the zeros of the checkpoint that it started from, so its time
is the same; the task's head is left out. The models take turns, so that a machine that slows down
slows all of them. Run it while nothing else runs. By default with every instruction set that this
machine has, as what zeros save depends on what a dense product costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import environment
from benchmarks.experiments.cell import models_of
from benchmarks.experiments.matrix import Weights, load_matrix, names
from benchmarks.experiments.records import RESULTS
from benchmarks.experiments.times import times_path
from prunella.bench.workloads import equal_lengths
from prunella.checkpoint import write_json
from prunella.engine.compiled import compile_model, usable_isas
from prunella.errors import InputError
from prunella.packed.read import open_packed
from prunella.packing import pack
from prunella.settings import PackSettings

_WARM_UP = 5


def measure(
    folders: Mapping[str, str],
    weights: Weights,
    isas: Sequence[str],
    lengths: Sequence[int],
    threads: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Times of one forward pass of one sequence, a row a model, instruction set and length."""
    with tempfile.TemporaryDirectory(prefix="prunella-latency-") as folder:
        calls: dict[tuple[str, str, int], Callable[[], Any]] = {}
        for name, model in folders.items():
            file = Path(folder) / f"{name}.prn"
            pack(PackSettings(model=model, out=str(file), weights=weights))
            for isa in isas:
                calls |= {(name, isa, n): call for n, call in _calls(file, isa, lengths, threads)}
        seconds: dict[tuple[str, str, int], list[float]] = {case: [] for case in calls}
        for number in range(_WARM_UP + rounds):
            for case, call in calls.items():
                begun = time.perf_counter()
                call()
                if number >= _WARM_UP:
                    seconds[case].append(time.perf_counter() - begun)
    return [
        {
            "model": name,
            "weights": weights,
            "isa": isa,
            "length": length,
            "median": 1000 * statistics.median(times),
            "quartiles": [1000 * q for q in statistics.quantiles(times, n=4)[::2]],
        }
        for (name, isa, length), times in seconds.items()
    ]


def _calls(
    file: Path, isa: str, lengths: Sequence[int], threads: int
) -> Iterator[tuple[int, Callable[[], Any]]]:
    packed = open_packed(file)
    runner = compile_model(packed, threads, isa=isa, weights=None)
    words = json.loads(packed.files["config.json"])["vocab_size"]
    for length in lengths:
        batch = equal_lengths("latency", [(1, length)], words).batches[0]
        yield length, partial(runner.hidden_states, batch.ids, batch.types, batch.lengths)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.latency", description=__doc__
    )
    parser.add_argument("matrix", choices=names())
    parser.add_argument(
        "--models", required=True, help="YAML file: name of a checkpoint: its folder"
    )
    parser.add_argument(
        "--length",
        type=int,
        nargs="+",
        default=[32, 128],
        help="tokens of the text; several in turn (default: 32 128)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=100, help="calls of each (default: 100)")
    isas = [isa for isa in usable_isas() if isa != "portable"] or usable_isas()
    parser.add_argument(
        "--isa",
        action="append",
        choices=usable_isas(),
        help="this instruction set; may be repeated",
    )
    parser.add_argument("--results", default=str(RESULTS), help="folder of the result files")
    given = parser.parse_args()
    try:
        matrix, known = load_matrix(given.matrix), models_of(given.models)
        starts = dict.fromkeys(entry.start for entry in matrix.models.values())
        folders = {n: known[n] for n in starts if n in known and Path(known[n]).is_dir()}
        for name in [name for name in starts if name not in folders]:
            print(f"left out: {name}, there is no folder of it", file=sys.stderr)
        rows = []
        for weights in matrix.weights:
            asked = (given.isa or isas[::-1], given.length, given.threads, given.rounds)
            rows += measure(folders, weights, *asked)
            gc.collect()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    measured = environment()
    machine = measured["machine"]["processor"]
    path = times_path(Path(given.results), given.matrix, machine, usable_isas())
    lengths = " ".join(map(str, given.length))
    document = {
        "name": path.stem,
        "command": f"python -m benchmarks.experiments.latency {given.matrix} --models MODELS.yaml "
        f"--length {lengths} --threads {given.threads} --rounds {given.rounds}",
        "threads": given.threads,
        "rows": rows,
        "environment": measured,
    }
    write_json(path, document)
    for row in rows:
        low, high = row["quartiles"]
        times = f"{row['median']:7.3f} ms ({low:.3f} to {high:.3f})"
        print(f"{row['model']:<24} {row['weights']} {row['isa']:<8} {row['length']:>4} {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
