"""Results of experiments: a small JSON file a run, below benchmarks/results/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.matrix import Cell, Weights
from prunella.checkpoint import write_json
from prunella.errors import InputError

RESULTS = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Mode:
    """What the figures are for: to report them, or to choose settings by them.

    `label` names the settings that are tried, `changes` are these (STAGE.KEY=VALUE).
    """

    label: str | None = None
    changes: tuple[str, ...] = ()

    @property
    def tuning(self) -> bool:
        return self.label is not None

    @property
    def tried(self) -> dict[str, Any] | None:
        return {"label": self.label, "changes": list(self.changes)} if self.tuning else None

    @property
    def folder(self) -> str:
        return "tuning" if self.tuning else "experiments"


def record_path(results: Path, mode: Mode, cell: Cell, weights: Weights) -> Path:
    """Where the result of a cell is kept."""
    name = "-".join(filter(None, (f"{cell.task}-seed{cell.seed}", mode.label, weights)))
    return results / mode.folder / cell.matrix / cell.model / f"{name}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """A result; None where there is none yet.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: not a result ({error}); remove it, and run it again") from None
    return found


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def all_records(folder: Path) -> Iterator[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    for path in sorted(folder.rglob("*-seed*.json")):
        found = read_record(path)
        if found:
            yield found
