"""Parses the header of a packed file, and believes none of it.

After `parse` every name, shape, size and offset is consistent with the others and with the length
of the file, and what a reader will have to allocate is bounded; only the contents of the sections
are still unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any, get_args

from prunella.packed.layout import (
    DTYPES,
    Codec,
    Encoding,
    Header,
    Malformed,
    MaskCoding,
    Section,
    TensorInfo,
    align,
)

MAX_HEADER = 1 << 24
MAX_ELEMENTS = (1 << 31) - 1  # so that every position fits in an int32
MAX_DIMENSIONS = 8
# A reader may need this much memory for the whole of a file of n bytes: _FREE + _GROWTH * n.
# 99.9 % sparse fp32 grows 800-fold; zstd alone would allow 30,000-fold.
_FREE = 256 << 20
_GROWTH = 1024
_POSITION_BYTES = 16  # transient memory for one non-zero while a mask is decoded
_MAX_NAME = 512
_FILE_NAME = re.compile(r"(?!\.+(/|$))[\w.\-]+(/(?!\.+(/|$))[\w.\-]+)*", re.ASCII)

_SECTION = {"offset": int, "length": int, "size": int, "codec": str, "crc32": int}
_TENSOR = {
    "name": str,
    "dtype": str,
    "shape": list,
    "encoding": str,
    "nonzeros": int,
    "values": dict,
}
_OPTIONAL = {"role": str, "mask_coding": str, "mask": dict, "scale": dict}


def parse(raw: bytes, data_length: int, file_length: int) -> Header:
    """The header, validated.

    Args:
        raw: The header's bytes.
        data_length: Bytes from the start of the data to the end of the file.
        file_length: Bytes of the whole file.

    Raises:
        Malformed: If anything in it is wrong.
    """
    document = _fields(_json(raw), "the header", {"files": dict, "metadata": dict, "tensors": list})
    header = Header(
        metadata=document["metadata"],
        files={name: _file(name, entry) for name, entry in document["files"].items()},
        tensors=tuple(_tensor(entry, i) for i, entry in enumerate(document["tensors"])),
    )
    names = {tensor.name for tensor in header.tensors}
    if len(names) != len(header.tensors):
        raise Malformed("two of its tensors have the same name")
    _check_places(header, data_length)
    _check_memory(header, file_length)
    return header


def _json(raw: bytes) -> Any:
    try:
        # Encoding it again finds what JSON can spell but not mean: lone surrogates, 1e999.
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_reject
        )
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise Malformed("its header is nested too deeply") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"its header is not valid JSON ({error})") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("its header has an object with the same key twice")
    return result


def _reject(constant: str) -> Any:
    raise Malformed(f"its header holds the number {constant}")


def _fields(
    value: Any, where: str, required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """An object that has all of the required keys, no unknown ones, and values of these types."""
    types = {**required, **(optional or {})}
    if type(value) is not dict:
        raise Malformed(f"{where} is not a JSON object")
    for key, item in value.items():
        if key not in types:
            raise Malformed(f"{where} has an unknown key {key[:40]!r}")
        # type() and not isinstance(): True is no length
        if type(item) is not types[key]:
            raise Malformed(f"{where}: {key!r} should be of type {types[key].__name__}")
    for key in required:
        if key not in value:
            raise Malformed(f"{where} lacks {key!r}")
    return value


def _choice(value: str, choices: Any, where: str) -> Any:
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise Malformed(f"{where} is {value[:40]!r} and not one of {', '.join(allowed)}")
    return value


def _section(value: Any, where: str, sizes: range, width: int = 1) -> Section:
    """A section whose decoded size lies in `sizes`, of elements `width` bytes wide."""
    section = Section(**_fields(value, where, _SECTION))
    _choice(section.codec, Codec, f"{where}: codec")
    if section.size not in sizes:
        raise Malformed(f"{where} claims {section.size} bytes, which its tensor contradicts")
    if not 0 <= section.crc32 < 1 << 32:
        raise Malformed(f"{where}: the checksum is no 32-bit number")
    if section.codec == "raw" and section.length != section.size:
        raise Malformed(f"{where} is stored raw but its two sizes differ")
    if section.codec == "planes" and width == 1:
        raise Malformed(f"{where} has byte planes but elements of one byte")
    return section


def _file(name: str, entry: Any) -> Section:
    if len(name) > _MAX_NAME or not _FILE_NAME.fullmatch(name):
        raise Malformed(f"{name[:80]!r} is not allowed as the name of a file")
    return _section(entry, f"file {name!r}", range(1 << 48))


def _tensor(entry: Any, index: int) -> TensorInfo:
    fields = _fields(entry, f"tensor {index}", _TENSOR, _OPTIONAL)
    name, role = fields["name"], fields.get("role")
    for text in (name, role):
        if text is not None and not (0 < len(text) <= _MAX_NAME and text.isprintable()):
            raise Malformed(f"tensor {index} is called {text[:80]!r}, which is not allowed")
    where = f"tensor {name!r}"
    dtype = DTYPES[_choice(fields["dtype"], DTYPES, f"{where}: dtype")]
    encoding = _choice(fields["encoding"], Encoding, f"{where}: encoding")
    shape = _shape(fields["shape"], where)
    elements, nonzeros = prod(shape), fields["nonzeros"]
    if not 0 <= nonzeros <= elements:
        raise Malformed(f"{where} claims {nonzeros} non-zeros among {elements} elements")
    stored = elements if encoding == "dense" else nonzeros
    coding, mask = _mask(fields, where, elements)
    return TensorInfo(
        name=name,
        role=role,
        dtype=fields["dtype"],
        shape=shape,
        encoding=encoding,
        nonzeros=nonzeros,
        mask_coding=coding,
        mask=mask,
        values=_section(
            fields["values"],
            f"values of {where}",
            _exactly(stored * dtype.itemsize),
            dtype.itemsize,
        ),
        scale=_scale(fields, where, shape),
    )


def _shape(shape: list[Any], where: str) -> tuple[int, ...]:
    if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise Malformed(f"{where} has a shape that is no list of at most {MAX_DIMENSIONS} lengths")
    if _extent(shape) > MAX_ELEMENTS:
        raise Malformed(f"{where} is larger than {MAX_ELEMENTS} elements")
    return tuple(shape)


def _extent(shape: list[int] | tuple[int, ...]) -> int:
    """Elements, but an empty dimension does not hide the length of the others."""
    return prod(max(n, 1) for n in shape)


def _mask(
    fields: dict[str, Any], where: str, elements: int
) -> tuple[MaskCoding | None, Section | None]:
    if fields["encoding"] == "dense":
        if "mask" in fields or "mask_coding" in fields:
            raise Malformed(f"{where} is dense but has a mask")
        return None, None
    if "mask" not in fields or "mask_coding" not in fields:
        raise Malformed(f"{where} is sparse but lacks a mask")
    coding = _choice(fields["mask_coding"], MaskCoding, f"{where}: mask_coding")
    nonzeros = fields["nonzeros"]
    if coding == "bitmap":
        sizes = _exactly((elements + 7) // 8)
    else:  # a symbol for every non-zero and one for every 255 zeros passed over, at most
        sizes = range(nonzeros, nonzeros + (elements - nonzeros) // 255 + 1)
    return coding, _section(fields["mask"], f"mask of {where}", sizes)


def _scale(fields: dict[str, Any], where: str, shape: tuple[int, ...]) -> Section | None:
    if "scale" not in fields:
        return None
    if fields["dtype"] != "int8" or not shape:
        raise Malformed(f"{where} has scales but no rows of int8")
    return _section(fields["scale"], f"scale of {where}", _exactly(4 * shape[0]), width=4)


def _exactly(size: int) -> range:
    return range(size, size + 1)


def _check_places(header: Header, data_length: int) -> None:
    """Sections follow one another, aligned, without gaps, to the end of the file."""
    end = 0
    for owner, section in header.sections():
        if section.length < 0 or section.offset != align(end):
            raise Malformed(f"{owner} does not lie where its predecessor ends")
        end = section.offset + section.length
    if end != data_length:
        fault = "reach beyond its end" if end > data_length else "leave over bytes at its end"
        raise Malformed(f"its parts {fault}")


def _check_memory(header: Header, file_length: int) -> None:
    needed = sum(section.size for _, section in header.sections())
    for tensor in header.tensors:
        needed += _extent(tensor.shape) * tensor.itemsize
        needed += _POSITION_BYTES * tensor.nonzeros if tensor.encoding == "sparse" else 0
    if needed > _FREE + _GROWTH * file_length:
        raise Malformed(
            f"its {file_length} bytes would unpack to {needed >> 20} MiB, as no real model does"
        )
