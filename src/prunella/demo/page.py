"""The demo's report: one HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.checkpoint import machine, open_checkpoint, versions
from prunella.report import plots
from prunella.report.html import Code, Fact, Facts, Figure, Page, Section, write
from prunella.report.tables import Cell, Column, Table, human_bytes
from prunella.roles import role_of

if TYPE_CHECKING:
    from prunella.demo.run import Row

_LABELS = {"single": "Task 1", "pair": "Task 2"}
_RUNS = {
    "dense": "teach (dense)",
    "sparse": "prune (sparse)",
    "single-sparse": "transfer (task 1)",
    "single-int8": "quantize (task 1)",
}


def write_page(folder: Path, rows: Sequence[Row], tasks: dict[str, str], seconds: float) -> Path:
    """Writes report.html into the demo's folder."""
    dense, small = rows[0], rows[-1]
    ratio = dense.encoder_bytes / small.encoder_bytes
    kept = 100 * (1 - small.sparsity)
    page = Page(
        title="Prunella demo",
        lead=(
            f"A small BERT, pruned once to {100 * small.sparsity:.0f} % zeros and quantised to 8 "
            f"bits: its encoder takes {ratio:.0f} times fewer bytes than the dense one."
        ),
        sections=[
            Section("", blocks=[_facts(dense, small, ratio, kept)]),
            Section("Result", _explanation(tasks), [_table(rows)]),
            Section(
                "Quality against size",
                "Bytes are those of the packed file, measured on disk; the bars are 95 % "
                "bootstrap intervals over the held-out rows.",
                [_quality(rows)],
            ),
            Section(
                "What was pruned",
                "Every matrix of the encoder reaches the same share of zeros by itself. "
                "Embeddings, LayerNorm, biases and heads stay dense.",
                [_heat_map(folder)],
            ),
            Section("How it was trained", "", [_curves(folder)]),
            Section(
                "Next",
                "The same with a model and text of your own:",
                [
                    Code(
                        "prunella prune --model MODEL --text 'docs/*.txt' --out sparse "
                        "--mlm 0 --distillation.logits 0 --distillation.hidden 1\n"
                        "prunella transfer --model sparse --train train.jsonl "
                        "--validation dev.jsonl --out task"
                    )
                ],
            ),
        ],
        footer=_footer(seconds),
    )
    return write(page, folder / "report.html")


def _facts(dense: Row, small: Row, ratio: float, kept: float) -> Facts:
    items = [
        Fact(f"{ratio:.0f}×", "smaller encoder", f"{human_bytes(small.encoder_bytes)} on disk"),
        Fact(f"{kept:.0f} %", "of the encoder's weights kept", "pruned once, for both tasks"),
    ]
    items += [
        Fact(
            f"{100 * small.quality[task]:.1f} %",
            f"{label}: accuracy",
            f"dense {100 * dense.quality[task]:.1f} %",
        )
        for task, label in _LABELS.items()
    ]
    return Facts(items)


def _explanation(tasks: dict[str, str]) -> str:
    described = "\n\n".join(f"{label}: {tasks[task]}" for task, label in _LABELS.items())
    return (
        f"{described}\n\nPyTorch multiplies zeros like any other number, so there the sparse "
        "models are no faster, only smaller."
    )


def _table(rows: Sequence[Row]) -> Table:
    columns = [
        Column("Model"),
        *(Column(label, unit="accuracy", format=".1%", numeric=True) for label in _LABELS.values()),
        Column("Zeros", help="in the encoder's matrices", format=".1%", numeric=True),
        Column("Encoder", unit="on disk", format="bytes", numeric=True),
        Column(
            "File",
            unit="on disk",
            help="all a deployment needs: also embeddings, head and tokenizer",
            format="bytes",
            numeric=True,
        ),
        Column("PyTorch", unit="ms a text", help="one thread, fp32", format=".2f", numeric=True),
    ]
    return Table(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> list[Any]:
    scores = [
        Cell(row.quality[task], "95 % interval {:.1%} to {:.1%}".format(*row.interval[task]))
        for task in _LABELS
    ]
    sizes = [row.encoder_bytes, row.file_bytes]
    return [row.name, *scores, row.sparsity, *sizes, row.milliseconds]


def _quality(rows: Sequence[Row]) -> Figure:
    points = [
        {
            "label": f"{row.name}, {label.lower()}",
            "family": label,
            "bytes": row.encoder_bytes,
            "quality": row.quality[task],
            "low": row.interval[task][0],
            "high": row.interval[task][1],
        }
        for task, label in _LABELS.items()
        for row in rows
    ]
    caption = "Accuracy of each task against the bytes of the encoder."
    return Figure(plots.quality_against_size(points), caption, caption)


def _heat_map(folder: Path) -> Figure:
    sparsity = open_checkpoint(folder / "sparse").sparsity()
    roles = {name: role for name in sparsity if (role := role_of(name))}
    caption = "Share of zeros of each matrix, layer by role."
    return Figure(plots.sparsity_by_matrix(sparsity, roles), caption, caption)


def _curves(folder: Path) -> Figure:
    series = {label: _log(folder / name / "log.jsonl") for name, label in _RUNS.items()}
    caption = "Loss, zeros and learning rate over the steps of each stage."
    return Figure(plots.training_curves(series), caption, caption)


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _footer(seconds: float) -> str:
    host = machine()
    found = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{host['processor']}, {host['cores']} cores; {seconds:.0f} s in all. {found}."
