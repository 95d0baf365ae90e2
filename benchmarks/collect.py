"""Condenses the results.json of a recipe run into benchmarks/results/NAME.json.

prunella run recipes/minilm-sst2.yaml --set ...
python benchmarks/collect.py runs/minilm-sst2 --command "prunella run recipes/minilm-sst2.yaml"
python benchmarks/tables.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_UPSTREAM = ("teach", "prune")


def condense(document: dict[str, Any], command: str) -> dict[str, Any]:
    """What a reader needs of a run: its figures, and what decided them.

    Args:
        document: What `prunella run` wrote as results.json.
        command: How to repeat it.
    """
    stages = [step for step in document["steps"] if "stage" in step]
    first = stages[0]
    return {
        "name": document["recipe"],
        "about": document["about"],
        "command": command,
        "machine": first["machine"],
        "versions": first["versions"],
        "seeds": sorted({step["settings"]["seed"] for step in stages}),
        "upstream": [_stage(step) for step in stages if step["stage"] in _UPSTREAM],
        "fine_tuning": [_stage(step) for step in stages if step["stage"] not in _UPSTREAM],
        "rows": _rows(document["steps"]),
    }


def _stage(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": step["stage"],
        "target": Path(step["target"]).name,
        "parent": {part: Path(p["path"]).name for part, p in step["parents"].items()},
        "sparsity": step["sparsity"]["total"],
        "settings": {
            key: value
            for key, value in step["settings"].items()
            if key
            not in (
                "out",
                "model",
                "teacher",
                "text",
                "validation_text",
                "train",
                "validation",
                "cache",
            )
        },
        "metrics": step["metrics"],
        "seconds": step["seconds"],
    }


def _rows(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    packs = {Path(s["target"]).stem: s for s in steps if s["verb"] == "pack"}
    rows = []
    for step in steps:
        if step["verb"] != "evaluate":
            continue
        name = Path(step["model"]).name
        pack = packs.get(name, {})
        rows.append(
            {
                "model": name,
                "metric": step["main"],
                "value": step["metrics"][step["main"]],
                "interval": step["interval"],
                "rows": step["rows"],
                "sparsity": pack.get("sparsity"),
                "encoder_weights": pack.get("encoder_weights"),
                "encoder_nonzeros": pack.get("encoder_nonzeros"),
                "model_weights": pack.get("model_weights"),
                "model_nonzeros": pack.get("model_nonzeros"),
                "bytes": pack.get("bytes"),
                "dense_fp32_bytes": pack.get("dense_fp32_bytes"),
                "ratio": pack.get("ratio"),
                "nominal_ratio": pack.get("nominal_ratio"),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a recipe run, with results.json")
    parser.add_argument("--command", required=True, help="the command that repeats the run")
    arguments = parser.parse_args()
    document = json.loads((arguments.run / "results.json").read_text(encoding="utf-8"))
    condensed = condense(document, arguments.command)
    path = RESULTS / f"{condensed['name']}.json"
    path.write_text(json.dumps(condensed, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
