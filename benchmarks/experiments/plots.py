"""The plots of docs/results.md, and the table that belongs to one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.experiments.summary import Arm, Spread
from benchmarks.experiments.tables import (
    NOT_YET,
    Study,
    cell,
    head,
    listed,
    row,
    sizes,
    source,
    task_title,
)
from benchmarks.experiments.times import Times
from prunella.report.pictures import picture
from prunella.report.quality import BYTES, Cost, quality_against
from prunella.report.tables import MISSING, human_bytes

Block = str | tuple[str, dict[str, str]]
"""Markdown, and the picture files that it shows by their names."""

_WIDE = (6.2, 3.7)
_KEPT = Cost("kept", "weights kept in the encoder's matrices", lambda share: f"{share:g} %")
_FAMILIES = {
    "sparse": "pruned upstream",
    "sparse-taught": "pruned upstream, taught on text",
    "sparse-unlabelled": "pruned upstream, unlabelled rows",
    "sparse-taught-unlabelled": "pruned upstream, both of these",
    "gmp": "pruned at task time (GMP)",
    "task-time": "pruned at task time (SNIP, global)",
    "one-shot": "magnitude in one shot",
    "fewer-layers": "dense, fewer layers",
    "sparse-layers": "fewer layers and zeros",
    "narrower": "dense, narrower",
}
# So that intervals of equal sparsity stand side by side.
_ASIDE = {
    ("sparse", "int8"): 1.04,
    ("gmp", "fp32"): 0.96,
    ("one-shot", "fp32"): 0.96,
    ("task-time", "fp32"): 0.98,
}
_STEP = 1.035  # from one method to the next at the same level


def sparsity_plot(study: Study) -> Block:
    """Quality against the share of weights kept, of the tasks that all arms have results of.

    Quality is relative to the dense model in fp32. The dense model begins each line of the sparse
    ones; of the baselines only fp32 is drawn.
    """
    entries, dense = study.matrix.models, Arm("dense", "fp32")
    drawn = [
        (family, arm)
        for arm in study.arms()
        for family in _lines(entries[arm.model].family, arm.weights)
    ]
    arms, tasks = comparable(study, [arm for _, arm in drawn])
    if dense not in arms or len(arms) == 1:
        return NOT_YET
    points = []
    for family, arm in drawn:
        found = study.scores.difference(arm, dense, tasks, relative=True) if arm in arms else None
        if found:
            share = 100 * (1 - entries[arm.model].sparsity)
            name = f"{_FAMILIES[family]}, {arm.weights}"
            aside = _ASIDE.get((family, arm.weights), 1.0)
            point = {"label": "", "family": name, "kept": share, "aside": aside}
            points.append(point | _interval(found.spread, above=100))
    title = "Share of the dense model's quality, %"
    svg = quality_against(points, _KEPT, title=title, legend_inside=True, size=_WIDE)
    told = f"Quality against the weights kept: the mean over {listed(study.matrix, tasks)}. "
    told += "Bars: one standard deviation over seeds."
    return _shown({"results-sparsity.svg": _Drawing(svg, told, points)})


def level_plots(study: Study) -> Block:
    """Quality against the weights kept, a picture a task: a line a method."""
    drawn: dict[str, _Drawing] = {}
    for task, entry in study.matrix.tasks.items():
        points = []
        for model, described in study.matrix.models.items():
            spread = study.scores.spread(Arm(model, "fp32"), task)
            if spread:
                kept = 100 * (1 - described.sparsity)
                name = described.method or described.title
                points.append({"label": "", "family": name, "kept": kept} | _interval(spread))
        pruned = [point for point in points if point["kept"] < 100]
        methods = list(dict.fromkeys(point["family"] for point in pruned))
        for point in pruned:
            point["aside"] = _STEP ** (methods.index(point["family"]) - (len(methods) - 1) / 2)
        if pruned:
            svg = quality_against(points, _KEPT, title=entry.title, legend_inside=True, size=_WIDE)
            told = f"{entry.title}: quality against the weights kept, equal shares side by side. "
            told += "Bars: one standard deviation."
            drawn[f"results-{study.matrix.name}-{task}.svg"] = _Drawing(svg, told, points)
    return _shown(drawn) if drawn else NOT_YET


def _lines(family: str, weights: str) -> tuple[str, ...]:
    """The lines of the first plot that an arm is on."""
    if family == "dense":
        return ("sparse",)
    return (family,) if family == "sparse" or weights == "fp32" else ()


def comparable(study: Study, arms: Sequence[Arm]) -> tuple[list[Arm], tuple[str, ...]]:
    """Arms, and tasks that all of them have results of: those with the most results together."""
    run = [task for task in study.matrix.tasks if any(study.scores.of(arm, task) for arm in arms)]
    found: tuple[list[Arm], tuple[str, ...]] = [], ()
    for number in range(1, len(run) + 1):
        for tasks in combinations(run, number):
            whole = [arm for arm in arms if study.scores.tasks([arm], tasks) == tasks]
            if len(whole) * number > len(found[0]) * len(found[1]):
                found = whole, tasks
    return found


@dataclass(frozen=True)
class Choice:
    """What a user could take, in 8 bits: its quality, and what it costs.

    `costs` has "ms-ISA" for each instruction set, "bytes" (of the whole file) and "encoder" (its
    bytes); None: not measured.
    """

    model: str
    title: str
    families: tuple[str, ...]
    quality: Spread | None
    costs: Mapping[str, float | None]

    @property
    def short(self) -> str:
        return self.title.removeprefix("dense, ").removeprefix("pruned upstream, ")


def choices(study: Study, times: Sequence[Times]) -> tuple[list[Choice], tuple[str, ...]]:
    """Sparse and small dense models, and the tasks that their quality is the mean of."""
    groups = {
        "sparse": ("sparse",),
        "dense": ("fewer-layers", "narrower"),  # where both lines begin
        "fewer-layers": ("fewer-layers",),
        "sparse-layers": ("sparse-layers",),
        "narrower": ("narrower",),
    }
    entries = {m: e for m, e in study.matrix.models.items() if e.family in groups}
    arms, tasks = comparable(study, [Arm(model, "int8") for model in entries])
    run = {entries[arm.model].family for arm in arms}
    averages = study.scores.averages(arms, tasks)
    found = []
    for model, entry in entries.items():
        arm = Arm(model, "int8")
        size = sizes([r for r in study.records if (r["model"], r["weights"]) == arm]) or {}
        costs = {
            **{each.cost.key: each.medians.get(entry.start) for each in times},
            "bytes": size.get("model_bytes"),
            "encoder": size.get("encoder_bytes"),
        }
        names = tuple(_FAMILIES[name] for name in groups[entry.family] if name in run)
        found.append(Choice(model, entry.title, names, averages.get(arm), costs))
    small = [m for m, e in entries.items() if e.family not in ("sparse", "dense")]
    if not any(choice.quality for choice in found if choice.model in small):
        return [], ()  # there is nothing to compare with
    return found, tasks


def worth_plots(study: Study, times: Sequence[Times]) -> Block:
    """Quality against latency and against bytes, sparse and small dense models in 8 bits."""
    drawn: dict[str, _Drawing] = {}
    found, tasks = choices(study, times)
    longest = max((each.length for each in times), default=0)
    kinds = [(e.cost, f"latency, {e.title}") for e in times if e.length == longest]
    for cost, what in [*kinds, (BYTES, "bytes of the whole file")]:
        points = [
            {"label": "" if number else choice.short, "family": family}
            | {cost.key: choice.costs[cost.key], **_interval(choice.quality)}
            for choice in found
            for number, family in enumerate(choice.families)
            if choice.quality and choice.costs[cost.key]
        ]
        if points:
            title = "Mean score over the tasks"
            svg = quality_against(points, cost, title=title, legend_inside=True, size=_WIDE)
            told = f"Quality against {what}: the mean over {listed(study.matrix, tasks)}."
            drawn[f"results-{cost.key}.svg"] = _Drawing(svg, told, points)
    return _shown(drawn) if drawn else NOT_YET


def worth_table(study: Study, times: Sequence[Times]) -> str:
    """The same in figures, and each task's, of all that was run."""
    found, tasks = choices(study, times)
    if not tasks:
        return NOT_YET
    columns = [task_title(study, task) for task in study.matrix.tasks]
    named = [f"{each.title}, ms" for each in times]
    lines = head(["int8", *columns, "mean", *named, "encoder", "whole file", "repeat"])
    for choice in found:
        arm = Arm(choice.model, "int8")
        scores = [study.scores.spread(arm, task) for task in study.matrix.tasks]
        if not any(scores):
            continue
        known = [choice.costs[each.cost.key] for each in times]
        ms = [f"{time:.2f}" if time else MISSING for time in known]
        disk = [human_bytes(choice.costs[key] or 0) for key in ("encoder", "bytes")]
        quality = [cell(spread, study.seeds) for spread in (*scores, choice.quality)]
        lines.append(row([choice.title, *quality, *ms, *disk, f"`--only {choice.model}`"]))
    told = "of the models that were run on all, over the seeds that they share"
    said = f"Mean over {listed(study.matrix, tasks)}, {told}. "
    said += source(study)
    if times:
        machines = dict.fromkeys(each.processor for each in times)
        where = ". ".join(
            f"{'; '.join(each.title for each in times if each.processor == name)} on {name}"
            for name in machines
        )
        said += f" Times: one text, median, one thread: {where}. "
        said += " ".join(f"`{command}`" for command in dict.fromkeys(t.command for t in times))
    return "\n".join([*lines, "", said])


def _interval(spread: Spread | None, above: float = 0.0) -> dict[str, float | None]:
    if spread is None:
        return {}
    middle, deviation = above + spread.mean, spread.deviation
    if deviation is None:
        return {"quality": middle, "low": None, "high": None}
    return {"quality": middle, "low": middle - deviation, "high": middle + deviation}


@dataclass(frozen=True)
class _Drawing:
    """A plot with its description, and the points that it shows."""

    svg: str
    told: str
    points: Sequence[Mapping[str, Any]]


def _shown(drawn: Mapping[str, _Drawing]) -> tuple[str, dict[str, str]]:
    """Pictures with their descriptions, stamped with the data that they show."""
    files = {}
    for name, plot in drawn.items():
        data = json.dumps([plot.told, *plot.points], sort_keys=True)
        stamp = hashlib.sha256(data.encode()).hexdigest()[:16]
        files[name] = picture(plot.svg, plot.told, stamp)
    return "\n\n".join(f"![{plot.told}]({name})" for name, plot in drawn.items()), files
