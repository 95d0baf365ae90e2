"""Checkpoints of one small layer with masks made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """`checkpoint(name, query=MASK, ...)`: two heads of width 2; all else is kept.

    `query_bias` are values; without them there is no bias. `record` is the provenance.
    """

    def make(
        name: str,
        *,
        prefix: str = "bert.",
        heads: int = 2,
        query_bias: np.ndarray | None = None,
        record: dict[str, Any] | None = None,
        **masks: np.ndarray,
    ) -> Path:
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
        if query_bias is not None:
            name = f"{prefix}encoder.layer.0.{NAMES['query']}.bias"
            tensors[name] = query_bias.astype(np.float32)
        if record is not None:
            (folder / "prunella.json").write_text(json.dumps(record))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


def _weights(mask: np.ndarray) -> np.ndarray:
    """Kept weights of either sign; a pruned one may well be -0.0."""
    signs = np.where(np.arange(mask.size).reshape(mask.shape) % 2, -1, 1)
    return (mask * signs).astype(np.float32)
