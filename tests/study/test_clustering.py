"""The tree of sub-networks, and what labels explain of it."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study.conftest import Make
from study.test_study import of

from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.study.clustering import cluster
from prunella.study.overlap import Overlap
from prunella.study.records import labels_of
from prunella.study.run import study


def pairs(agreements: dict[tuple[int, int], float | None]) -> list[Overlap]:
    return [Overlap(*ij, 0, 0, 0, 0, a, None, None, None, {}) for ij, a in agreements.items()]


def test_the_nearest_join_first() -> None:
    found = cluster(3, pairs({(0, 1): 0.2, (0, 2): 0.9, (1, 2): 0.4}), {})
    near, far = found.joins
    assert near.at == pytest.approx(0.1)
    assert far.at == pytest.approx((0.8 + 0.6) / 2)  # average linkage
    assert sorted(found.order) == [0, 1, 2]
    assert abs(found.order.index(0) - found.order.index(2)) == 1
    assert {near.first_at, near.second_at} == {0.0}


def test_a_label_that_decides_and_one_that_does_not() -> None:
    methods = ["a"] * 4 + ["b"] * 4
    tasks = ["x", "y"] * 4
    near = {(i, j): 0.8 if methods[i] == methods[j] else 0.1 for i, j in combinations(range(8), 2)}
    found = cluster(8, pairs(near), {"method": methods, "task": tasks, "none": [None] * 8})
    assert found.left_out == {"method": 0, "task": 0, "none": 8}
    method, task = found.explained
    assert (method.label, task.label) == ("method", "task")
    assert method.within == pytest.approx(0.2) and method.between == pytest.approx(0.9)
    # 2 of the 70 ways to make two groups of four are this one.
    assert 0.01 < method.p < 0.05
    assert task.p > 0.3


def test_labels_that_cannot_be_tested_are_left_out() -> None:
    overlaps = pairs({(0, 1): 0.5, (0, 2): 0.5, (1, 2): None})
    assert not cluster(3, overlaps, {"all": ["a"] * 3, "each": ["a", "b", "c"]}).explained


def labels(records: list[dict[str, Any]]) -> dict[str, list[str | None]]:
    return labels_of(records, [Path("/nowhere")] * len(records))


def trained(file: str, **hashes: str) -> dict[str, Any]:
    return {"settings": {"train": file}, "identity": {"sha256": "0", "data": hashes}}


def test_labels_come_from_records() -> None:
    records: list[dict[str, Any]] = [
        {"settings": {"score": "wanda", "text": ["/x/b.txt", "/y/a.txt"]}},
        {"settings": {"method": "smp", "train": "/z/rows.csv"}},
        {"settings": {"prune": {"score": "l0"}, "train": "hub:glue/rte"}},
        {},
    ]
    assert labels(records) == {
        "method": ["wanda", "smp", "l0", None],
        "task": ["a.txt, b.txt", "rows.csv", "rte", None],
    }
    assert labels([{"settings": 3}, {"settings": {"train": 3}}])["task"] == [None, None]


def test_a_task_is_what_its_files_held() -> None:
    records = [
        trained("/data/sst2/train.jsonl", train="a" * 64),
        trained("/data/stsb/train.jsonl", train="b" * 64),
        trained("/copies/sentiment.jsonl", train="a" * 64, validation="c" * 64),
        trained("/data/rte/rows.csv", train="d" * 64),
        {"mask": {"method": "smp", "train": "train.jsonl", "data": {"train": "b" * 64}}},
    ]
    first, second = "sst2/train.jsonl", "stsb/train.jsonl"
    assert labels(records)["task"] == [first, second, first, "rows.csv", second]


def test_one_file_with_other_contents_since_is_another_task() -> None:
    records = [trained("/x/train.jsonl", train=hash * 64) for hash in "ab"]
    names = labels(records)["task"]
    assert names == [f"//x/train.jsonl ({h * 8})" for h in "ab"]


def test_a_data_set_of_the_hub_is_one_task_under_all_of_its_names() -> None:
    records = [trained("hub:glue/sst2", train="a" * 64), trained("hub:SST-2", train="b" * 64)]
    first, second = labels(records)["task"]
    assert first == second == "sst2"


def test_a_mask_that_was_locked_since_has_the_method_of_a_parent(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(name: str, stage: str, parent: Path, path: str, **more: Any) -> Path:
        said = open_checkpoint(parent)
        assert said.provenance is not None
        model = {"path": path, "sha256": said.weights_hash, "stage": said.provenance["stage"]}
        return checkpoint(name, record={"stage": stage, "parents": {"model": model}, **more})

    pruned = checkpoint("pruned", record={"stage": "prune", "settings": {"score": "movement"}})
    tuned = child("tuned", "transfer", pruned, "pruned")  # relative, from the folder of both
    last = child("last", "quantize", tuned, str(tuned), settings={"prune": None})
    applied = child("applied", "apply-mask", pruned, str(pruned), mask={"method": "smp"})
    old = child("old", "apply-mask", pruned, str(pruned))
    monkeypatch.chdir("/")

    def methods(*folders: Path) -> list[str | None]:
        records = [open_checkpoint(folder).provenance or {} for folder in folders]
        return labels_of(records, [folder.parent for folder in folders])["method"]

    # What a mask removed was not chosen by the method that its backbone was pruned by.
    wanted = ["movement", "movement", "smp", None]
    assert methods(tuned, last, applied, old) == wanted
    (pruned / "config.json").write_text('{"model_type": "bert", "changed": true}')
    assert methods(tuned, last, applied) == [None, None, "smp"]
    shutil.rmtree(pruned)
    assert methods(last) == [None]


def test_sub_networks_that_no_test_counts_are_counted(checkpoint: Make, tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((5, 4, 4)) > 0.5
    settings = [{"score": s, "text": "/x/a.txt"} for s in ("wanda", "wanda", "l0", "l0")]
    folders = [
        checkpoint(f"net-{i}", query=mask, record={"settings": given})
        for i, (mask, given) in enumerate(zip(masks, [*settings, {}], strict=True))
    ]
    out = tmp_path / "page.html"
    found = study(of(*folders, out=str(out))).to_json()["clusters"]
    assert found["left_out"] == {"method": 1, "task": 1}
    assert [e["label"] for e in found["explained"]] == ["method"]
    assert "Left out of the test, of 5, as no record says: method 1, task 1." in out.read_text()
    found = study(of(*folders[2:], out=str(out), overwrite=True)).to_json()["clusters"]
    assert not found["explained"]
    assert "of 3, as no record says: method 1, task 1." in out.read_text()


def test_on_the_page(checkpoint: Make, tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((3, 4, 4)) > 0.5
    folders = [checkpoint(f"net-{i}", query=mask) for i, mask in enumerate(masks)]
    out = tmp_path / "page.html"
    assert main(["study", *map(str, folders), "--out", str(out), "--no-spectra"]) == 0
    text = out.read_text()
    assert "<h2>Clusters" in text and text.count("joined at") == 2
    document = study(of(*folders)).to_json()
    assert sorted(document["clusters"]["order"]) == ["net-0", "net-1", "net-2"]
    assert study(of(*folders[:2])).to_json()["clusters"] is None
