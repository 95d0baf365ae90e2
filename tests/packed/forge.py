"""Makes packed files that lie but carry the right checksums, as an attacker would."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

PREAMBLE = struct.Struct("<8sIIQQ28s")
MAGIC = b"\x89PRN\r\n\x1a\n"


def take_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, everything behind it) of an honest file."""
    length = PREAMBLE.unpack_from(data)[3]
    return json.loads(data[64 : 64 + length]), data[(64 + length + 63) // 64 * 64 :]


def put_together(
    header: Any,
    body: bytes,
    *,
    version: int = 1,
    reserved: int = 0,
    header_length: int | None = None,
    file_length: int | None = None,
) -> bytes:
    """A file of this header (JSON, or bytes as they are) and body, sealed with its checksum."""
    raw = header if isinstance(header, bytes) else to_json(header)
    size = len(raw) if header_length is None else header_length
    start = (64 + len(raw) + 63) // 64 * 64
    total = start + len(body) if file_length is None else file_length
    preamble = PREAMBLE.pack(MAGIC, version, reserved, size, total, bytes(28))
    crc = struct.pack("<I", zlib.crc32(preamble + raw))
    return (preamble + crc + raw).ljust(start, b"\0") + body


def to_json(header: Any) -> bytes:
    return json.dumps(header, separators=(",", ":"), sort_keys=True).encode()


def sections(header: Any) -> list[dict[str, Any]]:
    """Every section that a header mentions, in the order of the file."""
    files = [header["files"][name] for name in sorted(header["files"])]
    tensors = [t[key] for t in header["tensors"] for key in ("mask", "values", "scale") if key in t]
    return [*files, *tensors]


def reseal(header: Any, body: bytes) -> None:
    """Makes all checksums of the sections right for this body."""
    for part in sections(header):
        stored = body[part["offset"] : part["offset"] + part["length"]]
        part["crc32"] = zlib.crc32(stored)


def replace(header: Any, body: bytes, part: dict[str, Any], stored: bytes, **fields: Any) -> bytes:
    """The body with other bytes in one section, whose `fields` change too."""
    pieces = [
        stored if other is part else body[other["offset"] : other["offset"] + other["length"]]
        for other in sections(header)
    ]
    part.update(fields)
    result = b""
    for other, piece in zip(sections(header), pieces, strict=True):
        result = result.ljust((len(result) + 63) // 64 * 64, b"\0")
        other.update(offset=len(result), length=len(piece), crc32=zlib.crc32(piece))
        result += piece
    return result
