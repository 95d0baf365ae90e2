"""The archived results: each is what its file's name says, of the settings that the matrix has now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.experiments.matrix import load_matrix
from benchmarks.experiments.records import RESULTS, Mode, read_record, record_path

FILES = sorted((RESULTS / "experiments").rglob("*.json"))
TRIED = sorted((RESULTS / "tuning").rglob("*.json"))


def named(path: Path) -> str:
    return str(path.relative_to(RESULTS))


def test_results_stand_where_they_belong() -> None:
    for path in [*FILES, *TRIED]:
        record = read_record(path)
        assert record is not None
        cell = load_matrix(record["matrix"]).cell(record["model"], record["task"], record["seed"])
        mode = Mode(record["tried"]["label"]) if record["tried"] else Mode()
        assert record_path(RESULTS, mode, cell, record["weights"]) == path, named(path)
        assert record["main"] in record["metrics"], named(path)
        assert not re.search(r'"/|"~', path.read_text(encoding="utf-8")), named(path)


@pytest.mark.skipif(not FILES, reason="nothing was run yet")
def test_results_are_of_the_settings_that_the_matrices_have() -> None:
    stale = []
    for path in FILES:
        record = read_record(path)
        assert record is not None
        cell = load_matrix(record["matrix"]).cell(record["model"], record["task"], record["seed"])
        if record["settings_hash"] != cell.settings_hash(record["weights"]):
            stale.append(record["command"])
    assert not stale, "settings changed since; run again: " + "; ".join(stale)
