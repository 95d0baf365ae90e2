"""The demo: the whole of the main job on text that every Python installation carries."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from prunella import display
from prunella.demo.page import write_page
from prunella.demo.tasks import write_tasks
from prunella.demo.text import read_documents, write_corpus
from prunella.errors import InputError
from prunella.latency import latencies
from prunella.recipe import Recipe, load_recipe, run_recipe
from prunella.report.tables import Column, human_bytes
from prunella.report.terminal import table

VARIANTS = ("dense", "sparse", "int8")
TASKS = ("single", "pair")
_NAMES = {"dense": "dense", "sparse": "sparse", "int8": "sparse + int8"}
_TOKENS = 32


@dataclass(frozen=True)
class Row:
    """One variant of the model: its figures."""

    name: str
    quality: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    sparsity: float
    encoder_bytes: int
    file_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, and where its report is."""

    rows: Sequence[Row]
    tasks: Mapping[str, str]
    document: dict[str, Any]
    report: Path

    def show(self) -> None:
        """Prints the table and the next command."""
        show(self)


def run_demo(
    out: str, *, overwrite: bool = False, values: Mapping[str, str] | None = None
) -> DemoResult:
    """Runs the demo; run again, it resumes.

    Args:
        out: Folder for everything it makes.
        overwrite: Start anew.
        values: Replace variables of its recipe (`demo/recipe.yaml`).

    Raises:
        InputError: If the folder cannot be used.
    """
    begun = time.monotonic()
    folder = Path(out)
    data = {**_prepare(folder, overwrite), **(values or {})}
    resource = files("prunella.demo") / "recipe.yaml"
    with as_file(resource) as path:
        recipe = load_recipe(path, out=out, values=data)
        shutil.copyfile(path, folder / "recipe.yaml")
    results = run_recipe(recipe, before=display.announce_step(recipe))
    rows = _rows(folder, recipe, results)
    tasks = json.loads((folder / "data" / "tasks.json").read_text(encoding="utf-8"))
    seconds = time.monotonic() - begun
    report = write_page(folder, rows, tasks, seconds)
    document = {
        "rows": [vars(row) for row in rows],
        "tasks": tasks,
        "seconds": round(seconds, 1),
        "report": str(report),
    }
    return DemoResult(rows, tasks, document, report)


def _prepare(folder: Path, overwrite: bool) -> dict[str, str]:
    """Writes the corpus and the tasks, once."""
    console = Console(stderr=True, highlight=False)
    if folder.exists() and not (folder / "data").exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds other files; choose another --out")
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    data = folder / "data"
    values = {"text": str(data / "corpus.txt")} | {task: str(data / task) for task in TASKS}
    if (data / "tasks.json").exists():
        return values
    console.print("[bold]text[/]  docstrings and the language reference of this installation")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{data}: cannot be written ({error.strerror}); choose --out") from None
    read = read_documents()
    write_corpus(data, read)
    described = write_tasks(data, read)
    (data / "tasks.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    return values


def _rows(folder: Path, recipe: Recipe, results: Sequence[Any]) -> list[Row]:
    found: dict[tuple[str, str], Any] = {}
    for step, result in zip(recipe.steps, results, strict=True):
        settings: Any = step.settings
        found[step.verb.name, Path(getattr(settings, "out", None) or settings.model).name] = result
    times = latencies(
        {variant: folder / f"single-{variant}" for variant in VARIANTS}, length=_TOKENS, threads=1
    )
    rows = []
    for variant in VARIANTS:
        scores = {task: found["evaluate", f"{task}-{variant}"] for task in TASKS}
        packed = found["pack", f"single-{variant}.prn"].sizes
        rows.append(
            Row(
                _NAMES[variant],
                {task: e.metrics[e.main] for task, e in scores.items()},
                {task: e.interval for task, e in scores.items()},
                packed.encoder.sparsity,
                packed.encoder.stored,
                packed.model.stored,
                times[variant],
            )
        )
    return rows


def show(result: DemoResult) -> None:
    """Prints the table of the demo, what it means, and the next command."""
    console = Console(highlight=False)
    columns = [
        Column("model"),
        Column("task 1", unit="accuracy %", numeric=True, format=".1f"),
        Column("task 2", unit="accuracy %", numeric=True, format=".1f"),
        Column("zeros", unit="%", numeric=True, format=".1f"),
        Column("encoder", unit="on disk", numeric=True),
        Column("file", unit="on disk", numeric=True),
        Column("PyTorch", unit="ms/text", numeric=True, format=".2f"),
    ]
    rows = [
        [
            row.name,
            *(100 * row.quality[task] for task in TASKS),
            100 * row.sparsity,
            human_bytes(row.encoder_bytes),
            human_bytes(row.file_bytes),
            row.milliseconds,
        ]
        for row in result.rows
    ]
    console.print(table(columns, rows))
    for number, task in enumerate(TASKS, start=1):
        console.print(f"task {number}: {result.tasks[task]}")
    console.print(
        "PyTorch multiplies the zeros too, so there the sparse models are no faster; they are "
        "smaller, and ready for an engine that skips zeros."
    )
    console.print(f"took {result.document['seconds']:.0f} s; report: {result.report}")
    console.print(
        "next, with your own model and text:\n"
        "  prunella prune --model MODEL --text 'docs/*.txt' --out sparse "
        "--mlm 0 --distillation.logits 0 --distillation.hidden 1",
        soft_wrap=True,
    )
