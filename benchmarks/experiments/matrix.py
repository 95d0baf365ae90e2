"""Matrices: what is run, with which settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from prunella.errors import InputError
from prunella.settings import Settings
from prunella.validation import parse_settings, suggestion

FOLDER = Path(__file__).parent
TASKS = "tasks.yaml"

Weights = Literal["fp32", "int8"]
Family = Literal[
    "dense",
    "sparse",
    "sparse-taught",
    "sparse-unlabelled",
    "sparse-taught-unlabelled",
    "task-time",
    "gmp",
    "one-shot",
    "fewer-layers",
    "sparse-layers",
    "narrower",
    "frozen",
    "trained",
]
# Stages of a cell, in order; whether it has transfer or mask, the model's entry says.
STAGES = ("adapt", "transfer", "mask", "quantize")


class TaskEntry(Settings):
    """Where the rows of a task are, and what a reader should know of them."""

    title: str
    """Name in tables."""
    train: str
    """Training rows, below the folder of the data."""
    reported: str
    """Rows that the reported figures are of; no setting is ever chosen on them."""
    held_out: str | None = None
    """Rows to choose settings on; by default a tenth of the training rows is set aside."""
    group: str | None = None
    """Column whose equal values stay on one side when rows are set aside."""
    after: str | None = None
    """Another task of the matrix, which a model is fine-tuned on first (arXiv 1811.01088)."""
    metric: str | None = None
    """The main metric; by default that of the kind."""
    further: tuple[str, ...] = ()
    """The other official metrics."""
    note: str = ""
    """What differs from the data set of that name: a substitute, another split."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Columns, kind and length, for every stage."""


class Layer(Settings):
    """Settings of the training stages; later layers win."""

    adapt: dict[str, Any] = Field(default_factory=dict)
    """Settings of `adapt` before it, by the task's teacher; texts stand below the data's folder."""
    transfer: dict[str, Any] = Field(default_factory=dict)
    """Settings of `transfer`."""
    quantize: dict[str, Any] = Field(default_factory=dict)
    """Settings of `quantize`."""
    mask: dict[str, Any] = Field(default_factory=dict)
    """Settings of `mask`."""


class ModelEntry(Layer):
    """One row of the tables."""

    title: str
    """Name in tables."""
    family: Family
    """What it is compared as."""
    start: str
    """The checkpoint that it starts from: a name that the models file maps to a folder."""
    teacher: str | None = None
    """Another model of the matrix: its fine-tuned checkpoint of the same task and seed."""
    sparsity: float = 0.0
    """Share of zeros in the encoder's matrices, as planned."""
    tasks: dict[str, Layer] = Field(default_factory=dict)
    """Settings of this model on some tasks."""
    stage: Literal["transfer", "mask"] = "transfer"
    """What makes a task's model of the checkpoint."""
    levels: str | None = None
    """STAGE.KEY that takes the levels of the matrix's `kept`, or 1 - kept if it is a sparsity; each
    level makes a model of its own."""
    method: str | None = None
    """Title of the row that such models share."""


class MatrixFile(Layer):
    """The keys of a matrix file."""

    about: str
    """The question, in a sentence."""
    extends: str | None = None
    """Another matrix: its settings and models hold here too, and these results are shared."""
    weights: tuple[Weights, ...] = ("fp32",)
    """Forms of the finished model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of a reported figure."""
    kept: tuple[float, ...] = ()
    """Shares of the weights to keep, for models with levels."""
    tasks: dict[str, Layer]
    """Tasks in the order they are run, cheap ones first, and their settings."""
    models: dict[str, ModelEntry]
    """Models, teachers first."""


