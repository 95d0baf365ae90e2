"""Hostile packed files, each made in code: name -> (bytes, words that the error must contain)."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zstandard
from packed import forge

Attack = tuple[str, bytes, str]
Edit = Callable[[dict[str, Any]], Any]


def attacks(honest: bytes) -> Iterator[Attack]:
    """All of them, made from one honest file (of `samples.specs()`)."""
    yield from not_ours(honest)
    yield from preambles(honest)
    yield from bad_json(honest)
    yield from lies(honest)
    yield from payloads(honest)


def not_ours(honest: bytes) -> Iterator[Attack]:
    yield "empty", b"", "empty"
    yield "one byte of magic", honest[:1], "cut short"
    yield "magic alone", honest[:8], "cut short"
    yield "half a preamble", honest[:40], "cut short"
    yield "text", b"hello, world\n" * 20, "not a packed model"
    yield "zip", b"PK\x03\x04" + bytes(100), "not a packed model"
    yield "safetensors", struct.pack("<Q", 2) + b"{}", "not a packed model"
    yield "text mode, CRLF lost", honest.replace(b"\r\n", b"\n", 1), "not a packed model"
    yield "zeros", bytes(4096), "not a packed model"


def preambles(honest: bytes) -> Iterator[Attack]:
    header, body = forge.take_apart(honest)
    yield "version 0", forge.put_together(header, body, version=0), "version 0"
    yield "version from the future", forge.put_together(header, body, version=2), "update prunella"
    yield "bytes behind the last part", forge.put_together(header, body + bytes(64)), "leave over"
    yield "last part missing", forge.put_together(header, body[:-64]), "reach beyond"
    yield "reserved field", forge.put_together(header, body, reserved=1), "reserved"
    for length in (2**63, 2**64 - 1, len(honest), 1 << 25):
        lie = forge.put_together(header, body, header_length=length)
        yield f"header of {length} bytes", lie, "claims a header"
    yield "header one byte short", forge.put_together(header, body, header_length=10), "checksum"
    yield "file too long", forge.put_together(header, body, file_length=2**60), "cut short"
    yield "file too short", forge.put_together(header, body, file_length=70), "followed by"
    yield "cut in half", honest[: len(honest) // 2], "cut short"
    yield "last byte lost", honest[:-1], "cut short"
    yield "trailing byte", honest + b"\0", "followed by"
    yield "two files joined", honest + honest, "followed by"
    yield "header edited by hand", honest.replace(b'"half.weight"', b'"hald.weight"'), "checksum"
    yield "last value flipped", honest[:-1] + bytes([honest[-1] ^ 1]), "checksum"


def bad_json(honest: bytes) -> Iterator[Attack]:
    header, body = forge.take_apart(honest)
    good = forge.to_json(header)
    cases = {
        "no JSON": b"hello",
        "no bytes": b"",
        "UTF-8 broken": good.replace(b"bert", b"b\xffrt", 1),
        "cut JSON": good[:-1],
        "two documents": good + b"{}",
        "deeply nested": b"[" * 100_000,
        "deeply nested, closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "huge integer": b'{"files":' + b"9" * 5000 + b"}",
        "NaN": good.replace(b"0.1", b"NaN"),
        "infinity": good.replace(b"0.1", b"1e999"),
        "lone surrogate": good.replace(b'"good"', b'"\\ud800"'),
        "same key twice": good.replace(b'"files":', b'"files":{},"files":', 1),
        "array": b"[]",
        "null": b"null",
        "empty object": b"{}",
    }
    for name, raw in cases.items():
        assert raw != good, name
        yield name, forge.put_together(raw, body), "header"


def lies(honest: bytes) -> Iterator[Attack]:
    """Headers that parse but contradict themselves, the file, or sense."""

    def forged(name: str, words: str, edit: Edit) -> Attack:
        header, body = forge.take_apart(honest)
        edit(header)
        return name, forge.put_together(header, body), words

    def tensor(title: str, words: str, index: int, **changes: Any) -> Attack:
        return forged(title, words, lambda h: h["tensors"][index].update(changes))

    def section(name: str, words: str, index: int, part: str, **changes: Any) -> Attack:
        return forged(name, words, lambda h: h["tensors"][index][part].update(changes))

    yield forged("unknown key", "unknown key", lambda h: h.update(extra=1))
    yield forged("no metadata", "lacks 'metadata'", lambda h: h.pop("metadata"))
    yield forged("metadata a list", "should be", lambda h: h.update(metadata=[]))
    yield forged("tensor a number", "not a JSON object", lambda h: h["tensors"].append(7))
    yield forged("no shape", "lacks 'shape'", lambda h: h["tensors"][0].pop("shape"))
    yield forged("no mask", "lacks a mask", lambda h: h["tensors"][0].pop("mask"))
    yield forged("same tensor twice", "same name", lambda h: h["tensors"].append(h["tensors"][0]))
    yield tensor("same name twice", "same name", 1, name="bert.encoder.layer.0.ffn.weight")
    yield tensor("empty name", "not allowed", 0, name="")
    yield tensor("terminal escape in a name", "not allowed", 0, name="\x1b[2J")
    yield tensor("long name", "not allowed", 0, name="x" * 10_000)
    yield tensor("control character in a role", "not allowed", 0, role="query\n")
    yield tensor("unknown type", "dtype", 0, dtype="fp7")
    yield tensor("other type", "contradicts", 1, dtype="fp64")
    yield tensor("unknown encoding", "encoding", 0, encoding="zip")
    yield tensor("dense with a mask", "has a mask", 0, encoding="dense")
    yield tensor("unknown mask coding", "mask_coding", 0, mask_coding="rle")
    for shape in ([-1, 40], [24.0, 40], [True, 40], ["24", 40], [None], [[24]], [1] * 9):
        yield tensor(f"shape {shape}", "shape", 0, shape=shape)
    for shape in ([2**31], [2**40, 2**40], [0, 2**62], [2**16, 2**16]):
        yield tensor(f"shape {shape}", "larger than", 5, shape=shape)
    yield tensor("a gibibyte of zeros", "unpack to", 5, shape=[2**29])
    yield tensor("empty rows without end", "unpack to", 5, shape=[2**30, 0])
    yield tensor("transposed", "contradicts", 3, shape=[40, 30])
    yield tensor("fewer elements", "among", 6, shape=[31, 16])
    for count in (-1, 961, 2**70):
        yield tensor(f"{count} non-zeros", "non-zeros", 0, nonzeros=count)
    yield tensor("one non-zero more", "contradicts", 0, nonzeros=97)
    yield tensor("non-zeros true", "type int", 0, nonzeros=True)
    yield tensor("scale on floats", "scales", 1, scale={})
    yield tensor("scale null", "type dict", 0, scale=None)
    for offset in (-64, 1, 64, 2**40, 2**70):
        yield section(f"offset {offset}", "does not lie", 1, "values", offset=offset)
    for length in (-1, 0, 2**40, 2**70):
        yield section(f"raw length {length}", "stored raw", 6, "values", length=length)
        yield section(f"zstd length {length}", "", 9, "values", length=length)
    for size in (-1, 0, 95, 97, 2**40, 2**70):
        yield section(f"size {size}", "contradicts", 0, "values", size=size)
    yield section("mask of too many gaps", "contradicts", 0, "mask", size=96 + 5)
    yield section("unknown codec", "codec", 0, "values", codec="lzma")
    yield section("planes of single bytes", "planes", 0, "values", codec="planes")
    yield section("checksum too large", "32-bit", 0, "values", crc32=2**32)
    yield section("checksum as text", "type int", 0, "values", crc32="0")
    for name in ("../evil", "/etc/passwd", "a/../../b", "", "a\\b", "C:evil", "a\0b", ".", "é" * 9):
        yield forged(
            f"file called {name!r}",
            "not allowed",
            lambda h, name=name: h["files"].update({name: h["files"].pop("tokenizer.json")}),
        )


def payloads(honest: bytes) -> Iterator[Attack]:
    """Sections with right checksums whose contents lie; found when they are decoded."""

    def forged(
        name: str, words: str, part: Callable[[Any], dict[str, Any]], stored: bytes, **fields: Any
    ) -> Attack:
        header, body = forge.take_apart(honest)
        body = forge.replace(header, body, part(header), stored, **fields)
        return name, forge.put_together(header, body), words

    def values(header: Any) -> dict[str, Any]:
        return header["tensors"][0]["values"]

    def mask(header: Any) -> dict[str, Any]:
        return header["tensors"][0]["mask"]

    def last_mask(header: Any) -> dict[str, Any]:
        return header["tensors"][3]["mask"]

    def tokenizer(header: Any) -> dict[str, Any]:
        return header["files"]["tokenizer.json"]

    zstd = zstandard.ZstdCompressor()
    bomb = zstd.compress(bytes(200 << 20))
    size = tokenizer(forge.take_apart(honest)[0])["size"]
    nonzeros = values(forge.take_apart(honest)[0])["size"]
    yield forged("bomb", "instead of", tokenizer, bomb, codec="zstd")
    yield forged("bomb, declared", "unpack to", tokenizer, bomb * 2, codec="zstd", size=400 << 20)
    yield forged("no frame", "decoded", tokenizer, b"junk" * 20, codec="zstd")
    yield forged("empty frame section", "decoded", tokenizer, b"", codec="zstd")
    skippable = struct.pack("<II", 0x184D2A50, size) + bytes(size)
    yield forged("skippable frame", "decoded", tokenizer, skippable, codec="zstd")
    joined = zstd.compress(bytes(size)) + zstd.compress(bytes(9))
    yield forged("two frames", "decoded", tokenizer, joined, codec="zstd")
    anonymous = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))
    yield forged("frame without a size", "instead of", tokenizer, anonymous, codec="zstd")
    # Single segment, content size in 8 bytes: a frame that claims what its blocks do not hold.
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size)
    empty_block = frame + b"\x01\x00\x00"
    yield forged("frame that holds less", "decoded", tokenizer, empty_block, codec="zstd")
    rle_block = frame + struct.pack("<I", 1 << 17 << 3 | 3)[:3] + b"x"
    yield forged("frame that holds more", "decoded", tokenizer, rle_block, codec="zstd")
    dense_gaps = np.full(nonzeros, 254, np.uint8).tobytes()
    yield forged("gaps beyond the tensor", "reaches beyond", mask, dense_gaps, codec="raw")
    escapes = np.full(nonzeros, 255, np.uint8).tobytes()
    yield forged("gaps that never end", "number of non-zeros", mask, escapes, codec="raw")
    yield forged("escape at the end", "number of non-zeros", last_mask, b"\xff\xff\x07\xff")
    zeros = zstd.compress(bytes(nonzeros))
    yield forged("zeros among the non-zeros", "a zero is stored", values, zeros, codec="zstd")

    header, body = forge.take_apart(honest)
    half = header["tensors"][1]
    assert half["mask_coding"] == "bitmap"
    full = forge.replace(header, body, half["mask"], b"\xff" * 32, codec="raw")
    yield "bitmap with too many bits", forge.put_together(header, full), "number of non-zeros"
    header, body = forge.take_apart(honest)
    entry = copy.deepcopy(header["tensors"][8])  # five elements, three bits of padding
    header["tensors"][8].update(mask_coding="bitmap")
    body = forge.replace(header, body, header["tensors"][8]["mask"], b"\xf0", codec="raw", size=1)
    assert entry["shape"] == [5]
    assert entry["nonzeros"] == 4
    yield "bitmap beyond the tensor", forge.put_together(header, body), "number of non-zeros"
    header, body = forge.take_apart(honest)
    first = header["tensors"][0]["mask"]
    gap = first["offset"] + first["length"]
    assert header["tensors"][0]["values"]["offset"] > gap
    stuffed = body[:gap] + b"x" + body[gap + 1 :]
    yield "bytes hidden in the padding", forge.put_together(header, stuffed), "padding"
    header, body = forge.take_apart(honest)
    header["tensors"][7]["nonzeros"] -= 1
    yield "dense non-zeros miscounted", forge.put_together(header, body), "number of non-zeros"
