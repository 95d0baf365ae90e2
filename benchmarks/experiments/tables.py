"""The tables of docs/results.md: from results to Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.matrix import Matrix, Weights, load_matrix
from benchmarks.experiments.records import all_records
from benchmarks.experiments.summary import Arm, Difference, Scores, Spread
from prunella.report.tables import MISSING, human_bytes

NOT_YET = "*Not run yet.*"
_SHORT = {"spearman": "Spearman", "pearson": "Pearson", "f1": "F1", "exact": "exact match"}


@dataclass(frozen=True)
class Study:
    """A matrix and what was found."""

    matrix: Matrix
    records: Sequence[Mapping[str, Any]]
    tried: Sequence[Mapping[str, Any]]
    scores: Scores

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.matrix.seeds

    def own(self) -> list[str]:
        """The models that this matrix describes, without those of the one it extends."""
        return [m for m, owner in self.matrix.owners.items() if owner == self.matrix.name]

    def arms(self) -> list[Arm]:
        return [Arm(model, w) for w in self.matrix.weights for model in self.matrix.models]


def read_study(name: str, results: Path, matrices: Path) -> Study:
    """A matrix with its results, those that it shares with the one it extends included."""
    matrix = load_matrix(name, matrices)

    def known(kind: str) -> list[dict[str, Any]]:
        found = [
            r for o in sorted(set(matrix.owners.values())) for r in all_records(results / kind / o)
        ]
        return [r for r in found if r["model"] in matrix.models and r["task"] in matrix.tasks]

    records = known("experiments")
    return Study(matrix, records, known("tuning"), Scores(records))


def quality_table(
    study: Study,
    weights: Weights,
    references: Sequence[tuple[Arm, bool]],
    models: Sequence[str] | None = None,
) -> str:
    """A row a model, a column a task; then how it differs from `references` on average.

    A reference comes with whether differences are in per cent of it; otherwise they are in points.
    Tasks and models without any result are named below. `models` are those to show, by default all.
    """
    matrix, scores = study.matrix, study.scores
    asked = {m: matrix.models[m] for m in models or matrix.models}
    run = [
        (model, task)
        for model in asked
        for task in matrix.tasks
        if scores.of(Arm(model, weights), task)
    ]
    if not run:
        return NOT_YET
    tasks = [task for task in matrix.tasks if any(task == t for _, t in run)]
    shown = {m: e for m, e in asked.items() if any(m == known for known, _ in run)}
    heads = [weights, *(task_title(study, task) for task in tasks)]
    heads += [
        f"against {matrix.models[reference.model].title} {reference.weights}, "
        f"{'%' if relative else 'points'}"
        for reference, relative in references
    ]
    heads += ["cost of int8, points"] * (weights == "int8") + ["repeat"]
    lines = head(heads)
    for model, entry in shown.items():
        arm = Arm(model, weights)
        cells = [entry.title, *(cell(scores.spread(arm, t), study.seeds) for t in tasks)]
        for reference, relative in references:
            found = scores.difference(arm, reference, tasks, relative=relative)
            cells.append("" if arm == reference else _difference(found, len(tasks)))
        if weights == "int8":
            found = scores.difference(arm, Arm(model, "fp32"), tasks, relative=False)
            cells.append(_difference(found, len(tasks)))
        lines.append(row([*cells, f"`--only {model}`"]))
    lines += ["", source(study)]
    missing = [entry.title for model, entry in asked.items() if model not in shown]
    missing += [entry.title for task, entry in matrix.tasks.items() if task not in tasks]
    if missing:
        lines += ["", f"Not run yet: {'; '.join(missing)}."]
    return "\n".join(lines)


def brief_table(study: Study, reference: Arm) -> str:
    """A row a model and form, its scores, and its encoder on disk.

    What was run on fewer than three of the reference's tasks is left to the long tables.
    """
    scores, matrix = study.scores, study.matrix
    tasks = [task for task in matrix.tasks if scores.of(reference, task)]
    shown = [
        arm
        for arm in study.arms()
        if sum(bool(scores.of(arm, task)) for task in tasks) >= min(3, len(tasks))
    ]
    tasks = [t for t in tasks if any(scores.of(arm, t) for arm in shown if arm != reference)]
    if not tasks:
        return NOT_YET
    titles = [task_title(study, task) for task in tasks]
    lines = head(["", *titles, "against dense, %", "encoder on disk"])
    for arm in shown:
        size = sizes([r for r in study.records if (r["model"], r["weights"]) == arm])
        assert size is not None
        found = scores.difference(arm, reference, tasks, relative=True)
        title = f"{matrix.models[arm.model].title}, {arm.weights}"
        cells = [cell(scores.spread(arm, task), study.seeds) for task in tasks]
        cells.append("" if arm == reference else _difference(found, len(tasks)))
        lines.append(row([title, *cells, human_bytes(size["encoder_bytes"])]))
    return "\n".join([*lines, "", source(study)])


def level_table(study: Study) -> str:
    """For each task a table: a row a method, a column a share of the weights that is kept."""
    found = [part for task in study.matrix.tasks for part in _levels(study, task)]
    return "\n".join([*found, source(study)]) if found else NOT_YET


def _levels(study: Study, task: str) -> list[str]:
    matrix, scores = study.matrix, study.scores
    methods: dict[str, dict[float, Spread | None]] = {}
    for model, entry in matrix.models.items():
        if entry.method:
            level = methods.setdefault(entry.method, {})
            level[round(1 - entry.sparsity, 6)] = scores.spread(Arm(model, "fp32"), task)
    known = {m: levels for m, levels in methods.items() if any(levels.values())}
    if not known:
        return []
    shares = (1.0, *matrix.kept)
    lines = head([task_title(study, task), *(f"{100 * kept:g} % kept" for kept in shares)])
    for model, entry in matrix.models.items():
        whole = None if entry.method else scores.spread(Arm(model, "fp32"), task)
        if whole:
            cells = [cell(whole, study.seeds), *[""] * len(matrix.kept)]
            lines.append(row([entry.title, *cells]))
    for method, levels in known.items():
        cells = ["", *(cell(levels.get(k), study.seeds) for k in matrix.kept)]
        lines.append(row([method, *cells]))
    return [*lines, ""]


def ablation_table(results: Path) -> str:
    """Learned masks changed in one way each: a row a change, a column a model."""
    path = results / "mask-ablation.json"
    if not path.exists():
        return NOT_YET
    document = json.loads(path.read_text(encoding="utf-8"))
    models = document["models"]
    heads = [
        f"{m['method'].upper()}, {100 * m['kept']:.3g} % kept"
        f"{'' if m['recovery'] else ', none may return'}"
        for m in models
    ]
    lines = head([f"{_SHORT.get(models[0]['metric'], models[0]['metric'])}", *heads])
    for name in dict.fromkeys(r["mask"] for m in models for r in m["rows"]):
        values = [[100 * r["score"] for r in m["rows"] if r["mask"] == name] for m in models]
        lines.append(row([name, *(cell(Spread.of(found)) for found in values)]))
    back = [MISSING if m["recovered"] is None else f"{m['recovered']:.1%}" for m in models]
    lines.append(row(["kept weights that had been removed before", *back]))
    said = f"One learned mask each; the changes over three draws. `{document['command']}`"
    return "\n".join([*lines, "", said])


def further_table(study: Study) -> str:
    """The other official metrics of tasks that have several."""
    columns = [(t, metric) for t, entry in study.matrix.tasks.items() for metric in entry.further]
    heads = ["", *(f"{study.matrix.tasks[t].title}, {_SHORT.get(m, m)}" for t, m in columns)]
    lines = head(heads)
    for arm in study.arms():
        cells = []
        for task, metric in columns:
            found = [
                100 * r["metrics"][metric]
                for r in study.records
                if (r["model"], r["weights"], r["task"]) == (*arm, task) and metric in r["metrics"]
            ]
            cells.append(cell(Spread.of(found)))
        if set(cells) != {MISSING}:
            title = study.matrix.models[arm.model].title
            lines.append(row([f"{title}, {arm.weights}", *cells]))
    return "\n".join(lines) if len(lines) > 2 else NOT_YET


def size_table(study: Study) -> str:
    """Both counts of parameters, and bytes on disk; the mean over tasks and seeds."""
    lines = head(
        ["", "encoder weights kept", "all weights kept", "encoder on disk", "whole file",
         "encoder smaller than dense fp32", "whole file smaller"]
    )  # fmt: skip
    for arm in study.arms():
        found = [r for r in study.records if (r["model"], r["weights"]) == arm]
        title = f"{study.matrix.models[arm.model].title}, {arm.weights}"
        size = sizes(found)
        if size is None:
            continue
        lines.append(
            row(
                [
                    title,
                    _kept(size["encoder_nonzeros"], size["encoder_weights"]),
                    _kept(size["model_nonzeros"], size["model_weights"]),
                    human_bytes(size["encoder_bytes"]),
                    human_bytes(size["model_bytes"]),
                    f"{size['encoder_fp32'] / size['encoder_bytes']:.1f}x",
                    f"{size['model_fp32'] / size['model_bytes']:.1f}x",
                ]
            )
        )
    return "\n".join(lines) if len(lines) > 2 else NOT_YET


def sizes(records: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Means over runs, as a head differs by task and bytes by a little; None of none."""
    if not records:
        return None
    flat = []
    for record in records:
        sizes = record["sizes"]
        flat.append(
            {
                **{key: value for key, value in sizes.items() if not isinstance(value, Mapping)},
                "encoder_bytes": sizes["bytes"]["encoder"],
                "model_bytes": sizes["bytes"]["model"],
                "encoder_fp32": sizes["dense_fp32_bytes"]["encoder"],
                "model_fp32": sizes["dense_fp32_bytes"]["model"],
            }
        )
    return {key: sum(one[key] for one in flat) / len(flat) for key in flat[0]}


