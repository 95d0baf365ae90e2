"""bench: a packed file in this engine and in others, dense and sparse, in one run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from prunella.bench import table
from prunella.bench.arms import (
    ENGINE_NAMES,
    FORMS,
    Arm,
    Files,
    arms_of,
    check_same_shape,
    chosen,
    cpu_flags,
    default_forms,
    missing_for,
)
from prunella.bench.rotation import rotate, workers
from prunella.bench.table import Measurement, measurements
from prunella.bench.workloads import (
    Workload,
    equal_lengths,
    parse_shapes,
    read_texts,
    save_workload,
    text_batches,
)
from prunella.checkpoint import machine, versions, write_json
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.packed.backbone import check_whole
from prunella.packed.read import PackedFile, open_packed
from prunella.report.tables import human_bytes
from prunella.settings import BenchSettings

_PEERS = ("onnxruntime", "openvino", "onnx", "torch")
# What decides which kernels run, among the many names a processor has.
_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_SETS += ("amx_tile", "asimd", "asimddp", "i8mm", "bf16", "sve")


@dataclass(frozen=True)
class Benchmark:
    """All that was measured, and on what."""

    model: str
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    environment: dict[str, Any]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "measurements": [m.to_json() for m in self.measurements],
            "notes": list(self.notes),
            "settings": self.settings,
            "environment": self.environment,
        }

    def show(self, console: Console) -> None:
        """Prints the tables."""
        table.show(console, self.measurements, self.notes)


def bench(settings: BenchSettings) -> Benchmark:
    """Measures a packed model in every engine that is installed.

    Raises:
        InputError: If the file is damaged, a setting has no meaning, or no engine can run.
    """
    packed = open_packed(settings.model)
    check_whole(packed)
    forms = chosen(settings.arms, FORMS, "--arms") if settings.arms else list(default_forms())
    threads = _thread_counts(settings.threads)
    engines, notes = _engines(settings)
    out = _free_place(settings)
    dense = fetch(settings.dense) if settings.dense else None
    if dense is not None:
        check_same_shape(packed.path, dense.path)
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="prunella-bench-") as folder:
        place = Path(folder)
        loads = [
            (load, place / f"{number}.npz")
            for number, load in enumerate(_workloads(settings, packed))
        ]
        for load, file in loads:
            save_workload(load, file)
        _say("preparing the model for each engine")
        files = Files(packed.path, dense.path if dense else None, place)
        arms = [arm for engine in engines for form in forms for arm in arms_of(engine, form, files)]
        _check_memory(arms)
        for count in threads:
            found += _measure(arms, count, loads, settings.seconds, notes)
    if not found:
        raise InputError("nothing could be measured: " + "; ".join(notes))
    done = Benchmark(
        packed.path.name,
        tuple(found),
        tuple(dict.fromkeys(notes)),
        _environment(),
        settings.model_dump(mode="json", exclude={"model", "out", "overwrite"}),
    )
    if out is not None:
        write_json(out, done.to_json())
    return done


def _measure(
    arms: Sequence[Arm],
    threads: int,
    loads: Sequence[tuple[Workload, Path]],
    seconds: float,
    notes: list[str],
) -> list[Measurement]:
    """All workloads with one count of threads; the engines stay loaded throughout."""
    found: list[Measurement] = []
    with ExitStack() as stack:
        running, failed = stack.enter_context(workers(arms, threads))
        about = {worker.arm: worker.note for worker in running}
        before = {worker.arm: worker.rss_before for worker in running}
        for load, file in loads:
            _say(f"{load.name}, {threads} thread{'s' * (threads > 1)}: {len(running)} in rotation")
            timings = rotate(running, file, seconds, failed)
            found += measurements(load, threads, timings, about, before)
        notes += [f"{name}: left out ({reason})" for name, reason in failed.items()]
    return found


def _workloads(settings: BenchSettings, packed: PackedFile) -> list[Workload]:
    config = json.loads(packed.files["config.json"])
    vocabulary = int(config["vocab_size"])
    positions = _positions(config)
    loads = []
    for count, length in parse_shapes(settings.shapes):
        if length > positions:
            raise InputError(f"--shapes: {length} tokens, but the model has {positions} positions")
        name = f"{count}x{length}"
        loads.append(equal_lengths(name, [(count, length)], vocabulary))
    if settings.texts:
        rows = read_texts(Path(settings.texts), settings.batch * settings.batches)
        tokenizer = Tokenizer.from_buffer(packed.files["tokenizer.json"])
        longest = min(positions, settings.max_length)
        mixed = text_batches("texts", rows, tokenizer, settings.batch, longest)
        shapes = [(len(b.lengths), int(b.lengths.max())) for b in mixed.batches]
        loads += [mixed, equal_lengths("texts, made equal", shapes, vocabulary)]
    if not loads:
        raise InputError("nothing to measure: give --shapes or --texts")
    return loads


def _positions(config: dict[str, Any]) -> int:
    """Tokens that a model takes at most; RoBERTa's like begin behind the padding index."""
    positions = int(config["max_position_embeddings"])
    behind = config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return positions - int(config.get("pad_token_id") or 0) - 1 if behind else positions


def _engines(settings: BenchSettings) -> tuple[list[str], list[str]]:
    """The engines that can run, and a note on each of the others."""
    engines, notes = [], []
    for engine in chosen(settings.engines, ENGINE_NAMES, "--engines"):
        reason = missing_for(engine)
        if reason:
            notes.append(f"{engine}: left out ({reason})")
        else:
            engines.append(engine)
    if not engines:
        raise InputError("no engine can run: " + "; ".join(notes))
    return engines, notes


def _thread_counts(text: str) -> list[int]:
    items = text.replace(",", " ").split()
    if not items or not all(item.isdigit() and int(item) for item in items):
        raise InputError(f"--threads {text}: expected counts between commas, such as 1,2")
    return [int(item) for item in items]


def _free_place(settings: BenchSettings) -> Path | None:
    if settings.out is None:
        return None
    out = Path(settings.out)
    if out.exists() and not settings.overwrite:
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: its folder does not exist")
    return out


def _check_memory(arms: Sequence[Arm]) -> None:
    """Refuses to load more than the machine holds: engines that swap measure the disk."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return
    line = next(x for x in info.read_text().splitlines() if x.startswith("MemAvailable"))
    free = int(line.split()[1]) * 1024
    # Engines keep their own copy of the weights, some of them a second one for a while.
    need = sum(2 * _bytes(arm.file) + 150_000_000 for arm in arms)
    if need > free:
        raise InputError(
            f"{len(arms)} engines side by side would need about {human_bytes(need)} of memory, "
            f"{human_bytes(free)} are free; choose fewer --engines or --arms"
        )


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir())


def _environment() -> dict[str, Any]:
    found = versions()
    for package in _PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": machine(),
        "instruction_sets": [name for name in _SETS if name in cpu_flags()],
        "isa": os.environ.get("PRUNELLA_ISA"),
        "versions": found,
        "load_average": os.getloadavg()[0],
    }


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, style="dim")
