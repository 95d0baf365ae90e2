"""Runs a matrix of experiments: what is missing of it, one cell after another.

A cell whose result is there is passed over; a killed run resumes where it was. Several of these
may share a matrix, its --work and --results: each takes the next cell that is free, so run one for
each core. The rows of reported figures are for reporting: to choose settings, --tune scores rows
that are set aside from train, and keeps the results elsewhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.cell import Place, models_of
from benchmarks.experiments.matrix import STAGES, Cell, Weights, joined, load_matrix, names
from benchmarks.experiments.records import RESULTS, Mode
from benchmarks.experiments.runner import Runner
from prunella.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        changes = _changes(given.set)
        if given.set and not given.tune:
            raise InputError(
                "--set tries settings, so it goes with --tune LABEL; for good, edit "
                f"{given.matrix}.yaml"
            )
        matrix = load_matrix(given.matrix)
        seeds = _seeds(given.seeds) if given.seeds else matrix.seeds
        cells = matrix.cells(seeds, given.only, changes)
        place = Place(
            models_of(given.models),
            Path(given.data),
            Path(given.work),
            Path(given.results),
            given.threads,
            Mode(given.tune, tuple(given.set)),
        )
        weights: list[Weights] = [
            w for w in matrix.weights if not given.weights or w == given.weights
        ]
        runner = Runner(matrix, place, weights, keep=given.keep or bool(given.tune), say=_say)
        if given.list:
            for cell in cells:
                print(f"{cell.name:<40} {_status(runner, cell)}")
            return 0
        runner.run(cells)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if runner.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("matrix", choices=names(), help="which matrix")
    parser.add_argument(
        "--models", required=True, help="YAML file: name of a checkpoint: its folder"
    )
    parser.add_argument("--data", required=True, help="folder of the tasks' files (tasks.yaml)")
    parser.add_argument("--work", default="runs/experiments", help="folder for checkpoints")
    parser.add_argument("--only", action="append", default=[], metavar="MODEL[/TASK[/SEED]]",
                        help="these cells, * for any; may be repeated")  # fmt: skip
    parser.add_argument("--seeds", help="seeds between commas, instead of the matrix's own")
    parser.add_argument("--weights", choices=("fp32", "int8"), help="this form alone")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--tune", metavar="LABEL", help="score rows set aside from train")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE",
                        help="with --tune: a setting to try; may be repeated")  # fmt: skip
    parser.add_argument(
        "--results", default=str(RESULTS), help=f"default: {os.path.relpath(RESULTS)}"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep all checkpoints, not only teachers"
    )
    parser.add_argument("--list", action="store_true", help="show the cells, and run none")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text}: expected whole numbers between commas") from None


def _changes(given: list[str]) -> dict[str, Any]:
    """Settings by stage from STAGE.KEY=VALUE; values are read as YAML."""
    found: dict[str, Any] = {}
    for change in given:
        key, equals, value = change.partition("=")
        stage, *path = key.split(".")
        if not equals or stage not in STAGES or not path:
            raise InputError(
                f"--set {change}: expected STAGE.KEY=VALUE; stages: {', '.join(STAGES)}"
            )
        nested: Any = yaml.safe_load(value)
        for part in reversed(path):
            nested = {part: nested}
        found = joined(found, {stage: nested})
    return found


def _status(runner: Runner, cell: Cell) -> str:
    try:
        missing = runner.missing(cell)
    except InputError as error:
        return f"cannot be run: {error}"
    return f"to run: {', '.join(missing)}" if missing else "there"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