def upstream_table(studies: Sequence[Study]) -> str:
    """What the starting checkpoints cost, and the held-out figures of the stage that made them."""
    starts: dict[tuple[str, str], Mapping[str, Any]] = {}
    for study in studies:
        for record in study.records:
            start = record["start"]
            starts[start["name"], start["sha256"]] = start
    if not starts:
        return NOT_YET
    lines = head(["checkpoint", "made by", "tokens", "minutes", "held out", "hash"])
    for (name, digest), start in sorted(starts.items()):
        figures = start.get("metrics", {})
        told = ", ".join(
            f"{key.replace('_', ' ')} {value:.4g}"
            for key, value in figures.items()
            if key not in ("tokens", "steps", "seconds")
        )
        lines.append(
            row(
                [
                    name,
                    start.get("stage", "others"),
                    f"{figures['tokens'] / 1e6:.1f} M" if "tokens" in figures else MISSING,
                    f"{start['seconds'] / 60:.0f}" if "seconds" in start else MISSING,
                    told or MISSING,
                    f"`{digest}`",
                ]
            )
        )
    return "\n".join(lines)


def upstream_scores_table(records: Sequence[Mapping[str, Any]]) -> str:
    """How near upstream runs that differ in their score come to the dense model."""
    if not records:
        return NOT_YET
    lines = head(["score", "scope", "zeros", "tokens", "minutes", "hidden distance, held out"])
    for record in sorted(records, key=lambda r: r["metrics"]["hidden_distance"]):
        settings, metrics = record["settings"], record["metrics"]
        lines.append(
            row(
                [
                    settings["score"],
                    _scope(settings),
                    f"{100 * record.get('sparsity', settings['sparsity']):.0f} %",
                    f"{metrics['tokens'] / 1e6:.2f} M",
                    f"{record['seconds'] / 60:.1f}",
                    f"{metrics['hidden_distance']:.3f}",
                ]
            )
        )
    commands = [
        r["command"]
        .replace(f"--score {r['settings']['score']}", "--score SCORE")
        .replace(f"--scope {r['settings']['scope']}", "--scope SCOPE")
        for r in records
    ]
    machines = dict.fromkeys(r["machine"]["processor"] for r in records)
    lines += ["", f"One seed, one thread, {', '.join(machines)}."]
    return "\n".join([*lines, *(f"`{command}`" for command in dict.fromkeys(commands))])


