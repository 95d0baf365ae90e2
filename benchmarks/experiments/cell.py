"""One cell: transfer, quantize, evaluate and pack, and what is kept of them."""

from __future__ import annotations

import fcntl
import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.experiments.matrix import Cell, Matrix, Weights
from benchmarks.experiments.records import Mode
from benchmarks.experiments.splits import set_aside
from prunella.checkpoint import PROVENANCE, Checkpoint, machine, open_checkpoint, versions
from prunella.errors import InputError
from prunella.packing import pack
from prunella.settings import AdaptSettings, EvaluateSettings, PackSettings, QuantizeSettings
from prunella.validation import parse_settings, suggestion
from prunella.verbs import VERBS

if TYPE_CHECKING:
    from prunella.stages.common import Result


@dataclass(frozen=True)
class Place:
    """Where a runner finds and puts things."""

    models: Mapping[str, str]
    data: Path
    work: Path
    results: Path
    threads: int
    mode: Mode

    def start(self, cell: Cell) -> Checkpoint:
        """The checkpoint that a cell starts from.

        Raises:
            InputError: If no folder is named for it, or it holds no checkpoint.
        """
        name = cell.entry.start
        if name not in self.models:
            raise InputError(
                f"{cell.name} starts from the checkpoint '{name}', for which there is no folder; "
                f"name it in the file of --models; {suggestion(name, list(self.models))}"
            )
        return _checkpoint(str(self.models[name]))

    def rows(self, cell: Cell) -> tuple[Path, Path]:
        """Rows to train on, and rows to score."""
        train = self.data / cell.data.train
        if not self.mode.tuning:
            return train, self.data / cell.data.reported
        if cell.data.held_out:
            return train, self.data / cell.data.held_out
        return set_aside(train, self.work / "rows", cell.data.group)


