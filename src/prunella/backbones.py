"""Which tensors a model has in common with the backbone that it was made from. No torch needed."""

from __future__ import annotations

import numpy as np

from prunella.checkpoint import Checkpoint
from prunella.packed.backbone import Backbone
from prunella.packed.bf16 import from_bf16
from prunella.roles import is_embedding


def compare(model: Checkpoint, backbone: Checkpoint) -> tuple[Backbone, frozenset[str]]:
    """What a file of `model` says of its backbone, and which tensors it need not hold.

    Returns:
        The backbone, and names in `model` of tensors that are the backbone's bit for bit, as fp32.
    """
    before = {name: (label, array) for name, label, array in backbone.arrays()}
    prefix = _prefix(model)
    names: set[str] = set()
    same: set[str] = set()
    for name, label, array in model.arrays():
        names.add(name)
        if not name.startswith(prefix):
            continue
        origin = before.get(name) or before.get(name.removeprefix(prefix))
        if origin is not None and _alike(widened(origin[1], origin[0]), widened(array, label)):
            same.add(name)
    full = {name if name.startswith(prefix) else prefix + name for name in before}
    return Backbone(backbone.weights_hash, prefix, frozenset(full - names)), frozenset(same)


def widened(array: np.ndarray, label: str) -> np.ndarray:
    """A checkpoint's tensor as fp32, whatever its label says it is stored in."""
    return from_bf16(array) if label == "BF16" else array.astype(np.float32)


def _alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Bit for bit: -0.0 is not 0.0, and a NaN is itself."""
    return ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


def _prefix(model: Checkpoint) -> str:
    """What stands before the names of the encoder's tensors: "bert."."""
    tables = (tensor.name for tensor in model.tensors if is_embedding(tensor.name))
    return next((name[: name.index("embeddings.")] for name in tables), "")