def _scope(settings: Mapping[str, Any]) -> str:
    """How much where: densities first, where they were given."""
    by_share: dict[float, list[str]] = {}
    for name, share in settings.get("densities", {}).items():
        by_share.setdefault(share, []).append(name.replace("_", " "))
    given = [f"{', '.join(names)} keep {100 * share:g} %" for share, names in by_share.items()]
    return "; ".join([*given, settings["scope"]])


def environment(studies: Sequence[Study]) -> str:
    """On what all of it ran."""
    records = [record for study in studies for record in study.records]
    if not records:
        return NOT_YET
    machines = dict.fromkeys(
        ", ".join(filter(None, (r["machine"]["processor"], r["machine"].get("accelerator"),
                                f"{r['machine']['threads']} threads a run")))
        for r in records
    )  # fmt: skip
    known = dict.fromkeys(
        ", ".join(f"{package} {number}" for package, number in r["versions"].items())
        for r in records
    )
    unique = {r["run_hash"]: r for r in records}.values()  # some are taken over from others
    hours = sum(r["seconds"] for r in unique if r["weights"] == "fp32") / 3600
    return (
        f"{len(unique)} runs, {hours:.1f} hours of fine-tuning. Machines: {'; '.join(machines)}. "
        f"Versions: {'; '.join(known)}."
    )


