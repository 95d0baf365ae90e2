"""pack and unpack: a checkpoint as one compact file, and back. No torch needed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prunella.backbones import compare, widened
from prunella.checkpoint import (
    PROVENANCE,
    WEIGHTS,
    Checkpoint,
    publish,
    refuse_own_inputs,
)
from prunella.errors import InputError
from prunella.grid import SCALES_FILE, WEIGHT_MAX, int_weights, load_scales, save_scales
from prunella.hub import fetch
from prunella.packed.backbone import DIFFERENCE, backbone_of, is_difference
from prunella.packed.bf16 import to_bf16
from prunella.packed.dense import dense_array
from prunella.packed.layout import Malformed
from prunella.packed.mask_file import is_mask
from prunella.packed.read import PackedFile, open_packed
from prunella.packed.sizes import Sizes, sizes
from prunella.packed.write import TensorSpec, write
from prunella.roles import is_embedding, role_of
from prunella.settings import PackSettings, UnpackSettings

# Files of a checkpoint that a deployment needs besides the weights.
CARRIED = (
    "config.json",
    PROVENANCE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# What a model directory that nobody added to may hold.
_OURS = {*CARRIED, WEIGHTS, SCALES_FILE, "log.jsonl"}  # no task.mask: it is nowhere else
# A matrix with fewer zeros than this is smaller without a mask.
SPARSE_FROM = 0.05


@dataclass(frozen=True)
class Packed:
    """A written file and its measured sizes; `backbone` is the folder that it builds on, if any."""

    path: Path
    weights: str
    embeddings: str
    sizes: Sizes
    backbone: str | None = None

    def to_json(self) -> dict[str, Any]:
        encoder, model = self.sizes.encoder, self.sizes.model
        return {
            "path": str(self.path),
            "weights": self.weights,
            "embeddings": self.embeddings,
            "backbone": self.backbone,
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
            "parts": self.sizes.parts_to_json(),
        }


def pack(settings: PackSettings) -> Packed:
    """Writes a checkpoint as one file: weights, configuration, tokenizer, provenance.

    Raises:
        InputError: If there is no such checkpoint, or the file exists or cannot be written.
    """
    checkpoint = fetch(settings.model)
    out = Path(settings.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder; --out names the file to write, such as model.prn")
    scales = load_scales(checkpoint.path)
    weights = settings.weights
    if weights == "auto":
        weights = "int8" if scales else "fp32"
    metadata = _metadata(checkpoint, weights, settings.embeddings)
    same: frozenset[str] = frozenset()
    if settings.backbone is not None:
        backbone, same = compare(checkpoint, fetch(settings.backbone))
        if not same:
            raise InputError(
                f"--backbone {settings.backbone}: has no tensor in common with {settings.model}; "
                "give the checkpoint that it was made from, or leave --backbone out"
            )
        metadata |= {"kind": DIFFERENCE, **backbone.to_json()}
    files = {
        name: (checkpoint.path / name).read_bytes()
        for name in CARRIED
        if (checkpoint.path / name).exists()
    }
    if out.exists() and not settings.overwrite:
        found = _finished(out, metadata, files)
        if found is not None:  # the same command again
            return Packed(out, weights, settings.embeddings, sizes(found), settings.backbone)
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    tensors = [
        _spec(name, label, array, weights, settings.embeddings, scales or {})
        for name, label, array in checkpoint.arrays()
        if name not in same
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write(out, tensors, metadata, files)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return Packed(out, weights, settings.embeddings, sizes(open_packed(out)), settings.backbone)


def _finished(
    out: Path, metadata: Mapping[str, Any], files: Mapping[str, bytes]
) -> PackedFile | None:
    """What is there already, if it is what this command would write."""
    try:
        found = open_packed(out)
        return found if found.metadata == metadata and found.files == files else None
    except InputError:  # another kind of file, or a damaged one
        return None


def unpack(settings: UnpackSettings) -> Path:
    """Writes a packed file back as a Hugging Face model directory, in fp32.

    Raises:
        InputError: If the file is damaged or builds on another backbone, or the folder exists,
            holds what is not a model directory's, or cannot be written.
    """
    packed = open_packed(settings.model)
    packed.verify()
    if is_mask(packed):
        raise InputError(
            f"{packed.path}: is the mask of a task and no model; `prunella mask apply BACKBONE "
            f"{packed.path} --out FOLDER` makes one of it"
        )
    inherited = _inherited(packed, settings.backbone)
    out = Path(settings.out).absolute()
    inputs = {"packed file": packed.path}
    if settings.backbone is not None:
        inputs["backbone"] = Path(settings.backbone)
    refuse_own_inputs(out, inputs)
    check_replaceable(out, settings.overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: OUT.partial may hold the unfinished training of a stage.
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True
        ) as folder:
            draft = Path(folder) / out.name
            _write_checkpoint(packed, inherited, draft)
            publish(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuses an OUT that exists, or with `overwrite` one that is more than a model directory."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise InputError(f"{out}: exists; choose another --out or pass --overwrite")
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else {"a file"}
    if foreign := sorted(found - _OURS):
        shown = f"{', '.join(foreign[:3])}, ..." if len(foreign) > 3 else ", ".join(foreign)
        raise InputError(
            f"{out}: holds more than a model directory does ({shown}); --overwrite replaces model "
            "directories alone: choose another --out, or remove it yourself"
        )


def _inherited(packed: PackedFile, folder: str | None) -> dict[str, np.ndarray]:
    """What a difference leaves to its backbone, in fp32; nothing if the file is a whole model."""
    if not is_difference(packed):
        if folder is not None:
            raise InputError(f"{packed.path}: is a whole model; leave --backbone out")
        return {}
    try:
        backbone = backbone_of(packed)
    except Malformed as error:
        raise InputError(f"{packed.path}: damaged: {error}; {error.advice}") from None
    if folder is None:
        raise InputError(
            f"{packed.path}: holds only what differs from its backbone (the hash of whose "
            f"configuration and weights is {backbone.sha256[:12]}); name that checkpoint's folder "
            "with --backbone"
        )
    source = fetch(folder)
    backbone.check(source.weights_hash, folder, packed.path)
    named = (
        (backbone.taken(name, packed.names), array, label) for name, label, array in source.arrays()
    )
    return {name: widened(array, label) for name, array, label in named if name is not None}


def _write_checkpoint(
    packed: PackedFile, inherited: Mapping[str, np.ndarray], folder: Path
) -> None:
    folder.mkdir()
    for name, content in packed.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    arrays = {**inherited, **{name: dense_array(packed, name) for name in packed.names}}
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    scales = {n: s for n in packed.names if role_of(n) and (s := packed.scale(n)) is not None}
    if scales:
        save_scales(folder, scales)


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
    table = role is None and array.ndim == 2 and is_embedding(name)
    kind = weights if role else embeddings if table else "fp32"
    stored_as: str | None = {"BF16": "bf16"}.get(label)
    scale: np.ndarray | None = None
    if kind == "int8" and label in ("F32", "BF16", "F16"):
        wide = widened(array, label)
        if not np.isfinite(wide).all():
            raise InputError(
                f"{name}: holds numbers that are not finite, which int8 cannot express; train the "
                "model again, or pack it with --weights fp32"
            )
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
    encoding = "sparse" if role and sparsity > SPARSE_FROM else "dense"
    return TensorSpec(name, array, encoding, scale, role, stored_as)


def row_scale(weight: np.ndarray) -> np.ndarray:
    """The symmetric int8 grid of each row: absmax / 127 [rows]; 1 for a row of zeros."""
    scale = (np.abs(weight).max(axis=1, initial=0) / WEIGHT_MAX).astype(np.float32)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))
