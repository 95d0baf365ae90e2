"""The layout of a packed file: preamble, header, sections. The prose is in docs/format.md.

    preamble (64 bytes) | header (JSON) | sections, each at a multiple of 64 bytes

The header is described here and encoded; `prunella.packed.header` parses and distrusts it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

MAGIC = b"\x89PRN\r\n\x1a\n"
VERSION = 1
ALIGNMENT = 64
# magic, version, reserved, header length, file length, reserved, checksum
_PREAMBLE = struct.Struct("<8sIIQQ28sI")
PREAMBLE_SIZE = _PREAMBLE.size  # 64
_UNCHECKED = PREAMBLE_SIZE - 4

Encoding = Literal["dense", "sparse"]
MaskCoding = Literal["gaps", "bitmap"]
Codec = Literal["raw", "zstd", "planes"]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "fp64": np.dtype("<f8"),
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),  # numpy has no bfloat16: its bits travel as unsigned integers
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
}
"""What the elements of a tensor are called, and the numpy type that holds them."""


class Malformed(ValueError):
    """These bytes are no packed file that we can use. Readers turn it into an InputError."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice or (
            "copy the file again, or repeat the `prunella pack` or `prunella mask` that wrote it"
        )


@dataclass(frozen=True)
class Section:
    """Where some bytes lie and how to decode them.

    `offset` counts from the start of the data, `length` is the stored size and `size` the decoded
    one, all in bytes; `crc32` is that of the stored bytes.
    """

    offset: int
    length: int
    size: int
    codec: Codec
    crc32: int


@dataclass(frozen=True)
class TensorInfo:
    """What the header tells of one tensor.

    `nonzeros` counts the elements whose bits are not all zero (so -0.0 counts).
    """

    name: str
    role: str | None
    dtype: str
    shape: tuple[int, ...]
    encoding: Encoding
    nonzeros: int
    mask_coding: MaskCoding | None
    mask: Section | None
    values: Section
    scale: Section | None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    @property
    def sparsity(self) -> float:
        return 1 - self.nonzeros / self.elements if self.elements else 0.0

    @property
    def mask_bytes(self) -> int:
        return self.mask.length if self.mask else 0

    @property
    def values_bytes(self) -> int:
        return self.values.length

    @property
    def scale_bytes(self) -> int:
        return self.scale.length if self.scale else 0

    @property
    def sections(self) -> tuple[Section, ...]:
        """In the order in which they lie in the file."""
        return tuple(s for s in (self.mask, self.values, self.scale) if s)


@dataclass(frozen=True)
class Header:
    """Everything but the sections."""

    metadata: Mapping[str, Any]
    files: Mapping[str, Section]
    tensors: tuple[TensorInfo, ...]

    def sections(self) -> Iterator[tuple[str, Section]]:
        """(What it belongs to, section) in the order of the file: files by name, then tensors."""
        for name in sorted(self.files):
            yield f"file {name!r}", self.files[name]
        for tensor in self.tensors:
            for section in tensor.sections:
                yield f"tensor {tensor.name!r}", section


def align(position: int) -> int:
    """The next multiple of the alignment."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def data_start(header_length: int) -> int:
    """Where the first section begins."""
    return align(PREAMBLE_SIZE + header_length)


def encode_header(header: Header) -> bytes:
    """The header as JSON, the same bytes for the same contents.

    Raises:
        TypeError: If the metadata holds what JSON cannot express.
        ValueError: If it holds NaN, an infinity, or text that is not Unicode.
    """
    document = {
        "files": {name: vars(section) for name, section in header.files.items()},
        "metadata": header.metadata,
        "tensors": [_plain(tensor) for tensor in header.tensors],
    }
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def _plain(tensor: TensorInfo) -> dict[str, Any]:
    """A tensor's entry; what it lacks (a scale, a mask, a role) is left out."""
    present = {key: value for key, value in vars(tensor).items() if value is not None}
    return {k: vars(v) if isinstance(v, Section) else v for k, v in present.items()}


def encode_preamble(header: bytes, file_length: int) -> bytes:
    """The first 64 bytes of the file."""
    fields = (MAGIC, VERSION, 0, len(header), file_length, bytes(28))
    draft = _PREAMBLE.pack(*fields, 0)
    return _PREAMBLE.pack(*fields, zlib.crc32(header, zlib.crc32(draft[:_UNCHECKED])))


def split(data: memoryview, header_limit: int) -> bytes:
    """The header's bytes out of a whole file, checked against the preamble.

    Raises:
        Malformed: If this is no packed file, one of another version, cut short or damaged.
    """
    if len(data) == 0:
        raise Malformed("it is empty")
    if bytes(data[: len(MAGIC)]) != MAGIC[: len(data)]:
        raise Malformed(
            "it is not a packed model", "give a .prn file, as `prunella pack` writes it"
        )
    if len(data) < PREAMBLE_SIZE:
        raise Malformed(f"it is cut short, after {len(data)} bytes")
    _, version, reserved, header_length, file_length, padding, crc = _PREAMBLE.unpack_from(data)
    if version != VERSION:
        raise Malformed(
            f"it has format version {version} and this program reads version {VERSION}",
            "update prunella, or pack the checkpoint again",
        )
    if file_length != len(data):
        kind = "cut short" if file_length > len(data) else "followed by other bytes"
        raise Malformed(f"it is {kind}: {len(data)} bytes where it says {file_length}")
    if header_length > min(header_limit, len(data) - PREAMBLE_SIZE):
        raise Malformed(f"it claims a header of {header_length} bytes")
    header = bytes(data[PREAMBLE_SIZE : PREAMBLE_SIZE + header_length])
    if crc != zlib.crc32(header, zlib.crc32(data[:_UNCHECKED])):
        raise Malformed("it is damaged: the checksum of its header is wrong")
    if reserved or any(padding):
        raise Malformed("its reserved bytes are not zero", "update prunella")
    return header
