"""What all benchmarks share: options, ratios of paired times, result files."""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import print as show

from prunella.checkpoint import machine, versions, write_json
from prunella.report.tables import Column
from prunella.report.terminal import table


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Options:
    """What can be chosen of every benchmark, and the folder they work in."""

    model: str | None = _option(None, "checkpoint folder; otherwise random weights of --shape")
    shape: str = _option("small", "a random BERT: small (6 x 384), base (12 x 768), tiny (a trial)")
    data: str | None = _option(None, "labelled rows (csv, jsonl, ...); otherwise made phrases")
    threads: int = _option(os.cpu_count() or 1, "threads; only one process computes at a time")
    tokens: int = _option(4096, "tokens in a micro-batch of masked language modelling")
    update_every: int = _option(10, "steps between choices of masks (`prune`: a 100th of all)")
    groups: int = _option(4, "paired comparisons, of whose ratios the median counts")
    results: str = _option(str(Path(__file__).parent / "results"), "folder of the result files")
    folder: Path = Path()


@dataclass(frozen=True)
class Figure:
    """One line of the final table: a measured value beside its aim."""

    what: str
    value: str
    spread: str
    aim: str


@dataclass(frozen=True)
class Time:
    """Seconds a step: by the clock on the wall, and of all processor cores together."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Ratio:
    """One variant's time over another's, by neighbouring groups of steps."""

    groups: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.groups)

    def to_json(self) -> dict[str, Any]:
        low, high = min(self.groups), max(self.groups)
        return {"median": self.median, "min": low, "max": high, "groups": self.groups}


@dataclass(frozen=True)
class Comparison:
    """Two variants that took turns: ratios of their times on the wall and of processor time."""

    what: str
    wall: Ratio
    cpu: Ratio

    @classmethod
    def of(cls, what: str, over: Sequence[Time], under: Sequence[Time]) -> Comparison:
        pairs = list(zip(over, under, strict=True))
        wall, cpu = (a.wall / b.wall for a, b in pairs), (a.cpu / b.cpu for a, b in pairs)
        return cls(what, Ratio(tuple(wall)), Ratio(tuple(cpu)))

    def figure(self, aim: str) -> Figure:
        low, high = min(self.wall.groups), max(self.wall.groups)
        spread = f"{low:.3f} to {high:.3f}; CPU time {self.cpu.median:.3f}"
        return Figure(self.what, f"{self.wall.median:.3f}", spread, aim)

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "wall": self.wall.to_json(), "cpu": self.cpu.to_json()}


def median_times(times: Mapping[str, Sequence[Time]]) -> dict[str, dict[str, float]]:
    """The median seconds a step of each variant."""
    return {
        name: {
            "wall": statistics.median(time.wall for time in groups),
            "cpu": statistics.median(time.cpu for time in groups),
        }
        for name, groups in times.items()
    }


def write_result(
    name: str, figures: Sequence[Figure], body: Mapping[str, Any], options: Options
) -> None:
    """Writes NAME.json: the figures, all that was measured, and what it was measured on."""
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "command": command(),
        "rows": [asdict(figure) for figure in figures],
        **body,
        "options": _given(options),
        "environment": environment(),
    }
    write_json(folder / f"{name}.json", document)


def environment() -> dict[str, Any]:
    """Machine and versions, and how busy the machine was: a ratio bears load, a time does not."""
    return {
        "machine": machine(),
        "versions": versions(),
        "load_average": os.getloadavg()[0],
        "date": datetime.now(UTC).date().isoformat(),
    }


def command() -> str:
    """How to repeat this run; of paths only the names, as folders say nothing to a reader."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def print_figures(figures: Sequence[Figure], title: str) -> None:
    """Prints the table of what was measured."""
    columns = [Column("what"), Column("measured", numeric=True), Column("spread"), Column("aim")]
    show(table(columns, [[f.what, f.value, f.spread, f.aim] for f in figures], title))


def run(
    about: str | None,
    prepare: Callable[[Options], None],
    measure: Callable[[Options], list[Figure]],
) -> None:
    """A script: options, a working folder, the measurement, its table."""
    title = (about or "").split(".")[0]
    parser = argparse.ArgumentParser(description=about)
    for entry in _choosable():
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=type(entry.default) if entry.default is not None else str,
            default=entry.default,
            help=f"{entry.metadata['help']} (default: {entry.default})",
        )
    with tempfile.TemporaryDirectory(prefix="prunella-benchmark-") as folder:
        options = Options(**vars(parser.parse_args()), folder=Path(folder))
        prepare(options)
        print_figures(measure(options), title)


def _choosable() -> list[Any]:
    return [entry for entry in fields(Options) if "help" in entry.metadata]


def _given(options: Options) -> dict[str, Any]:
    values = {entry.name: getattr(options, entry.name) for entry in _choosable()}
    del values["results"]
    for path in ("model", "data"):  # the folder of a file says nothing to a reader
        values[path] = values[path] and Path(values[path]).name
    return values
