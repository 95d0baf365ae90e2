"""What is kept of upstream runs: figures and a command, and no folder of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.experiments import tables
from benchmarks.experiments.upstream import plain_command, read_upstream, upstream_record
from prunella.checkpoint import PROVENANCE, WEIGHTS
from prunella.errors import InputError

SETTINGS = {"score": "sparsegpt", "scope": "uniform", "sparsity": 0.9, "learning_rate": 0.002}
COMMAND = "prunella prune --model /home/me/dense --text a.txt --text b.txt --cache /c --steps 400"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "sparse"
    folder.mkdir()
    save_file({"w": np.zeros(1, np.float32)}, folder / WEIGHTS)
    (folder / "config.json").write_text("{}")
    told: dict[str, Any] = {
        "stage": "prune",
        "settings": {**SETTINGS, "densities": {}, "batch_tokens": 2048, "seed": 0, "model": "/me"},
        "sparsity": {"total": 0.9001},
        "metrics": {"hidden_distance": 0.147, "tokens": 819_200, "steps": 400},
        "seconds": 451.1,
        "parents": {"model": {"path": "/home/me/dense", "sha256": "ab" * 32}},
        "machine": {"processor": "P"},
        "versions": {"torch": "2"},
        "command": COMMAND.split(),
    }
    (folder / PROVENANCE).write_text(json.dumps(told))
    return folder


def test_figures_and_command_without_paths(checkpoint: Path) -> None:
    found = upstream_record("sparsegpt", str(checkpoint))
    assert found["command"] == "prunella prune --model MODEL --text TEXT --text TEXT --steps 400"
    assert "/home" not in json.dumps(found)
    shown = tables.upstream_scores_table([found])
    assert "| sparsegpt | uniform | 90 % | 0.82 M | 7.5 | 0.147 |" in shown
    found["settings"]["densities"] = {"ffn_in": 0.2, "query": 0.5, "key": 0.5}
    shown = tables.upstream_scores_table([found])
    assert "| sparsegpt | ffn in keep 20 %; query, key keep 50 %; uniform | 90 % |" in shown


def test_other_stages_are_refused(checkpoint: Path) -> None:
    (checkpoint / PROVENANCE).write_text('{"stage": "transfer"}')
    with pytest.raises(InputError, match="was not made by `prunella prune`"):
        upstream_record("x", str(checkpoint))


def test_the_archive_holds_no_paths_of_a_machine() -> None:
    archived = read_upstream()
    assert archived
    for record in archived:
        assert record["command"] == plain_command(record["command"].split())
        assert '"/' not in json.dumps(record) and " /" not in record["command"]
