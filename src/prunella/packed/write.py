"""Writes a packed file."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np

from prunella.errors import InputError
from prunella.packed.coding import compress, encode_mask
from prunella.packed.header import MAX_ELEMENTS, MAX_HEADER, parse
from prunella.packed.layout import (
    DTYPES,
    PREAMBLE_SIZE,
    Codec,
    Encoding,
    Header,
    Malformed,
    MaskCoding,
    Section,
    TensorInfo,
    align,
    data_start,
    encode_header,
    encode_preamble,
)

_LABELS = {dtype: label for label, dtype in DTYPES.items() if label != "bf16"}


@dataclass(frozen=True, eq=False)
class TensorSpec:
    """A tensor to be packed.

    Attributes:
        name: Its unique name.
        array: Its elements. bfloat16 comes as the uint16 of its bits, with `dtype="bf16"`.
        encoding: "sparse" stores a mask and the non-zeros, "dense" every element. Both give back
            every bit: only +0 counts as zero, -0.0 is stored.
        scale: [rows] float32 of an int8 tensor: a weight is its int8 times the scale of its row.
        role: What `prunella.roles` calls it; None for what is never pruned.
        dtype: What the elements are called; by default what numpy calls them.
    """

    name: str
    array: np.ndarray
    encoding: Encoding
    scale: np.ndarray | None = None
    role: str | None = None
    dtype: str | None = None


class _Body:
    """The sections of a file in the making, each placed behind the one before."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.end = 0

    def add(self, data: np.ndarray) -> Section:
        return self.place(data.nbytes, *compress(data))

    def place(self, size: int, codec: Codec, stored: bytes) -> Section:
        offset = align(self.end)
        self.pieces += [bytes(offset - self.end), stored]
        self.end = offset + len(stored)
        return Section(offset, len(stored), size, codec, zlib.crc32(stored))


def write(
    path: str | Path,
    tensors: Sequence[TensorSpec],
    metadata: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Writes one packed file, whole or not at all, over an existing one.

    The same arguments give the same bytes (with the same release of zstd).

    Args:
        path: The file, by custom named *.prn.
        tensors: In the order in which they are to lie in the file.
        metadata: Whatever JSON can hold: configuration, labels, provenance.
        files: Name -> contents of whole files to carry along, such as the tokenizer's.

    Raises:
        InputError: If the contents cannot be packed or the file cannot be written.
    """
    try:
        pieces = assemble(tensors, metadata, files)
    except Malformed as error:
        raise InputError(
            f"{path}: cannot be packed: {error}; change what is to be packed"
        ) from None
    with _replacing(Path(path)) as stream:
        stream.writelines(pieces)


def assemble(
    tensors: Sequence[TensorSpec], metadata: Mapping[str, Any], files: Mapping[str, bytes]
) -> list[bytes]:
    """The bytes of a packed file, in pieces. Arguments as for `write`.

    Raises:
        Malformed: If a reader would refuse the result, or JSON cannot express the metadata.
    """
    body = _Body()
    packed_files = {name: body.add(np.frombuffer(files[name], "u1")) for name in sorted(files)}
    entries = tuple(_add(body, spec) for spec in tensors)
    try:
        header = encode_header(Header(dict(metadata), packed_files, entries))
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"its metadata is not fit for JSON ({error})") from None
    if len(header) > MAX_HEADER:
        raise Malformed(f"its header would take {len(header)} bytes")
    start = data_start(len(header))
    length = start + body.end
    parse(header, body.end, length)  # the reader's own checks
    padded = header.ljust(start - PREAMBLE_SIZE, b"\0")
    return [encode_preamble(header, length), padded, *body.pieces]


def _add(body: _Body, spec: TensorSpec) -> TensorInfo:
    label, flat = _flatten(spec)
    bits = flat.view(f"u{flat.itemsize}")
    nonzeros = int(np.count_nonzero(bits))
    coding: MaskCoding | None = None
    mask: Section | None = None
    if spec.encoding == "sparse":
        positions = np.flatnonzero(bits)
        coding, mask = _add_mask(body, positions, flat.size)
        flat = flat[positions]
    return TensorInfo(
        name=spec.name,
        role=spec.role,
        dtype=label,
        shape=spec.array.shape,
        encoding=spec.encoding,
        nonzeros=nonzeros,
        mask_coding=coding,
        mask=mask,
        values=body.add(flat),
        scale=None if spec.scale is None else body.add(_scale(spec)),
    )


def _flatten(spec: TensorSpec) -> tuple[str, np.ndarray]:
    """(dtype label, elements in row-major order and little-endian)."""
    little = spec.array.dtype.newbyteorder("<")
    label = spec.dtype or _LABELS.get(little)
    if label is None or DTYPES.get(label) != little:
        called = f" called {spec.dtype}" if spec.dtype else ""
        raise Malformed(f"tensor {spec.name!r} is of type {spec.array.dtype}{called}")
    if spec.array.size > MAX_ELEMENTS:
        raise Malformed(f"tensor {spec.name!r} is larger than {MAX_ELEMENTS} elements")
    return label, np.asarray(spec.array, little, order="C").reshape(-1)


def _scale(spec: TensorSpec) -> np.ndarray:
    scale = np.asarray(spec.scale)
    rows = spec.array.shape[:1]
    if scale.dtype.newbyteorder("<") != np.dtype("<f4") or scale.shape != rows:
        raise Malformed(f"tensor {spec.name!r} needs scales of float32, one for each row")
    return np.ascontiguousarray(scale, "<f4")


def _add_mask(body: _Body, positions: np.ndarray, elements: int) -> tuple[MaskCoding, Section]:
    """Stores the mask in whichever coding takes fewer bytes."""
    choices: list[tuple[MaskCoding, int, Codec, bytes]] = []
    for coding in get_args(MaskCoding):
        symbols = encode_mask(positions, elements, coding)
        choices.append((coding, symbols.nbytes, *compress(symbols)))
    coding, size, codec, stored = min(choices, key=lambda choice: len(choice[3]))
    return coding, body.place(size, codec, stored)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose contents replace `path` in one step, once they are safely on disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the path") from None
    finally:
        with suppress(OSError):  # it is gone if all went well
            draft.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power cut, too; only POSIX lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
