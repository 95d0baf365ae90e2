"""The tree of sub-networks, and what labels explain of it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from study.conftest import Make
from study.test_study import of

from prunella.cli import main
from prunella.study.clustering import cluster, labels_of
from prunella.study.overlap import Overlap
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
    method, task = found.explained
    assert (method.label, task.label) == ("method", "task")
    assert method.within == pytest.approx(0.2) and method.between == pytest.approx(0.9)
    # 2 of the 70 ways to make two groups of four are this one.
    assert 0.01 < method.p < 0.05
    assert task.p > 0.3


def test_labels_that_cannot_be_tested_are_left_out() -> None:
    overlaps = pairs({(0, 1): 0.5, (0, 2): 0.5, (1, 2): None})
    assert not cluster(3, overlaps, {"all": ["a"] * 3, "each": ["a", "b", "c"]}).explained


def test_labels_come_from_records() -> None:
    records = [
        {"settings": {"score": "wanda", "text": ["/x/b.txt", "/y/a.txt"]}},
        {"settings": {"method": "smp", "train": "/z/rows.csv"}},
        {"settings": {"prune": {"score": "l0"}, "train": "hub:glue/rte"}},
        {},
    ]
    assert labels_of(records) == {
        "method": ["wanda", "smp", "l0", None],
        "task": ["a.txt, b.txt", "rows.csv", "rte", None],
    }


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
