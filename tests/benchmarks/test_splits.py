"""Rows set aside: the same on every machine, equal rows and groups on one side."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.experiments.splits import set_aside
from prunella.errors import InputError


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def source(folder: Path, count: int = 2000) -> Path:
    path = folder / "train.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({"text": f"row {i} ä", "group": i // 20}) + "\n")
    return path


def test_a_tenth_is_set_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    train, held_out = set_aside(source(tmp_path), tmp_path / "rows", None)
    ours, theirs = rows(train), rows(held_out)
    assert (train.name, held_out.name) == ("train-train.jsonl", "train-held-out.jsonl")
    assert 150 < len(theirs) < 250
    everything = {row["text"] for row in ours} | {row["text"] for row in theirs}
    assert len(ours) + len(theirs) == len(everything) == 2000
    again = set_aside(source(tmp_path), tmp_path / "again", None)
    assert again[1].read_text(encoding="utf-8") == held_out.read_text(encoding="utf-8")


def test_groups_stay_together(tmp_path: Path) -> None:
    train, held_out = set_aside(source(tmp_path), tmp_path / "rows", "group")
    ours, theirs = ({row["group"] for row in rows(path)} for path in (train, held_out))
    assert theirs and not ours & theirs


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.jsonl.gz, line 1: no column 'title'; it has text"):
        set_aside(source(tmp_path), tmp_path / "rows", "title")
    with pytest.raises(InputError, match=r"name a file for them in tasks.yaml"):
        set_aside(tmp_path / "train.tsv.gz", tmp_path / "rows", None)
