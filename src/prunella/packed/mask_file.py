"""A task as a mask over a backbone: which weights stay, the head, and whose weights they are.

It is a packed file in which a mask is a sparse tensor of ones: at the kept weights, or at the
removed ones where these are fewer, so that either way its coding comes near the entropy. Its values
all being equal take next to nothing. `docs/mask.md` describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunella.errors import InputError
from prunella.packed.backbone import Backbone, backbone_of, names_in
from prunella.packed.layout import Malformed, TensorInfo
from prunella.packed.read import PackedFile, open_packed
from prunella.packed.write import TensorSpec, write
from prunella.roles import is_embedding, role_of

KIND = "mask"
MASK_FILE = "task.mask"


@dataclass(frozen=True)
class MaskFile:
    """A mask file, open.

    Attributes:
        packed: The file itself: the masks and the task's own tensors.
        backbone: What it was learned on.
        masked: Names of the masked tensors.
        removed: Those of them whose ones say what is removed.
    """

    packed: PackedFile
    backbone: Backbone
    masked: frozenset[str]
    removed: frozenset[str]

    @property
    def path(self) -> Path:
        return self.packed.path

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the tensors that the file holds as a whole: the head and what was trained."""
        return tuple(name for name in self.packed.names if name not in self.masked)

    @property
    def masks_tables(self) -> bool:
        """Whether it takes weights from tables of embeddings as well."""
        return any(map(is_embedding, self.masked))

    @property
    def learned(self) -> dict[str, Any]:
        """How the mask was learned, for provenance: the method, the data's name and its hashes."""
        told = self.packed.metadata
        return {
            "method": told.get("method"),
            "train": told.get("data"),
            "data": told.get("data_sha256") or {},
        }

    def info(self, name: str) -> TensorInfo:
        """What the file tells of a tensor."""
        return self.packed.info(name)

    def kept_count(self, name: str) -> int:
        """How many weights of a masked tensor stay."""
        info = self.packed.info(name)
        return info.elements - info.nonzeros if name in self.removed else info.nonzeros

    def kept(self, name: str) -> np.ndarray:
        """Boolean array of a masked tensor's shape, True where the weight stays.

        Raises:
            InputError: If the file is damaged.
        """
        marks = self.packed.tensor(name)
        if marks.max(initial=0) > 1:
            raise _damaged(self.path, f"{name} holds other marks than 1")
        return marks == (0 if name in self.removed else 1)

    def task_name(self, name: str) -> str | None:
        """What a tensor of the backbone is called in the task's model; None if it has none."""
        return self.backbone.taken(name, self.own)

    def check_backbone(self, found: str | None, path: str | Path) -> None:
        """Refuses another backbone than the one that the mask was learned on.

        Raises:
            InputError: If it is another; see `Backbone.check`.
        """
        self.backbone.check(found, path, self.path)


def write_mask(
    path: str | Path,
    masks: Mapping[str, np.ndarray],
    own: Mapping[str, np.ndarray],
    *,
    backbone: Backbone,
    metadata: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Writes a mask file.

    Args:
        path: The file, by custom named *.mask.
        masks: Of each masked tensor a boolean array, True where the weight stays.
        own: Other tensors of the task's model.
        backbone: What the masks were learned on.
        metadata: What else JSON can hold, such as the task's record.
        files: Files to carry: the configuration of the task's model.

    Raises:
        InputError: If the file cannot be written.
    """
    removed = sorted(name for name, kept in masks.items() if 2 * np.count_nonzero(kept) > kept.size)
    tensors = [
        TensorSpec(name, _marks(kept, name in removed), "sparse", None, role_of(name))
        for name, kept in masks.items()
    ]
    tensors += [TensorSpec(name, array, "dense") for name, array in own.items()]
    document = {
        **metadata,
        "kind": KIND,
        **backbone.to_json(),
        "masked": sorted(masks),
        "removed": removed,
    }
    write(path, tensors, document, files)


def _marks(kept: np.ndarray, inverted: bool) -> np.ndarray:
    return (~kept if inverted else kept).astype(np.uint8)


def is_mask(packed: PackedFile) -> bool:
    """Whether a packed file is a mask and no model."""
    return packed.metadata.get("kind") == KIND


def open_mask(path: str | Path) -> MaskFile:
    """Opens a mask file and checks all but the contents of its tensors.

    Raises:
        InputError: If it is missing, damaged, or no mask file.
    """
    if (Path(path) / MASK_FILE).is_file():
        raise InputError(f"{path}: is a folder; give {Path(path) / MASK_FILE}, the mask in it")
    if not Path(path).is_file():
        found = "a folder without a task.mask" if Path(path).is_dir() else "no such file"
        raise InputError(f"{path}: {found}; give a task.mask, as `prunella mask` writes it")
    packed = open_packed(path)
    if not is_mask(packed):
        raise InputError(
            f"{path}: is a packed file, but holds no mask; give a task.mask of `prunella mask`"
        )
    try:
        backbone = backbone_of(packed)
        masked, removed = names_in(packed, "masked"), names_in(packed, "removed")
    except Malformed as error:
        raise _damaged(path, str(error)) from None
    for name in masked:
        if name not in packed.names:
            raise _damaged(path, f"it lacks the mask of {name[:80]}")
        info = packed.info(name)
        if info.dtype != "uint8" or info.encoding != "sparse" or not info.shape:
            raise _damaged(path, f"{name[:80]} is no mask")
    if not masked or not removed <= masked:
        raise _damaged(path, "its list of masks makes no sense")
    for name in packed.names:
        if name not in masked and packed.info(name).dtype == "uint8":
            raise _damaged(path, f"{name[:80]} is a mask that its list lacks")
    return MaskFile(packed, backbone, masked, removed)


def _damaged(path: str | Path, reason: str) -> InputError:
    return InputError(f"{path}: damaged mask file: {reason}; copy it again, or learn it again")
