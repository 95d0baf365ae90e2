"""Measured sizes: against hand counts, the length of the file and the entropy bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from packed import samples

from prunella.packed.read import open_packed
from prunella.packed.sizes import entropy, sizes
from prunella.packed.write import TensorSpec, write


def test_entropy_by_hand() -> None:
    assert entropy(np.array([4, 4])) == 8
    assert entropy(np.array([7, 0])) == 0
    assert entropy(np.array([0, 0])) == 0
    assert entropy(np.array([900, 100])) == pytest.approx(1000 * 0.468996, rel=1e-5)


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_int8_within_5_percent_of_the_entropy(tmp_path: Path, sparsity: float) -> None:
    int8, scale = samples.quantized(samples.sparse_weights(768, 768, sparsity))
    write(tmp_path / "a.prn", [TensorSpec("w", int8, "sparse", scale, "query")], {}, {})
    encoder = sizes(open_packed(tmp_path / "a.prn")).encoder
    counts = np.bincount(int8[int8 != 0].view(np.uint8))
    share = np.array([sparsity, 1 - sparsity])
    bound = (-(share * np.log2(share)).sum() * int8.size + entropy(counts)) / 8
    assert encoder.bound == pytest.approx(bound, rel=1e-4)
    assert 0 < encoder.above_bound < (0.05 if sparsity == 0.99 else 0.02)
    assert encoder.coded == encoder.mask + encoder.values
    assert encoder.nominal_ratio == pytest.approx(4 / (1 - sparsity), rel=1e-4)
    assert encoder.true_ratio < encoder.nominal_ratio


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_floats_within_5_percent_of_the_entropy(tmp_path: Path, dtype: str) -> None:
    weights = samples.sparse_weights(512, 512, 0.9)
    array = weights if dtype == "fp32" else (weights.view(np.uint32) >> 16).astype(np.uint16)
    write(tmp_path / "a.prn", [TensorSpec("w", array, "sparse", dtype=dtype)], {}, {})
    assert 0 < sizes(open_packed(tmp_path / "a.prn")).model.above_bound < 0.05


def test_blocks_of_four_rows_take_a_quarter_of_the_mask(tmp_path: Path) -> None:
    single = samples.sparse_weights(192, 768, 0.9)
    blocks = np.repeat(single, 4, axis=0)
    stored = []
    for weights in (single, blocks):
        write(tmp_path / "a.prn", [TensorSpec("w", weights, "sparse")], {}, {})
        stored.append(open_packed(tmp_path / "a.prn").info("w").mask_bytes)
    assert stored[1] < 1.2 * stored[0]


def test_totals_by_hand(tmp_path: Path) -> None:
    query = np.zeros((4, 100), np.int8)
    query[:, :10] = 3
    specs = [
        TensorSpec("query", query, "sparse", np.ones(4, np.float32), "query"),
        TensorSpec("key", np.ones((2, 50), np.float32), "dense", role="key"),
        TensorSpec("embeddings", np.ones((5, 8), np.float32), "dense"),
        TensorSpec("bias", np.ones(7, np.float32), "dense"),
    ]
    path = tmp_path / "a.prn"
    write(path, specs, {"a": 1}, {"vocab.txt": b"x" * 1000})
    measured = sizes(open_packed(path))
    encoder, model = measured.encoder, measured.model
    assert (encoder.weights, encoder.nonzeros) == (500, 140)
    assert encoder.fp32 == 4 * 500
    assert encoder.int8 == 400 + 4 * 4 + 100 + 4 * 2
    assert encoder.payload == 40 * 1 + 100 * 4
    assert encoder.sparsity == pytest.approx(0.72)
    assert encoder.other == 0
    assert model.weights == 500 + 40 + 7
    assert model.int8 == encoder.int8 + 40 + 4 * 5 + 4 * 7
    assert (
        model.stored
        == path.stat().st_size
        == measured.header
        + measured.padding
        + sum(section.length for _, section in open_packed(path).header.sections())
    )
    assert measured.files["vocab.txt"] < 40
    assert model.other == measured.header + measured.padding + measured.files["vocab.txt"]


def test_the_empty_file_has_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a.prn", [], {}, {})
    model = sizes(open_packed(tmp_path / "a.prn")).model
    assert model.stored == (tmp_path / "a.prn").stat().st_size
    assert (model.sparsity, model.bits_per_weight, model.above_bound) == (0, 0, 0)
