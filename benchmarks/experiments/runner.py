"""Runs the cells of a matrix, one after another; several runners may share it."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.experiments.cell import CellRun, Place
from benchmarks.experiments.matrix import Cell, Matrix, Weights
from benchmarks.experiments.records import all_records, read_record, record_path, write_record
from prunella.errors import InputError

_WAIT = 15.0


@dataclass
class Runner:
    """Walks the cells until each has its results, or has failed."""

    matrix: Matrix
    place: Place
    weights: Sequence[Weights]
    keep: bool = False
    say: Callable[[str], None] = print
    wait: float = _WAIT
    failures: dict[str, str] = field(default_factory=dict)

    def missing(self, cell: Cell) -> list[Weights]:
        """Which results of a cell are not there, or out of date."""
        run = CellRun(self.matrix, cell, self.place)
        found: list[Weights] = []
        for weights in self.weights:
            record = read_record(record_path(self.place.results, self.place.mode, cell, weights))
            if record is None or record["run_hash"] != run.digest(weights):
                found.append(weights)
        return found

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs what is missing.

        A cell that another runner is at work on is left to it; this one goes on with the next, and
        in the end waits for those, in case that runner is stopped.

        Raises:
            InputError: If settings, models or data do not fit; before anything is run.
        """
        self._take_over(cells)
        pending = [cell for cell in cells if self.missing(cell)]
        for cell in pending:
            CellRun(self.matrix, cell, self.place).check(self.weights)
        self.say(f"{len(cells)} cells, {len(pending)} of them to run")
        while pending:
            busy = [cell for cell in pending if not self._try(cell)]
            if len(busy) == len(pending):
                time.sleep(self.wait)
            pending = busy

    def _take_over(self, cells: Sequence[Cell]) -> None:
        """Takes what another matrix has run already, with the same settings, models and rows."""
        if self.place.mode.tuning:
            return
        known = {
            record["run_hash"]: record
            for record in all_records(self.place.results / self.place.mode.folder)
        }
        for cell in cells:
            run = CellRun(self.matrix, cell, self.place)
            for weights in self.missing(cell):
                record = known.get(run.digest(weights))
                if record is not None and record["weights"] == weights:
                    path = record_path(self.place.results, self.place.mode, cell, weights)
                    write_record(path, run.taken_over(record, weights))
                    self.say(f"{cell.name} {weights}: taken over from {record['name']}")

    def _try(self, cell: Cell) -> bool:
        """Runs a cell unless others are at work on it or on what it needs; whether it is done."""
        run = CellRun(self.matrix, cell, self.place)
        with ExitStack() as stack:
            if not stack.enter_context(run.lock()):
                return False
            weights = self.missing(cell)
            if not weights:
                return True
            if not all(stack.enter_context(each.lock()) for each in run.needs.values()):
                return False
            try:
                self._run(run, weights)
            except InputError as error:
                self._fail(cell, str(error))
            except Exception:
                self._fail(cell, traceback.format_exc())
        gc.collect()
        return True

    def _run(self, run: CellRun, weights: Sequence[Weights]) -> None:
        cell = run.cell
        for form, record in run.records(weights):
            write_record(record_path(self.place.results, self.place.mode, cell, form), record)
            value, (low, high) = record["metrics"][record["main"]], record["interval"]
            self.say(
                f"{cell.name} {form}: {record['main']} {100 * value:.2f} "
                f"({100 * low:.1f} to {100 * high:.1f}), {record['seconds'] / 60:.1f} min"
            )
        if not self.keep:
            run.clear(but_fine_tuned=self._is_needed(cell))

    def _is_needed(self, cell: Cell) -> bool:
        """Whether others are taught by it, or start from it."""
        teaches = any(entry.teacher == cell.model for entry in self.matrix.models.values())
        return teaches or any(task.after == cell.task for task in self.matrix.tasks.values())

    def _fail(self, cell: Cell, reason: str) -> None:
        self.failures[cell.name] = reason
        self.say(f"{cell.name}: FAILED: {reason}")
