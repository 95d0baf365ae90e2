"""A packed backbone as one of its tasks sees it: some weights zero, a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prunella.errors import InputError
from prunella.packed.layout import TensorInfo
from prunella.packed.mask_file import MaskFile
from prunella.packed.read import PackedFile, SparseMatrix, compressed_rows
from prunella.roles import is_embedding


class MaskedFile:
    """`prunella.packed.read.Weights` of a task: decoded anew when asked for, and not kept.

    Tables of embeddings are the exception: they are the same for all tasks, so these share one.

    Args:
        backbone: The packed backbone.
        mask: A mask that was learned on it.
        tables: Decoded tables, by their name in the backbone; filled as they are asked for.

    Raises:
        InputError: If the mask was learned on another backbone, or does not fit this one.
    """

    def __init__(self, backbone: PackedFile, mask: MaskFile, tables: dict[str, np.ndarray]) -> None:
        mask.check_backbone(backbone.metadata.get("source_sha256"), backbone.path)
        self._backbone, self._mask, self._tables = backbone, mask, tables
        named = ((mask.task_name(name), name) for name in backbone.names)
        self._origins = {task: name for task, name in named if task is not None}
        for name in sorted(mask.masked):
            ours = self._origins.get(name)
            if ours is None or backbone.info(ours).shape != mask.info(name).shape:
                raise InputError(
                    f"{mask.path}: masks {name[:80]}, which {backbone.path} lacks or has in "
                    "another shape; copy the mask again"
                )

    @property
    def path(self) -> Path:
        return self._mask.path

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._origins, *self._mask.own)

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {**self._backbone.metadata, "task": self._mask.packed.metadata.get("task")}

    @property
    def files(self) -> Mapping[str, bytes]:
        """The backbone's, with the configuration of the task's model."""
        return {**self._backbone.files, **self._mask.packed.files}

    def info(self, name: str) -> TensorInfo:
        origin = self._origins.get(name)
        if origin is None:
            return self._mask.info(name)
        info = self._backbone.info(origin)
        if name not in self._mask.masked:
            return info
        return replace(info, nonzeros=min(info.nonzeros, self._mask.kept_count(name)))

    def tensor(self, name: str) -> np.ndarray:
        origin = self._origins.get(name)
        if origin is None:
            return self._mask.packed.tensor(name)
        if name in self._mask.masked:
            values = self._backbone.tensor(origin)
            return np.where(self._mask.kept(name), values, values.dtype.type(0))
        if not is_embedding(origin):
            return self._backbone.tensor(origin)
        if origin not in self._tables:
            self._tables[origin] = self._backbone.tensor(origin)
        return self._tables[origin]

    def sparse(self, name: str) -> SparseMatrix:
        values = self.tensor(name)
        flat = values.reshape(-1)
        positions = np.flatnonzero(flat.view(f"u{flat.itemsize}")).astype(np.int32)
        return compressed_rows(positions, flat[positions], values.shape)

    def scale(self, name: str) -> np.ndarray | None:
        origin = self._origins.get(name)
        return self._mask.packed.scale(name) if origin is None else self._backbone.scale(origin)

    def release(self) -> None:
        self._backbone.release()
        self._mask.packed.release()
