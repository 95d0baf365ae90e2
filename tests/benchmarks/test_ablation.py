"""Masks changed in one way each, with the densities of the learned one."""

from __future__ import annotations

import numpy as np

from benchmarks.experiments.ablation import variants


def test_each_variant_keeps_as_many_weights() -> None:
    draw = np.random.default_rng(0)
    dense = {"a": draw.standard_normal((6, 8), np.float32), "b": np.ones((3, 3), np.float32)}
    mask = {"a": draw.random((6, 8)) > 0.6, "b": np.eye(3, dtype=bool)}
    learned = {name: dense[name] * mask[name] for name in dense}
    found = list(variants(learned, dense))
    assert [name for name, _, _ in found[:5]] == ["learned"] + [
        "shuffled within its matrix"
    ] * 3 + ["largest weights instead"]
    for name, _, matrices in found[:-1]:
        for key, matrix in matrices.items():
            assert np.count_nonzero(matrix) == mask[key].sum(), name
            assert matrix.dtype == np.float32
    shuffled, largest = found[1][2]["a"], found[4][2]["a"]
    assert np.array_equal(shuffled[shuffled != 0], dense["a"][shuffled != 0])
    assert (shuffled != learned["a"]).any()
    assert np.abs(largest[largest != 0]).min() >= np.abs(dense["a"][largest == 0]).max()
    moved = found[5][2]["a"]
    assert np.array_equal(moved != 0, mask["a"]) and (moved != learned["a"]).any()
    assert found[-1][0] == "nothing removed" and found[-1][2] is dense
