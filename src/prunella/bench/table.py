"""Figures of a benchmark: by engine and form, and what they are against int8 elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from prunella.bench.arms import ENGINE_NAMES, FORMS, Arm
from prunella.bench.rotation import Timing
from prunella.bench.workloads import Workload
from prunella.report.tables import Cell, Column
from prunella.report.terminal import table

RIVALS = ("onnxruntime", "openvino")
_LONG = ("ONNX Runtime", "OpenVINO")
_SHORT = {"onnxruntime": "ORT", "openvino": "OV"}


@dataclass(frozen=True)
class Measurement:
    """One engine with one form of the model on one workload.

    Times are milliseconds of all batches together. `ran` says what the engine made of the form,
    `others` has the medians of slower ways to run it there. `against` has, by rival, how many
    times faster this was than the rival's fastest int8 arm.
    """

    workload: str
    threads: int
    engine: str
    form: str
    ran: str
    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    tokens: int
    tokens_per_second: float
    rss: int
    rss_before: int
    others: dict[str, float]
    against: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measurements(
    workload: Workload,
    threads: int,
    timings: Mapping[Arm, Timing],
    notes: Mapping[Arm, str],
    rss_before: Mapping[Arm, int],
) -> list[Measurement]:
    """The fastest arm of each engine and form, in the order of engines and forms."""
    medians = {arm: 1000 * statistics.median(t.seconds) for arm, t in timings.items()}
    rivals = {
        rival: min(m for arm, m in medians.items() if _is_int8(arm, rival))
        for rival in RIVALS
        if any(_is_int8(arm, rival) for arm in medians)
    }
    groups: dict[tuple[str, str], list[Arm]] = {}
    for arm in medians:
        groups.setdefault((arm.engine, arm.form), []).append(arm)
    found = []
    for key in sorted(groups, key=_rank):
        best, *slower = sorted(groups[key], key=medians.__getitem__)
        seconds, median = timings[best].seconds, medians[best]
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        found.append(
            Measurement(
                workload=workload.name,
                threads=threads,
                engine=best.engine,
                form=best.form,
                ran=_label(best, notes),
                median=median,
                lower_quartile=1000 * low,
                upper_quartile=1000 * high,
                rounds=len(seconds),
                tokens=workload.tokens,
                tokens_per_second=1000 * workload.tokens / median,
                rss=timings[best].rss,
                rss_before=rss_before[best],
                others={_label(arm, notes): medians[arm] for arm in slower},
                against={rival: fastest / median for rival, fastest in rivals.items()},
            )
        )
    return found


def show(console: Console, rows: Sequence[Measurement], notes: Sequence[str]) -> None:
    """Prints a table for each workload and thread count, and one of the ratios."""
    for workload, threads in dict.fromkeys((m.workload, m.threads) for m in rows):
        part = [m for m in rows if (m.workload, m.threads) == (workload, threads)]
        console.print(_one(part, f"{workload}, {_threads(threads)}"))
        if ran := _ran_as(part):
            console.print(f"[dim]{ran}[/]")
        console.print()
    ours = [m for m in rows if m.engine == "prunella" and m.form.startswith("sparse") and m.against]
    if ours:
        console.print(_ratios(ours))
    console.print(
        "x ORT, x OV: how many times faster than the fastest int8 of ONNX Runtime and of OpenVINO. "
        "RSS: all memory of the engine's process, Python included."
    )
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def _one(rows: Sequence[Measurement], title: str) -> Any:
    short_names = [_SHORT[rival] for rival in RIVALS]
    columns = [
        Column("engine"),
        Column("form"),
        Column("median", unit="ms", numeric=True),
        Column("quartiles", unit="ms", numeric=True),
        Column("tokens", unit="/s", numeric=True, format=",.0f"),
        Column("RSS", unit="MB", numeric=True, format=".0f"),
        *(Column(f"x {short}", unit="int8", numeric=True, format=".2f") for short in short_names),
    ]
    fastest = min(m.median for m in rows)
    cells = [
        [
            m.engine,
            m.form,
            Cell(_brief(m.median), best=m.median == fastest),
            f"{_brief(m.lower_quartile)}-{_brief(m.upper_quartile)}",
            m.tokens_per_second,
            m.rss / 1e6,
            *(m.against.get(rival) for rival in RIVALS),
        ]
        for m in rows
    ]
    return table(columns, cells, title)


def _ran_as(rows: Sequence[Measurement]) -> str:
    """What engines made of the forms, where they had a choice."""
    found: dict[str, list[str]] = {}
    for m in rows:
        if m.ran and m.engine != "prunella":
            found.setdefault(f"{m.engine} {m.ran}", []).append(m.form)
    return "; ".join(f"{what}: {', '.join(forms)}" for what, forms in found.items())


def _brief(milliseconds: float) -> str:
    """Three digits, as many as two runs have in common at best."""
    decimals = 0 if milliseconds >= 99.95 else 1 if milliseconds >= 9.995 else 2
    return f"{milliseconds:.{decimals}f}"


def _ratios(ours: Sequence[Measurement]) -> Any:
    columns = [
        Column("prunella"),
        Column("batch x tokens"),
        Column("threads", numeric=True),
        *(Column(f"times {name}", unit="int8", numeric=True, format=".2f") for name in _LONG),
    ]
    ordered = sorted(ours, key=lambda m: (m.form != "sparse-int8", m.threads))
    rows = [
        [m.form, m.workload, m.threads, *(m.against.get(rival) for rival in RIVALS)]
        for m in ordered
    ]
    return table(columns, rows, "How many times faster than others with int8")


def _is_int8(arm: Arm, engine: str) -> bool:
    return arm.engine == engine and arm.form.endswith("int8")


def _label(arm: Arm, notes: Mapping[Arm, str]) -> str:
    parts = dict.fromkeys(filter(None, (arm.variant, notes.get(arm, ""))))
    return ", ".join(parts)


def _rank(key: tuple[str, str]) -> tuple[int, int]:
    engine, form = key
    names: tuple[str, ...] = ENGINE_NAMES
    return names.index(engine), FORMS.index(form)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
