"""The engine beside PyTorch on real labelled rows: equal predictions, and the metric of both.

python -m benchmarks.agreement --data sst2_dev.jsonl.gz --text sentence sst2-int8 sst2-sparse90
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich import print as show

import prunella
from benchmarks.common import environment
from prunella.checkpoint import write_json
from prunella.data.readers import read_table
from prunella.engine.compiled import usable_isas
from prunella.packing import pack
from prunella.report.tables import Column
from prunella.report.terminal import table
from prunella.settings import EvaluateSettings, PackSettings
from prunella.stages.evaluate import evaluate_alone

RESULT = Path(__file__).parent / "results" / "agreement.json"


def measure(model: Path, data: str, text: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """One row for each instruction set."""
    file, kept = folder / f"{model.name}.prn", folder / f"{model.name}.jsonl"
    packed = pack(PackSettings(model=str(model), out=str(file)))
    torch = evaluate_alone(
        EvaluateSettings(model=str(model), data=data, predictions=str(kept), threads=threads)
    )
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    theirs = [str(line["prediction"]) for line in lines]
    rows: list[Any] = list(read_table(data))
    texts, labels = [row[text] for row in rows], [str(row["label"]) for row in rows]
    found = []
    for isa in usable_isas():
        runner = prunella.load(file, threads=threads, isa=isa)
        ours = [result.label for result in runner(texts)]
        names = {name: str(i) for i, name in enumerate(runner.labels)}
        by_number = [names.get(label, label) for label in ours]
        if set(theirs) <= set(runner.labels):
            theirs = [names[label] for label in theirs]
        correct = float(
            np.mean([a in (b, names.get(b)) for a, b in zip(by_number, labels, strict=True)])
        )
        found.append(
            {
                "model": model.name,
                "weights": packed.weights,
                "isa": isa,
                "rows": len(rows),
                "agreement": float(
                    np.mean([a == b for a, b in zip(by_number, theirs, strict=True)])
                ),
                "metric": torch.main,
                "torch": torch.metrics[torch.main],
                "engine": correct,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="fine-tuned single-text classifiers")
    parser.add_argument("--data", required=True, help="rows with a column `label`")
    parser.add_argument("--text", required=True, help="the column of the text")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="prunella-agreement-") as folder:
        for model in arguments.models:
            rows += measure(model, arguments.data, arguments.text, Path(folder), arguments.threads)
    given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    document = {
        "name": RESULT.stem,
        "command": shlex.join(["python", "-m", "benchmarks.agreement", *given]),
        "rows": rows,
        "environment": environment(),
    }
    write_json(RESULT, document)
    columns = [Column("model"), Column("weights"), Column("isa")]
    columns += [Column(name, format=".4f") for name in ("agreement", "torch", "engine")]
    cells = [[row[c.label] for c in columns] for row in rows]
    show(table(columns, cells, "The engine beside PyTorch"))


if __name__ == "__main__":
    main()
