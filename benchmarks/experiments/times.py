"""What `benchmarks.experiments.latency` measured, on one machine or several."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.report.quality import Cost

_ISAS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "portable": "plain loops"}
_ORDER = list(_ISAS)
"""The best one first."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one text with one instruction set on one machine, by checkpoint."""

    isa: str
    length: int
    processor: str
    command: str
    medians: Mapping[str, float]

    @property
    def title(self) -> str:
        return f"{_ISAS[self.isa]}, {self.length} tokens"

    @property
    def cost(self) -> Cost:
        told = f"one text, one thread, {self.title}, {self.processor}"
        return Cost(f"ms-{self.isa}-{self.length}", told, lambda ms: f"{ms:g} ms")


def times_path(results: Path, matrix: str, processor: str, isas: Iterable[str]) -> Path:
    """The file of one machine's times, named after its processor and the best of its sets.

    A processor's name alone does not tell what it can do: several generations may share it.
    """
    words = "".join(c if c.isalnum() else " " for c in processor.lower()).split()
    return results / f"{matrix}-latency-{'-'.join(words)}-{min(isas, key=_ORDER.index)}.json"


def read_times(results: Path, matrix: str) -> list[Times]:
    """Times by instruction set and length.

    Each is from the machine on which the fewest sets are better, as that is where one would use it;
    of several, from the one that measured most checkpoints.
    """
    best: dict[tuple[str, int], tuple[tuple[int, int], Times]] = {}
    for path in sorted(results.glob(f"{matrix}-latency-*.json")):
        all_found = _times_of(json.loads(path.read_text(encoding="utf-8")))
        sets = {found.isa for found in all_found}
        for found in all_found:
            better = sum(_ORDER.index(isa) < _ORDER.index(found.isa) for isa in sets)
            rank = (better, -len(found.medians))
            known = best.get((found.isa, found.length))
            if known is None or rank < known[0]:
                best[found.isa, found.length] = rank, found
    keys = sorted(best, key=lambda key: (_ORDER.index(key[0]), key[1]))
    return [best[key][1] for key in keys]


def _times_of(document: Mapping[str, Any]) -> list[Times]:
    rows, where = document["rows"], document["environment"]["machine"]["processor"]
    return [
        Times(
            isa,
            length,
            where,
            document["command"],
            {r["model"]: r["median"] for r in rows if (r["isa"], r["length"]) == (isa, length)},
        )
        for isa, length in dict.fromkeys((row["isa"], row["length"]) for row in rows)
    ]
