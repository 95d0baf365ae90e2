"""Checkpoints of one small layer with masks made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}
SHAPES = dict.fromkeys(NAMES, (4, 4)) | {"ffn_in": (6, 4), "ffn_out": (4, 6)}

Make = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Make:
    """`checkpoint(name, query=MASK, ...)`: two heads of width 2; all else is kept."""

    def make(name: str, *, prefix: str = "bert.", heads: int = 2, **masks: np.ndarray) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps({"model_type": "bert", "num_attention_heads": heads})
        )
        tensors = {
            f"{prefix}encoder.layer.0.{module}.weight": _weights(
                masks.get(role, np.ones(SHAPES[role]))
            )
            for role, module in NAMES.items()
        }
        table = masks.get("word_embeddings", np.ones((5, 4)))
        tensors[f"{prefix}embeddings.word_embeddings.weight"] = _weights(table)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def _weights(mask: np.ndarray) -> np.ndarray:
    """Kept weights of either sign; a pruned one may well be -0.0."""
    signs = np.where(np.arange(mask.size).reshape(mask.shape) % 2, -1, 1)
    return (mask * signs).astype(np.float32)
