"""A second reader of packed files, written from docs/format.md in plain Python.

It is slow and trusting. It shares no code with prunella, so that both can only agree if the
document describes what the package does.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass

import zstandard

WIDTHS = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}
WIDTHS |= {f"{sign}int{8 * w}": w for sign in ("", "u") for w in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Tensor:
    """One tensor; `elements` are the little-endian bytes of all of its elements, row-major."""

    dtype: str
    shape: list[int]
    role: str | None
    elements: bytes
    scale: tuple[float, ...] | None


def read(data: bytes) -> tuple[dict, dict[str, bytes], dict[str, Tensor]]:
    """(metadata, files, tensors) of a whole packed file."""
    magic, version, reserved, header_length, file_length = struct.unpack_from("<8sIIQQ", data)
    assert (magic, version, reserved) == (b"\x89PRN\r\n\x1a\n", 1, 0)
    assert file_length == len(data)
    header = data[64 : 64 + header_length]
    assert struct.unpack_from("<I", data, 60)[0] == zlib.crc32(data[:60] + header)
    document = json.loads(header)
    body = data[(64 + header_length + 63) // 64 * 64 :]
    files = {name: section(body, entry, 1) for name, entry in document["files"].items()}
    return document["metadata"], files, {t["name"]: tensor(body, t) for t in document["tensors"]}


def section(body: bytes, entry: dict, width: int) -> bytes:
    """The decoded bytes of one section."""
    assert entry["offset"] % 64 == 0
    stored = body[entry["offset"] : entry["offset"] + entry["length"]]
    assert zlib.crc32(stored) == entry["crc32"]
    if entry["codec"] == "raw":
        return stored
    plain = zstandard.ZstdDecompressor().decompress(stored)
    assert len(plain) == entry["size"]
    if entry["codec"] == "zstd":
        return plain
    count = len(plain) // width
    return bytes(plain[byte * count + i] for i in range(count) for byte in range(width))


def tensor(body: bytes, entry: dict) -> Tensor:
    """One tensor, its zeros filled in."""
    width = WIDTHS[entry["dtype"]]
    count = 1
    for length in entry["shape"]:
        count *= length
    values = section(body, entry["values"], width)
    if entry["encoding"] == "sparse":
        mask = section(body, entry["mask"], 1)
        decode = {"gaps": positions_of_gaps, "bitmap": positions_of_bitmap}[entry["mask_coding"]]
        elements = bytearray(count * width)
        for i, position in enumerate(decode(mask)):
            elements[position * width : (position + 1) * width] = values[
                i * width : (i + 1) * width
            ]
        values = bytes(elements)
    assert len(values) == count * width
    scale = None
    if "scale" in entry:
        raw = section(body, entry["scale"], 4)
        scale = struct.unpack(f"<{len(raw) // 4}f", raw)
    return Tensor(entry["dtype"], entry["shape"], entry.get("role"), values, scale)


def positions_of_gaps(mask: bytes) -> list[int]:
    """Positions of the non-zeros, from the zeros between them."""
    positions, position = [], 0
    for symbol in mask:
        position += symbol
        if symbol != 255:
            positions.append(position)
            position += 1
    return positions


def positions_of_bitmap(mask: bytes) -> list[int]:
    """Positions of the non-zeros, from one bit for each element."""
    return [8 * i + bit for i, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1]