class CellRun:
    """A cell in a place; stages that were done before are passed over."""

    def __init__(self, matrix: Matrix, cell: Cell, place: Place) -> None:
        self.cell, self.place = cell, place
        teacher = matrix.teacher_of(cell)
        self.teacher = CellRun(matrix, teacher, place) if teacher else None
        before = matrix.before(cell)
        # Its rows are those of another task, so none of them has to be set aside.
        self.before = CellRun(matrix, before, replace(place, mode=Mode())) if before else None
        mode = "tuning" if place.mode.tuning else "reported"
        # With other settings or models, another folder.
        name = f"{cell.task}-seed{cell.seed}-{self.digest('fp32')}"
        self.folder = place.work / mode / cell.model / name

    def digest(self, weights: Weights) -> str:
        """Of all that decides the result: settings and models, those of the teacher as well."""
        cells = [self.cell, *(run.cell for run in (self.teacher, self.before) if run)]
        models = [self.place.start(cell).weights_hash for cell in cells]
        said = "\n".join([self.cell.settings_hash(weights), *models])
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Holds the cell's lock, if no other process does; it ends with the process."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_name(f".{self.folder.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    @property
    def fine_tuned(self) -> Path:
        """The fine-tuned checkpoint, before quantisation: what teaches others."""
        return self.folder / "fp32"

    @property
    def is_fine_tuned(self) -> bool:
        return (self.fine_tuned / PROVENANCE).exists()

    @property
    def needs(self) -> dict[Path, CellRun]:
        """The runs that have to be fine-tuned yet before this one, by their folders."""
        found: dict[Path, CellRun] = {}
        for run in (self.teacher, self.before):
            if run and not run.is_fine_tuned:
                found |= {**run.needs, run.folder: run}
        return found

    def check(self, weights: Sequence[Weights]) -> None:
        """Reads all settings and looks for all files, so that nothing fails hours later."""
        for run in (self.teacher, self.before):
            if run:
                run.check(("fp32",))
        if self.cell.stages["adapt"]:
            self._adapt_settings()
        self._fine_tune_settings()
        if "int8" in weights:
            self._quantize_settings()
        further = {f for stage in self.cell.stages.values() for f in stage.get("unlabelled", ())}
        files = [self.place.data / file for file in sorted(further)]
        for rows in (*self.place.rows(self.cell), *files):
            if not rows.exists():
                raise InputError(f"{rows}: no such file; --data names the folder of all data")

    def transfer(self) -> list[Result]:
        """Fine-tunes, after what it needs; what its stages made, the fine-tuned model last."""
        for run in self.needs.values():
            run.transfer()
        made = []
        if self.cell.stages["adapt"]:
            made.append(VERBS["adapt"].function()(self._adapt_settings()))
        return [*made, VERBS[self.cell.entry.stage].function()(self._fine_tune_settings())]

    def records(self, weights: Sequence[Weights]) -> Iterator[tuple[Weights, dict[str, Any]]]:
        """Runs the cell; yields its results as they come."""
        done = self.transfer()
        if "fp32" in weights:
            yield "fp32", self._record("fp32", self.fine_tuned, done)
        if "int8" in weights:
            settings = self._quantize_settings()
            rounded = VERBS["quantize"].function()(settings)
            yield "int8", self._record("int8", Path(settings.out), [*done, rounded])

    def clear(self, *, but_fine_tuned: bool) -> None:
        """Removes the cell's checkpoints, or all but the fine-tuned one, which teaches others."""
        for entry in self.folder.iterdir():
            if entry != self.fine_tuned or not but_fine_tuned:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _fine_tune_settings(self) -> Any:
        stage = self.cell.entry.stage
        model = self._adapted if self.cell.stages["adapt"] else self._origin
        values = self._common(stage) | {"model": str(model), "out": str(self.fine_tuned)}
        if self.before:
            values["new_head"] = True
        return parse_settings(VERBS[stage].settings, values, f"{self.cell.name}, {stage}")

    @property
    def _origin(self) -> Path:
        return self.before.fine_tuned if self.before else self.place.start(self.cell).path

    @property
    def _adapted(self) -> Path:
        return self.folder / "adapted"

    def _adapt_settings(self) -> AdaptSettings:
        values = dict(self.cell.stages["adapt"])
        for name in ("text", "validation_text"):
            values[name] = [str(self.place.data / file) for file in values.get(name, ())]
        values |= {"model": str(self._origin), "out": str(self._adapted)}
        values |= {"seed": self.cell.seed, "threads": self.place.threads}
        values |= {"cache": str(self.place.work / "texts")}
        if self.teacher:
            values["teacher"] = str(self.teacher.fine_tuned)
        return parse_settings(AdaptSettings, values, f"{self.cell.name}, adapt")

    def _quantize_settings(self) -> QuantizeSettings:
        out = self.folder / f"int8-{self.digest('int8')}"
        values = self._common("quantize") | {"model": str(self.fine_tuned), "out": str(out)}
        return parse_settings(QuantizeSettings, values, f"{self.cell.name}, quantize")

    def _common(self, stage: str) -> dict[str, Any]:
        values = {
            **self.cell.stages[stage],
            "train": str(self.place.rows(self.cell)[0]),
            "seed": self.cell.seed,
            "threads": self.place.threads,
        }
        if files := values.get("unlabelled"):
            values["unlabelled"] = [str(self.place.data / file) for file in files]
        if self.teacher:
            values["teacher"] = str(self.teacher.fine_tuned)
        return values

    def _record(self, weights: Weights, model: Path, stages: Sequence[Result]) -> dict[str, Any]:
        rows = self.place.rows(self.cell)
        asked = {"model": str(model), "data": str(rows[1]), "metric": self.cell.data.metric}
        found = VERBS["evaluate"].function()(EvaluateSettings(**asked, threads=self.place.threads))
        file = self.folder / f"{weights}.prn"
        packed = pack(PackSettings(model=str(model), out=str(file), overwrite=True)).to_json()
        file.unlink()
        cell = self.cell
        return {
            **self._place_of(weights),
            "task": cell.task,
            "seed": cell.seed,
            "weights": weights,
            "tried": self.place.mode.tried,
            "start": upstream(cell.entry.start, self.place.start(cell)),
            "rows": {"train": rows[0].name, "scored": rows[1].name},
            "settings_hash": cell.settings_hash(weights),
            "run_hash": self.digest(weights),
            "main": found.main,
            "metrics": found.metrics,
            "interval": list(found.interval),
            "examples": found.rows,
            "counts": dict(found.counts),
            "steps": sum(stage.metrics["steps"] for stage in stages if "steps" in stage.metrics),
            "tokens": sum(stage.metrics["tokens"] for stage in stages if "tokens" in stage.metrics),
            "seconds": round(sum(stage.provenance["seconds"] for stage in stages), 1),
            "sizes": {key: packed[key] for key in _SIZES} | _mask_bytes(stages),
            "machine": _machine(self.place.threads, stages),
            "versions": versions(),
            "commit": _commit(),
        }

    def taken_over(self, record: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
        """The result of the same run in another matrix, as one of this cell."""
        return {**record, **self._place_of(weights), "run_as": record.get("run_as", record["name"])}

    def _place_of(self, weights: Weights) -> dict[str, Any]:
        """Which row of which table a result is for."""
        cell = self.cell
        return {
            "name": f"{cell.matrix}/{cell.name}/{weights}",
            "matrix": cell.matrix,
            "model": cell.model,
            "family": cell.entry.family,
            "settings": {stage: layer for stage, layer in cell.layers.items() if layer},
            "teacher": cell.entry.teacher,
            "command": command(cell, self.place),
        }


def _mask_bytes(stages: Sequence[Result]) -> dict[str, int]:
    found = [s.metrics["mask_bytes"] for s in stages if "mask_bytes" in s.metrics]
    return {"mask_bytes": found[-1]} if found else {}


_SIZES = (
    "encoder_weights",
    "encoder_nonzeros",
    "model_weights",
    "model_nonzeros",
    "bytes",
    "dense_fp32_bytes",
)


def upstream(name: str, start: Checkpoint) -> dict[str, Any]:
    """A starting checkpoint: its name and hash, and the figures of the stage that made it."""
    record = start.provenance or {}
    figures = {k: v for k, v in record.get("metrics", {}).items() if isinstance(v, int | float)}
    found = {"name": name, "sha256": start.weights_hash[:12]}
    if record:
        found |= {"stage": record["stage"], "seconds": record["seconds"], "metrics": figures}
    return found


def command(cell: Cell, place: Place) -> str:
    """How to repeat a cell."""
    words = ["python", "-m", "benchmarks.experiments", cell.matrix, "--only", cell.name]
    words += ["--seeds", str(cell.seed), "--models", "MODELS.yaml", "--data", "DATA"]
    if place.mode.label:
        words += ["--tune", place.mode.label]
        words += [part for change in place.mode.changes for part in ("--set", change)]
    return shlex.join(words)


def models_of(path: str) -> dict[str, str]:
    """The folders of checkpoints by the names that matrices use, from a YAML file.

    Raises:
        InputError: If it is no such file.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a YAML file of models ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(f, str) for f in found.values()):
        raise InputError(f"{path}: expected lines of NAME: FOLDER")
    return found


@cache
def _checkpoint(folder: str) -> Checkpoint:
    """Opened once: its hash takes a moment, and every cell asks for it."""
    return open_checkpoint(Path(folder).expanduser())


@cache
def _commit() -> str | None:
    """The commit that the code is of, with a mark if it was changed since; None outside of git."""
    order = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(order, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _machine(threads: int, stages: Sequence[Result]) -> dict[str, Any]:
    import torch

    found = {**machine(), "threads": threads}
    if used := {s.provenance["arithmetic"] for s in stages if "arithmetic" in s.provenance}:
        found["arithmetic"] = ", ".join(sorted(used))
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found
