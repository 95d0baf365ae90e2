"""What `benchmarks.experiments.latency` measured, on one machine or several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.report.quality import Cost

_ISAS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "portable": "plain loops"}


@dataclass(frozen=True)
class Times:
    """Milliseconds with one instruction set on one machine, by checkpoint."""

    isa: str
    processor: str
    command: str
    medians: Mapping[str, float]

    @property
    def title(self) -> str:
        return _ISAS[self.isa]

    @property
    def cost(self) -> Cost:
        told = f"one text of 128 tokens, one thread, {self.title}, {self.processor}"
        return Cost(f"ms-{self.isa}", told, lambda ms: f"{ms:g} ms")


def times_path(results: Path, matrix: str, processor: str) -> Path:
    """The file of one machine's times, named after its processor."""
    words = "".join(c if c.isalnum() else " " for c in processor.lower()).split()
    return results / f"{matrix}-latency-{'-'.join(words)}.json"


def read_times(results: Path, matrix: str) -> list[Times]:
    """Times with each instruction set, from the machine that most checkpoints were measured on."""
    best: dict[str, Times] = {}
    for path in sorted(results.glob(f"{matrix}-latency-*.json")):
        for found in _times_of(json.loads(path.read_text(encoding="utf-8"))):
            known = best.get(found.isa)
            if known is None or len(found.medians) > len(known.medians):
                best[found.isa] = found
    return [best[isa] for isa in _ISAS if isa in best]


def _times_of(document: Mapping[str, Any]) -> list[Times]:
    rows, where = document["rows"], document["environment"]["machine"]["processor"]
    return [
        Times(
            isa,
            where,
            document["command"],
            {row["model"]: row["median"] for row in rows if row["isa"] == isa},
        )
        for isa in dict.fromkeys(row["isa"] for row in rows)
    ]
