"""Masks of tasks: made of a task's checkpoint, applied to a backbone's. No torch needed."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prunella.backbones import compare, widened
from prunella.checkpoint import (
    PROVENANCE,
    WEIGHTS,
    Checkpoint,
    provenance,
    publish,
    refuse_own_inputs,
    write_json,
)
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.packed.mask_file import MASK_FILE, MaskFile, open_mask, write_mask
from prunella.packing import CARRIED, check_replaceable
from prunella.settings import ApplyMaskSettings

__all__ = ["MASK_FILE", "apply_mask", "entropy_bytes", "save_mask"]

_CONFIG = "config.json"


def save_mask(
    path: Path, task: Checkpoint, source: Checkpoint, masked: set[str], metadata: Mapping[str, Any]
) -> None:
    """Writes the mask file of a task's checkpoint.

    What differs from the backbone and is not masked, or is not in it, is stored whole: nothing is
    taken on trust.

    Args:
        path: The file.
        task: The masked model.
        source: Its backbone.
        masked: Names of its masked tensors.
        metadata: What else to record.
    """
    backbone, same = compare(task, source)
    masks: dict[str, np.ndarray] = {}
    own: dict[str, np.ndarray] = {}
    for name, label, array in task.arrays():
        if name in masked:
            masks[name] = array != 0
        elif name not in same:
            own[name] = np.ascontiguousarray(widened(array, label))
    write_mask(
        path,
        masks,
        own,
        backbone=backbone,
        metadata={**metadata, "model_type": task.config.get("model_type")},
        files={_CONFIG: (task.path / _CONFIG).read_bytes()},
    )


def entropy_bytes(counts: Iterable[tuple[int, int]]) -> int:
    """Zero-order entropy of masks, from (kept, all) of each matrix."""
    bits = 0.0
    for kept, total in counts:
        for part in (kept, total - kept):
            bits += part * log2(total / part) if part else 0.0
    return round(bits / 8)


def apply_mask(settings: ApplyMaskSettings) -> Path:
    """Writes a backbone with a mask applied, its head and its labels, as a checkpoint.

    Raises:
        InputError: If the mask is damaged or belongs to another backbone, or OUT cannot be written.
    """
    begun = time.monotonic()
    source = fetch(settings.model)
    mask = open_mask(settings.mask)
    mask.check_backbone(source.weights_hash, source.path)
    out = Path(settings.out).absolute()
    refuse_own_inputs(out, {"backbone": source.path, "mask": mask.path})
    check_replaceable(out, settings.overwrite)
    arrays = masked_arrays(source, mask)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True
        ) as folder:
            draft = Path(folder) / out.name
            draft.mkdir()
            for name in CARRIED:
                if (source.path / name).exists():
                    (draft / name).write_bytes((source.path / name).read_bytes())
            (draft / _CONFIG).write_bytes(_config(mask))
            save_file(arrays, draft / WEIGHTS, metadata={"format": "pt"})
            write_json(draft / PROVENANCE, _record(settings, source, mask, draft, begun))
            publish(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def masked_arrays(source: Checkpoint, mask: MaskFile) -> dict[str, np.ndarray]:
    """The tensors of the task's model, in fp32.

    Raises:
        InputError: If the mask is damaged, or names what the backbone lacks.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, label, array in source.arrays():
        full = mask.task_name(name)
        if full is None:
            continue
        values = widened(array, label)
        if full in mask.masked:
            kept = mask.kept(full)
            if kept.shape != values.shape:
                raise InputError(
                    f"{mask.path}: {full} has the shape {kept.shape}, in the backbone "
                    f"{values.shape}; the file is damaged, copy it again"
                )
            values = np.where(kept, values, np.float32(0))
        arrays[full] = np.ascontiguousarray(values)
    if lacking := sorted(mask.masked - arrays.keys()):
        raise InputError(
            f"{mask.path}: masks {lacking[0]}, which its backbone lacks; the file is damaged, copy "
            "it again"
        )
    return arrays | {name: np.ascontiguousarray(mask.packed.tensor(name)) for name in mask.own}


def _config(mask: MaskFile) -> bytes:
    content = mask.packed.files.get(_CONFIG, b"")
    try:
        if isinstance(json.loads(content), dict):
            return content
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{mask.path}: carries no readable {_CONFIG}; copy the file again")


def _record(
    settings: ApplyMaskSettings, source: Checkpoint, mask: MaskFile, draft: Path, begun: float
) -> dict[str, Any]:
    made = Checkpoint(draft)
    record = provenance(
        "apply-mask",
        settings.model_dump(mode="json"),
        parents={"model": source},
        sparsity=made.sparsity(mask.masked),
        metrics={},
        seconds=time.monotonic() - begun,
        task=mask.packed.metadata.get("task") or {},
        mask=mask.learned,
    )
    roles = [tensor for tensor in made.tensors if tensor.role]
    total = sum(tensor.size for tensor in roles)
    record["sparsity"]["total"] = 1 - sum(t.nonzeros for t in roles) / max(1, total)
    return record