def notes(matrix: Matrix) -> str:
    """What differs from the data sets of that name."""
    return "\n".join(f"- **{t.title}**: {t.note}." for t in matrix.tasks.values() if t.note)


def source(study: Study) -> str:
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"Mean ± standard deviation over seeds {seeds} (where there are fewer runs: their number); "
        f"{MISSING}: not run. `python -m benchmarks.experiments {study.matrix.name} --models "
        "MODELS.yaml --data DATA`"
    )


def task_title(study: Study, task: str) -> str:
    metric = study.scores.metrics.get(task)
    title = study.matrix.tasks[task].title
    return f"{title}, {_SHORT.get(metric, metric)}" if metric else title


def listed(matrix: Matrix, tasks: Sequence[str]) -> str:
    return ", ".join(matrix.tasks[task].title for task in tasks)


def cell(spread: Spread | None, seeds: Sequence[int] = ()) -> str:
    if spread is None:
        return MISSING
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:.2f}"
    fewer = f" ({spread.n})" if seeds and spread.n < len(seeds) else ""
    return f"{spread.mean:.2f}{deviation}{fewer}"


def _difference(found: Difference | None, tasks: int) -> str:
    if found is None:
        return MISSING
    deviation = "" if found.spread.deviation is None else f" ± {found.spread.deviation:.2f}"
    fewer = f" ({len(found.tasks)} of {tasks} tasks)" if len(found.tasks) < tasks else ""
    return f"{found.spread.mean:+.2f}{deviation}{fewer}".replace("-", "−")


def _kept(nonzeros: float, weights: float) -> str:
    return f"{100 * nonzeros / weights:.1f} % ({nonzeros / 1e6:.2f} of {weights / 1e6:.1f} M)"


def head(titles: Sequence[str]) -> list[str]:
    return [row(titles), "|---" * len(titles) + "|"]


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tuning_table(study: Study) -> str:
    """Settings that were tried on rows set aside from train."""
    tasks = [t for t in study.matrix.tasks if any(r["task"] == t for r in study.tried)]
    if not tasks:
        return NOT_YET
    scores: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for record in study.tried:
        tried = record["tried"]
        changes = ", ".join(f"`{change}`" for change in tried["changes"]) or "those of the matrix"
        title = study.matrix.models[record["model"]].title
        arm = (title, record["weights"], tried["label"], changes)
        value = 100 * record["metrics"][record["main"]]
        scores.setdefault(arm, {}).setdefault(record["task"], []).append(value)
    titles = (study.matrix.tasks[task].title for task in tasks)
    lines = head(["model", "weights", "tried", "settings", *titles])
    for arm, values in sorted(scores.items()):
        lines.append(row([*arm, *(cell(Spread.of(values.get(task, ()))) for task in tasks)]))
    return "\n".join(lines)