@dataclass(frozen=True)
class Cell:
    """One model on one task with one seed.

    `matrix` is where the model is described, and its results are kept. `layers` are its settings
    beyond the matrix's own, `stages` all of them joined, without paths; `teacher_hash` is of the
    settings that its teacher was fine-tuned with, `after_hash` of those of the task before.
    """

    matrix: str
    model: str
    task: str
    seed: int
    entry: ModelEntry
    data: TaskEntry
    layers: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, Mapping[str, Any]]
    teacher_hash: str | None
    after_hash: str | None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.task}/{self.seed}"

    def settings_hash(self, weights: Weights) -> str:
        """Of all settings that decide the result; a result with another one is out of date."""
        stages = {self.entry.stage: self.stages[self.entry.stage]}
        if self.stages["adapt"]:
            stages["adapt"] = self.stages["adapt"]
        if weights == "int8":
            stages["quantize"] = self.stages["quantize"]
        said = {"stages": stages, "start": self.entry.start, "teacher": self.teacher_hash}
        said |= {"train": self.data.train, "reported": self.data.reported, "seed": self.seed}
        said |= {"metric": self.data.metric}
        if self.after_hash:
            said |= {"after": self.after_hash}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Matrix:
    """A matrix, read and checked; `owners` says for each model which matrix describes it."""

    name: str
    about: str
    weights: tuple[Weights, ...]
    seeds: tuple[int, ...]
    kept: tuple[float, ...]
    tasks: Mapping[str, TaskEntry]
    models: Mapping[str, ModelEntry]
    _files: Mapping[str, MatrixFile]
    owners: Mapping[str, str]

    def cell(
        self,
        model: str,
        task: str,
        seed: int,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Cell:
        """A cell; `changes` are settings by stage that win over those of the files."""
        owner = self.owners[model]
        file, entry = self._files[owner], self.models[model]
        layers: dict[str, dict[str, Any]] = {}
        stages: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            beyond: dict[str, Any] = {}
            for layer in (file.tasks.get(task), entry, entry.tasks.get(task)):
                beyond = joined(beyond, getattr(layer, stage) if layer else {})
            layers[stage] = joined(beyond, (changes or {}).get(stage, {}))
            of_task = {} if stage == "adapt" else self.tasks[task].settings
            common = {**of_task, **getattr(file, stage)}
            stages[stage] = joined(common, layers[stage])
        teacher = self.cell(entry.teacher, task, seed) if entry.teacher else None
        hashed = teacher.settings_hash("fp32") if teacher else None
        before = self._before(model, task, seed)
        first = before.settings_hash("fp32") if before else None
        data = self.tasks[task]
        return Cell(owner, model, task, seed, entry, data, layers, stages, hashed, first)

    def teacher_of(self, cell: Cell) -> Cell | None:
        """The cell whose fine-tuned checkpoint teaches this one."""
        teacher = cell.entry.teacher
        return self.cell(teacher, cell.task, cell.seed) if teacher else None

    def before(self, cell: Cell) -> Cell | None:
        """The cell whose fine-tuned checkpoint this one starts from, with a head of its own."""
        return self._before(cell.model, cell.task, cell.seed)

    def _before(self, model: str, task: str, seed: int) -> Cell | None:
        first, entry = self.tasks[task].after, self.models[model]
        if first is None:
            return None
        # What is pruned for the task is dense until then.
        dense = entry.teacher if "prune" in entry.transfer else None
        return self.cell(dense or model, first, seed)

    def cells(
        self,
        seeds: Sequence[int],
        only: Sequence[str] = (),
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[Cell]:
        """The cells in the order to run them: every cell with the first seed comes first.

        Args:
            seeds: Seeds, in order.
            only: Patterns MODEL[/TASK[/SEED]] with wildcards, of which one must match.
            changes: Settings by stage for all of them.

        Raises:
            InputError: If a pattern matches nothing.
        """
        found = [
            self.cell(model, task, seed, changes)
            for seed in seeds
            for task in self.tasks
            for model in self.models
        ]
        for pattern in only:
            if not any(_matches(cell.name, pattern) for cell in found):
                raise InputError(
                    f"--only {pattern}: matches no cell of {self.name}; a pattern is "
                    f"MODEL/TASK/SEED of the models {', '.join(self.models)}, the tasks "
                    f"{', '.join(self.tasks)} and the seeds {', '.join(map(str, seeds))}"
                )
        return [c for c in found if not only or any(_matches(c.name, p) for p in only)]


def names(folder: Path = FOLDER) -> list[str]:
    """The matrices of a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.name != TASKS)


def load_matrix(name: str, folder: Path = FOLDER) -> Matrix:
    """Reads a matrix and the tasks it names.

    Args:
        name: Of the matrix: FOLDER/NAME.yaml.
        folder: Also holds `tasks.yaml`.

    Raises:
        InputError: If there is no such matrix, or its file does not fit together.
    """
    file = _read(name, folder)
    base = _read(file.extends, folder) if file.extends else None
    if base and (file.adapt or file.transfer or file.quantize or file.mask or any(_layers(file))):
        raise InputError(
            f"{name}.yaml: extends {file.extends}, so the settings of stages and tasks stand "
            "there; only models may have their own here"
        )
    files = {name: base.model_copy(update={"models": file.models}) if base else file}
    models, owners = dict(file.models), dict.fromkeys(file.models, name)
    if base and file.extends:
        files[file.extends] = base
        models = {**base.models, **file.models}
        owners = {**dict.fromkeys(base.models, file.extends), **owners}
    known = yaml.safe_load((folder / TASKS).read_text(encoding="utf-8"))
    tasks = {task: _task(task, known, name) for task in file.tasks}
    for task, data in tasks.items():
        if data.after and (data.after not in tasks or tasks[data.after].after):
            raise InputError(
                f"{name}.yaml: {task}: comes after '{data.after}', which must be a task of this "
                "matrix that comes after none"
            )
    for model, entry in models.items():
        if entry.teacher and entry.teacher not in models:
            raise InputError(
                f"{name}.yaml: {model}: no teacher '{entry.teacher}'; "
                f"{suggestion(entry.teacher, list(models))}"
            )
    return Matrix(
        name, file.about, file.weights, file.seeds, file.kept, tasks, models, files, owners
    )


def joined(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of settings: what `over` says wins, groups are joined key by key."""
    result = dict(under)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = joined(before, value)
        result[key] = value
    return result


def _layers(file: MatrixFile) -> list[dict[str, Any]]:
    return [
        stage
        for layer in file.tasks.values()
        for stage in (layer.adapt, layer.transfer, layer.quantize, layer.mask)
    ]


def _read(name: str, folder: Path) -> MatrixFile:
    path = folder / f"{name}.yaml"
    if name not in names(folder):
        raise InputError(f"no matrix '{name}'; {suggestion(name, names(folder))}")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw.pop("common", None)  # what the file's own anchors stand on
    raw["tasks"] = {task: layer or {} for task, layer in raw["tasks"].items()}
    file = parse_settings(MatrixFile, raw, path.name)
    models: dict[str, ModelEntry] = {}
    for model, entry in file.models.items():
        models |= _at_levels(model, entry, file.kept) if entry.levels else {model: entry}
    return file.model_copy(update={"models": models})


def _at_levels(model: str, entry: ModelEntry, levels: Sequence[float]) -> dict[str, ModelEntry]:
    """A model for each share of the weights that is kept: NAME-PERCENT."""
    stage, *path = str(entry.levels).split(".")
    found = {}
    for kept in levels:
        value: Any = round(1 - kept, 6) if path[-1] == "sparsity" else kept
        for key in reversed(path):
            value = {key: value}
        changes = {
            "title": f"{entry.title}, {100 * kept:g} % kept",
            "method": entry.title,
            "sparsity": round(1 - kept, 6),
            stage: joined(getattr(entry, stage), value),
        }
        found[f"{model}-{100 * kept:g}"] = entry.model_copy(update=changes)
    return found


def _task(name: str, known: Mapping[str, Any], matrix: str) -> TaskEntry:
    if name not in known:
        raise InputError(f"{matrix}.yaml: no task '{name}'; {suggestion(name, list(known))}")
    return parse_settings(TaskEntry, known[name], f"{TASKS}, {name}")


def _matches(name: str, pattern: str) -> bool:
    parts = pattern.split("/")
    return all(fnmatchcase(n, p) for n, p in zip(name.split("/"), parts, strict=False))
