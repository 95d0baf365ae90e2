"""Measured sizes of a packed file, beside what dense files take and what entropy allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from math import inf, log2
from typing import Any

import numpy as np

from prunella.packed.layout import TensorInfo
from prunella.packed.read import PackedFile
from prunella.roles import is_embedding

_SLICE = 1 << 20  # bincount widens its input to 8 bytes an element


@dataclass(frozen=True)
class Measure:
    """Bytes of one tensor, or of several together.

    Attributes:
        weights: Elements.
        nonzeros: Those that are not +0.
        mask: Stored bytes of the masks of sparse tensors.
        values: Stored bytes of the values of sparse tensors.
        dense: Stored bytes of dense tensors.
        scales: Stored bytes of the scales.
        other: Bytes of the rest of the file: header, carried files, padding.
        payload: Non-zeros times the bytes of one element: all that the nominal ratio counts.
        bound: Zero-order entropy, in bytes, of what `coded` holds: of each mask, and of each byte
            of the elements (the 1st, 2nd, ... byte of wider ones apart), tensor by tensor.
        fp32: The same elements as a dense fp32 file holds them: 4 bytes each.
        int8: As a dense int8 file does: matrices at 1 byte an element and an fp32 scale a row,
            vectors at 4 bytes an element.
    """

    weights: int = 0
    nonzeros: int = 0
    mask: int = 0
    values: int = 0
    dense: int = 0
    scales: int = 0
    other: int = 0
    payload: int = 0
    bound: float = 0.0
    fp32: int = 0
    int8: int = 0

    @property
    def coded(self) -> int:
        """Stored bytes of masks and elements."""
        return self.mask + self.values + self.dense

    @property
    def stored(self) -> int:
        """All bytes on disk."""
        return self.coded + self.scales + self.other

    @property
    def sparsity(self) -> float:
        return 1 - self.nonzeros / self.weights if self.weights else 0.0

    @property
    def above_bound(self) -> float:
        """How far `coded` lies above its entropy: 0.01 is 1 %."""
        return self.coded / self.bound - 1 if self.bound else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight, zeros counted."""
        return 8 * self.stored / self.weights if self.weights else 0.0

    @property
    def nominal_ratio(self) -> float:
        """fp32 over the bits of the non-zeros alone, as papers count: 4 / (1 - s) for int8."""
        return self.fp32 / self.payload if self.payload else inf

    @property
    def true_ratio(self) -> float:
        """fp32 over the bytes on disk."""
        return self.fp32 / self.stored if self.stored else inf

    @property
    def true_ratio_int8(self) -> float:
        """Dense int8 over the bytes on disk."""
        return self.int8 / self.stored if self.stored else inf


@dataclass(frozen=True)
class Sizes:
    """Sizes of a packed file.

    Attributes:
        tensors: (what the header tells of it, its measure) of every tensor.
        encoder: The matrices that have a role, with their scales: what pruning is about. Biases,
            LayerNorm, embeddings and heads have no role and are not in it.
        embeddings: The embedding tables.
        others: All other tensors: task head, biases, LayerNorm.
        model: All tensors and all else in the file, so that `model.stored` is its length. Carried
            files count here though the dense figures beside it have none.
        files: Stored bytes of each carried file.
        header: Bytes of preamble and header.
        padding: Bytes lost to alignment.
    """

    tensors: tuple[tuple[TensorInfo, Measure], ...]
    encoder: Measure
    embeddings: Measure
    others: Measure
    model: Measure
    files: dict[str, int]
    header: int
    padding: int

    @property
    def parts(self) -> dict[str, Measure]:
        """The whole file cut into parts, which add up to `model`."""
        return {
            "encoder": self.encoder,
            "embeddings": self.embeddings,
            "others": self.others,
            "files": Measure(other=sum(self.files.values())),
            "header": Measure(other=self.header + self.padding),
        }

    def parts_to_json(self) -> dict[str, dict[str, int]]:
        """Bytes on disk of each part, beside what dense files take for its tensors."""
        return {
            name: {
                "bytes": part.stored,
                "dense_fp32_bytes": part.fp32,
                "dense_int8_bytes": part.int8,
            }
            for name, part in self.parts.items()
        }


def sizes(packed: PackedFile, nonzeros: Mapping[str, int] | None = None) -> Sizes:
    """Measures a packed file; decodes all of its elements for the entropy.

    Args:
        packed: The file.
        nonzeros: Of tensors whose own non-zeros stand for something else, such as the removed
            weights of a mask: how many are to be counted.
    """
    counts = {} if nonzeros is None else nonzeros
    infos = [packed.info(name) for name in packed.names]
    tensors = tuple(
        (info, _measure(packed, info, counts.get(info.name, info.nonzeros))) for info in infos
    )
    files = {name: section.length for name, section in packed.header.files.items()}
    parts = sum(section.length for _, section in packed.header.sections())
    rest = Measure(other=packed.size - parts + sum(files.values()))
    groups: dict[str, list[Measure]] = {"encoder": [], "embeddings": [], "others": []}
    for info, measure in tensors:
        groups[_group(info)].append(measure)
    return Sizes(
        tensors=tensors,
        **{group: _total(measures) for group, measures in groups.items()},
        model=_total([*(measure for _, measure in tensors), rest]),
        files=files,
        header=packed.header_bytes,
        padding=packed.size - parts - packed.header_bytes,
    )


def _group(info: TensorInfo) -> str:
    if info.role:
        return "encoder"
    return "embeddings" if len(info.shape) == 2 and is_embedding(info.name) else "others"


def entropy(counts: np.ndarray) -> float:
    """Zero-order entropy, in bits, of a whole message whose symbols occur `counts` times."""
    counts = counts[counts > 0]
    total = int(counts.sum())
    return total * log2(total) - float((counts * np.log2(counts)).sum()) if total else 0.0


def _measure(packed: PackedFile, info: TensorInfo, nonzeros: int) -> Measure:
    values = packed.values(info.name)
    bits = _entropy_of_bytes(values)
    sparse = info.encoding == "sparse"
    if sparse:
        bits += entropy(np.array([info.nonzeros, info.elements - info.nonzeros]))
    matrix = len(info.shape) > 1
    return Measure(
        weights=info.elements,
        nonzeros=nonzeros,
        mask=info.mask_bytes,
        values=info.values_bytes if sparse else 0,
        dense=0 if sparse else info.values_bytes,
        scales=info.scale_bytes,
        payload=nonzeros * info.itemsize,
        bound=bits / 8,
        fp32=4 * info.elements,
        int8=info.elements + 4 * info.shape[0] if matrix else 4 * info.elements,
    )


def _entropy_of_bytes(values: np.ndarray) -> float:
    """Bits; first, second, ... bytes of the elements are messages of their own."""
    counts = np.zeros((values.itemsize, 256), np.int64)
    for start in range(0, values.size, _SLICE):
        piece = values[start : start + _SLICE].view(np.uint8).reshape(-1, values.itemsize)
        for plane in range(values.itemsize):
            counts[plane] += np.bincount(piece[:, plane], minlength=256)
    return sum(entropy(row) for row in counts)


def _total(measures: Iterable[Measure]) -> Measure:
    rows = list(measures)
    sums: dict[str, Any] = {
        f.name: sum(getattr(row, f.name) for row in rows) for f in fields(Measure)
    }
    return Measure(**sums)
