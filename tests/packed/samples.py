"""Small packed files for the tests, with every encoding, codec and odd shape in them."""

from __future__ import annotations

import numpy as np

from prunella.packed.write import TensorSpec

METADATA = {"model_type": "bert", "labels": ["bad", "good"], "scale": 0.1, "café": None}


def sparse_weights(rows: int, columns: int, sparsity: float, seed: int = 0) -> np.ndarray:
    """Normal weights with the smallest magnitudes set to +0."""
    weights = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    count = round(sparsity * weights.size)
    weights.reshape(-1)[np.argsort(np.abs(weights), axis=None)[:count]] = 0
    return weights


def quantized(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8, [rows] float32 scales), symmetric by row; a non-zero stays one."""
    scale = np.abs(weights).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    steps = np.rint(weights / scale[:, None])
    tiny = (steps == 0) & (weights != 0)
    return np.where(tiny, np.sign(weights), steps).astype(np.int8), scale


def specs() -> list[TensorSpec]:
    """A model of a few kilobytes."""
    weights = sparse_weights(24, 40, 0.9)
    int8, scale = quantized(weights)
    odd = np.array([0.0, -0.0, np.nan, np.inf, 1e-45], np.float32)
    lone = np.zeros((30, 40), np.int8)
    lone[20, 7] = -128  # 807 zeros before it: three escapes
    return [
        TensorSpec("bert.encoder.layer.0.ffn.weight", int8, "sparse", scale, "ffn_in"),
        TensorSpec("half.weight", sparse_weights(16, 16, 0.5, 1), "sparse", role="query"),
        TensorSpec("narrow", np.arange(256, dtype=np.uint16) % 7, "sparse", dtype="bf16"),
        TensorSpec("lone", lone, "sparse", np.ones(30, np.float32), "key"),
        TensorSpec("empty", np.zeros((0, 8), np.int8), "sparse", np.zeros(0, np.float32)),
        TensorSpec("zeros", np.zeros((8, 8), np.float16), "sparse"),
        TensorSpec("embeddings", quantized(sparse_weights(32, 16, 0.0, 2))[0], "dense"),
        TensorSpec("bias", sparse_weights(1, 300, 0.0, 3)[0], "dense"),
        TensorSpec("odd", odd, "sparse"),
        TensorSpec("position_ids", np.arange(64, dtype=np.int64), "dense"),
        TensorSpec("scalar", np.full((), 3.5), "dense"),
    ]


FILES = {"tokenizer.json": b'{"vocab": {"a": 0, "a": 1, "a": 2, "a": 3}}' * 4, "empty.txt": b""}
