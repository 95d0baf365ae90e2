"""pack and unpack: a checkpoint as one compact file, and back. No torch needed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prunella.checkpoint import PROVENANCE, Checkpoint, open_checkpoint, publish
from prunella.errors import InputError
from prunella.grid import WEIGHT_MAX, int_weights, load_scales, save_scales
from prunella.packed.bf16 import from_bf16, to_bf16
from prunella.packed.read import PackedFile, open_packed
from prunella.packed.sizes import Sizes, sizes
from prunella.packed.write import TensorSpec, write
from prunella.roles import role_of
from prunella.settings import PackSettings, UnpackSettings

# Files of a checkpoint that a deployment needs besides the weights.
_CARRIED = (
    "config.json",
    PROVENANCE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# A matrix with fewer zeros than this is smaller without a mask.
_SPARSE = 0.05
_EMBEDDING = "embeddings"


@dataclass(frozen=True)
class Packed:
    """A written file and its measured sizes."""

    path: Path
    weights: str
    embeddings: str
    sizes: Sizes

    def to_json(self) -> dict[str, Any]:
        encoder, model = self.sizes.encoder, self.sizes.model
        return {
            "path": str(self.path),
            "weights": self.weights,
            "embeddings": self.embeddings,
            "encoder_weights": encoder.weights,
            "encoder_nonzeros": encoder.nonzeros,
            "model_weights": model.weights,
            "model_nonzeros": model.nonzeros,
            "bytes": {"encoder": encoder.stored, "model": model.stored},
            "dense_fp32_bytes": {"encoder": encoder.fp32, "model": model.fp32},
            "dense_int8_bytes": {"encoder": encoder.int8, "model": model.int8},
            "ratio": {"encoder": encoder.true_ratio, "model": model.true_ratio},
            "nominal_ratio": encoder.nominal_ratio,
            "sparsity": encoder.sparsity,
            "bits_per_weight": encoder.bits_per_weight,
            "above_entropy": encoder.above_bound,
        }


def pack(settings: PackSettings) -> Packed:
    """Writes a checkpoint as one file: weights, configuration, tokenizer, provenance.

    Raises:
        InputError: If the folder is no checkpoint, or the file exists or cannot be written.
    """
    checkpoint = open_checkpoint(settings.model)
    out = Path(settings.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder; --out names the file to write, such as model.prn")
    scales = load_scales(checkpoint.path)
    weights = settings.weights
    if weights == "auto":
        weights = "int8" if scales else "fp32"
    metadata = _metadata(checkpoint, weights, settings.embeddings)
    if out.exists() and not settings.overwrite:
        found = open_packed(out)
        if dict(found.metadata) == metadata:  # the same command again
            return Packed(out, weights, settings.embeddings, sizes(found))
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    tensors = [
        _spec(name, label, array, weights, settings.embeddings, scales or {})
        for name, label, array in checkpoint.arrays()
    ]
    files = {
        name: (checkpoint.path / name).read_bytes()
        for name in _CARRIED
        if (checkpoint.path / name).exists()
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(out, tensors, metadata, files)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return Packed(out, weights, settings.embeddings, sizes(open_packed(out)))


def unpack(settings: UnpackSettings) -> Path:
    """Writes a packed file back as a Hugging Face model directory, in fp32.

    Raises:
        InputError: If the file is damaged, or the folder exists or cannot be written.
    """
    packed = open_packed(settings.model)
    packed.verify()
    out = Path(settings.out).absolute()
    if out.exists() and not settings.overwrite:
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    draft = out.with_name(out.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        for name, content in packed.files.items():
            (draft / name).write_bytes(content)
        arrays = {name: dense_array(packed, name) for name in packed.names}
        save_file(arrays, draft / "model.safetensors", metadata={"format": "pt"})
        scales = {n: s for n in packed.names if role_of(n) and (s := packed.scale(n)) is not None}
        if scales:
            save_scales(draft, scales)
        publish(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def dense_array(packed: PackedFile, name: str) -> np.ndarray:
    """A tensor of a packed file as an ordinary array: int8 scaled, bf16 widened to fp32."""
    array, scale = packed.tensor(name), packed.scale(name)
    if scale is not None:
        return array.astype(np.float32) * scale[:, None]
    if packed.info(name).dtype == "bf16":
        return from_bf16(array)
    return np.ascontiguousarray(array)


def _metadata(checkpoint: Checkpoint, weights: str, embeddings: str) -> dict[str, Any]:
    record = checkpoint.provenance or {}
    return {
        "model_type": checkpoint.config.get("model_type"),
        "architecture": (checkpoint.config.get("architectures") or [None])[0],
        "stage": record.get("stage"),
        "task": record.get("task"),
        "quantization": record.get("quantization", {}).get("scheme") if weights == "int8" else None,
        "weights": weights,
        "embeddings": embeddings,
        "source_sha256": checkpoint.weights_hash,
    }


def _spec(
    name: str,
    label: str,
    array: np.ndarray,
    weights: str,
    embeddings: str,
    scales: dict[str, np.ndarray],
) -> TensorSpec:
    role = role_of(name) if array.ndim == 2 else None
    table = role is None and array.ndim == 2 and f".{_EMBEDDING}." in f".{name}"
    kind = weights if role else embeddings if table else "fp32"
    stored_as: str | None = {"BF16": "bf16"}.get(label)
    scale: np.ndarray | None = None
    if kind == "int8" and label in ("F32", "BF16", "F16"):
        wide = _widened(array, label)
        scale = scales.get(name, row_scale(wide))
        array = (
            int_weights(wide, scale, name)
            if name in scales
            else np.rint(wide / scale[:, None]).astype(np.int8)
        )
        stored_as = None
    elif kind == "bf16" and label == "F32":
        array, stored_as = to_bf16(array), "bf16"
    sparsity = 1 - np.count_nonzero(array) / max(1, array.size)
    encoding = "sparse" if role and sparsity > _SPARSE else "dense"
    return TensorSpec(name, array, encoding, scale, role, stored_as)


def row_scale(weight: np.ndarray) -> np.ndarray:
    """The symmetric int8 grid of each row: absmax / 127 [rows]; 1 for a row of zeros."""
    scale = (np.abs(weight).max(axis=1, initial=0) / WEIGHT_MAX).astype(np.float32)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))


def _widened(array: np.ndarray, label: str) -> np.ndarray:
    return from_bf16(array) if label == "BF16" else array.astype(np.float32)
