"""What rounding the embedding tables costs: pack, unpack and evaluate each checkpoint in each way.

python -m benchmarks.embeddings --data sst2_dev.jsonl.gz sst2-dense sst2-sparse-90 sst2-int8
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich import print as show

from benchmarks.common import environment
from prunella.checkpoint import write_json
from prunella.packing import pack, unpack
from prunella.report.tables import Column
from prunella.report.terminal import table
from prunella.settings import EvaluateSettings, PackSettings, UnpackSettings
from prunella.stages.evaluate import evaluate_alone

Kind = Literal["fp32", "bf16", "int8"]
RESULT = Path(__file__).parent / "results" / "embeddings.json"


def measure(model: Path, data: str, kind: Kind, folder: Path, threads: int) -> dict[str, Any]:
    """Packs a checkpoint with its tables in one way, and evaluates what comes out again."""
    name = f"{model.name}-{kind}"
    file, back = folder / f"{name}.prn", folder / name
    packed = pack(PackSettings(model=str(model), out=str(file), embeddings=kind))
    unpack(UnpackSettings(model=str(file), out=str(back)))
    found = evaluate_alone(
        EvaluateSettings(
            model=str(back),
            data=data,
            predictions=str(folder / f"{name}.jsonl"),
            threads=threads,
        )
    )
    return {
        "model": model.name,
        "weights": packed.weights,
        "embeddings": kind,
        "metric": found.main,
        "value": found.metrics[found.main],
        "interval": found.interval,
        "rows": found.rows,
        "bytes": {
            "embeddings": packed.sizes.embeddings.stored,
            "model": packed.sizes.model.stored,
        },
        "dense_fp32_bytes": {
            "embeddings": packed.sizes.embeddings.fp32,
            "model": packed.sizes.model.fp32,
        },
        **_against(folder / f"{name}.jsonl", folder / f"{model.name}-fp32.jsonl"),
    }


def _against(predictions: Path, exact: Path) -> dict[str, float]:
    """How far predictions lie from those with exact tables."""
    ours, theirs = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (predictions, exact)
    )
    same = [a["prediction"] == b["prediction"] for a, b in zip(ours, theirs, strict=True)]
    logits = [np.array([row["logits"] for row in rows]) for rows in (ours, theirs)]
    return {
        "agreement": float(np.mean(same)),
        "largest_difference_of_logits": float(np.abs(logits[0] - logits[1]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="fine-tuned checkpoints")
    parser.add_argument("--data", required=True, help="labelled rows")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="prunella-embeddings-") as folder:
        for model in arguments.models:
            for kind in get_args(Kind):
                given = (model, arguments.data, kind, Path(folder), arguments.threads)
                rows.append(measure(*given))
    given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    document = {
        "name": RESULT.stem,
        "command": shlex.join(["python", "-m", "benchmarks.embeddings", *given]),
        "rows": rows,
        "environment": environment(),
    }
    write_json(RESULT, document)
    columns = [Column("model"), Column("tables"), Column("metric"), Column("value", format=".4f")]
    columns += [Column("agreement", format=".4f"), Column("tables, MB", format=".2f")]
    cells = [
        [
            *(row["model"], row["embeddings"], row["metric"], row["value"], row["agreement"]),
            row["bytes"]["embeddings"] / 1e6,
        ]
        for row in rows
    ]
    show(table(columns, cells, "Embedding tables, rounded"))


if __name__ == "__main__":
    main()
