"""What is in a checkpoint or a packed file: matrices, roles, sparsity, bytes. No torch needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunella.checkpoint import Checkpoint, TensorInfo
from prunella.errors import InputError
from prunella.hub import fetch, is_path
from prunella.packed.backbone import DIFFERENCE, is_difference
from prunella.packed.mask_file import is_mask, open_mask
from prunella.packed.read import open_packed
from prunella.packed.sizes import Measure, Sizes, sizes
from prunella.settings import InspectSettings

_FILES = (".prn", ".mask")  # no model of the Hub is called so


@dataclass(frozen=True)
class Row:
    """One tensor. `bytes` is what it takes on disk."""

    name: str
    role: str | None
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    bytes: int


@dataclass(frozen=True)
class Totals:
    """Weights, those that are not zero, and bytes on disk."""

    weights: int
    nonzeros: int
    bytes: int

    @property
    def sparsity(self) -> float:
        return 1 - self.nonzeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Inspection:
    """The contents of a checkpoint or packed file.

    encoder: the matrices that pruning is about; model: everything, in a packed file with
    tokenizer and configuration. kind: "mask" or "difference" of a file that is no whole model, and
    backbone the hash of the checkpoint that it builds on. sha256: that hash of a checkpoint. Of a
    mask the non-zeros are the weights that it keeps, whichever of them the file marks.
    """

    path: str
    stage: str | None
    model_type: str
    rows: tuple[Row, ...]
    encoder: Totals
    model: Totals
    packed: Sizes | None
    backbone: str | None = None
    kind: str | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["encoder"]["sparsity"] = self.encoder.sparsity
        document["model"]["sparsity"] = self.model.sparsity
        if self.packed is not None:
            document["packed"] = {
                part: {
                    **asdict(measure),
                    "true_ratio": measure.true_ratio,
                    "nominal_ratio": measure.nominal_ratio,
                    "above_entropy": measure.above_bound,
                    "bits_per_weight": measure.bits_per_weight,
                }
                for part, measure in (
                    ("encoder", self.packed.encoder),
                    ("model", self.packed.model),
                )
            }
            document["packed"]["parts"] = self.packed.parts_to_json()
        return document


def inspect(settings: InspectSettings) -> Inspection:
    """Lists what a checkpoint or a packed file holds.

    Raises:
        InputError: If it is neither, or is damaged.
    """
    path = Path(settings.model)
    if not path.exists() and (is_path(settings.model) or path.suffix in _FILES):
        raise InputError(f"{path}: no such file or folder")
    if path.exists() and not path.is_dir():
        return _inspect_packed(path)
    return _inspect_checkpoint(fetch(settings.model), settings.model)


def _inspect_checkpoint(checkpoint: Checkpoint, name: str) -> Inspection:
    rows = tuple(
        Row(t.name, t.role, t.shape, t.dtype, t.sparsity, t.bytes) for t in checkpoint.tensors
    )
    return Inspection(
        name,
        (checkpoint.provenance or {}).get("stage"),
        str(checkpoint.config.get("model_type")),
        rows,
        _totals([t for t in checkpoint.tensors if t.role]),
        _totals(checkpoint.tensors),
        None,
        sha256=checkpoint.weights_hash,
    )


def _totals(tensors: list[TensorInfo]) -> Totals:
    return Totals(
        sum(t.size for t in tensors),
        sum(t.nonzeros for t in tensors),
        sum(t.bytes for t in tensors),
    )


def _inspect_packed(path: Path) -> Inspection:
    packed = open_packed(path)
    not_whole = is_mask(packed) or is_difference(packed)
    kept: dict[str, int] | None = None
    if is_mask(packed):  # whose marks may be the removed weights
        mask = open_mask(path)
        kept = {name: mask.kept_count(name) for name in mask.masked}
    measured = sizes(packed, kept)
    rows = tuple(
        Row(i.name, i.role, tuple(i.shape), i.dtype, m.sparsity, m.coded + m.scales)
        for i, m in measured.tensors
    )
    return Inspection(
        str(path),
        packed.metadata.get("stage"),
        str(packed.metadata.get("model_type")),
        rows,
        _measured(measured.encoder),
        _measured(measured.model),
        measured,
        str(packed.metadata.get("backbone_sha256")) if not_whole else None,
        "mask" if is_mask(packed) else DIFFERENCE if is_difference(packed) else None,
    )


def _measured(part: Measure) -> Totals:
    return Totals(part.weights, part.nonzeros, part.stored)
