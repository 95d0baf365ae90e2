"""The coding of masks and the entropy stage, against plain Python and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from packed import reference

from prunella.packed.coding import (
    compress,
    decode_mask,
    decompress,
    encode_mask,
    join_planes,
    split_planes,
)
from prunella.packed.layout import Malformed

POSITIONS = {"gaps": reference.positions_of_gaps, "bitmap": reference.positions_of_bitmap}


def _u8(*symbols: int) -> np.ndarray:
    return np.array(symbols, np.uint8)


@pytest.mark.parametrize(
    ("positions", "symbols"),
    [
        ([], []),
        ([0], [0]),
        ([0, 1, 2], [0, 0, 0]),
        ([3, 5], [3, 1]),
        ([254], [254]),
        ([255], [255, 0]),
        ([256], [255, 1]),
        ([509], [255, 254]),
        ([510], [255, 255, 0]),
        ([2, 258, 260], [2, 255, 0, 1]),
    ],
)
def test_gaps_by_hand(positions: list[int], symbols: list[int]) -> None:
    coded = encode_mask(np.array(positions, np.int64), 1000, "gaps")
    assert coded.tolist() == symbols
    assert decode_mask(coded, len(positions), 1000, "gaps").tolist() == positions


def test_bitmap_by_hand() -> None:
    coded = encode_mask(np.array([0, 3, 9]), 10, "bitmap")
    assert coded.tolist() == [0b1001, 0b10]
    assert decode_mask(coded, 3, 10, "bitmap").tolist() == [0, 3, 9]


@given(
    st.integers(0, 4000).flatmap(
        lambda n: st.tuples(
            st.just(n), st.sets(st.integers(0, max(n - 1, 0)), max_size=min(n, 300))
        )
    ),
    st.sampled_from(["gaps", "bitmap"]),
)
def test_masks_agree_with_plain_python(case: tuple[int, set[int]], coding: str) -> None:
    elements, chosen = case
    positions = sorted(chosen)
    coded = encode_mask(np.array(positions, np.int64), elements, coding)  # type: ignore[arg-type]
    assert POSITIONS[coding](coded.tobytes()) == positions
    decoded = decode_mask(coded, len(positions), elements, coding)  # type: ignore[arg-type]
    assert decoded.tolist() == positions
    assert decoded.dtype == np.int32


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 600))
def test_any_gaps_are_refused_or_right(mask: bytes, nonzeros: int, elements: int) -> None:
    expected = reference.positions_of_gaps(mask)
    sound = len(expected) == nonzeros and (not mask or mask[-1] != 255)
    sound = sound and (not expected or expected[-1] < elements)
    try:
        decoded = decode_mask(np.frombuffer(mask, np.uint8), nonzeros, elements, "gaps")
    except Malformed:
        assert not sound
    else:
        assert sound
        assert decoded.tolist() == expected


@pytest.mark.parametrize(
    ("symbols", "nonzeros", "elements"),
    [
        (_u8(9), 1, 9),  # the non-zero lies just behind the end
        (_u8(255), 0, 255),  # an escape that leads nowhere
        (_u8(255), 1, 400),  # no non-zero at all
        (_u8(1, 1), 1, 400),
        (np.full(100_000, 254, np.uint8), 100_000, 100_000),
    ],
)
def test_gaps_that_lie(symbols: np.ndarray, nonzeros: int, elements: int) -> None:
    with pytest.raises(Malformed):
        decode_mask(symbols, nonzeros, elements, "gaps")


def test_planes_by_hand() -> None:
    data = np.array([0x0102, 0x0304], "<u2")
    assert split_planes(data).tolist() == [[2, 4], [1, 3]]
    assert join_planes(bytes([2, 4, 1, 3]), 2).tobytes() == data.tobytes()


@given(st.binary(max_size=500), st.sampled_from(["u1", "<u2", "<u4", "<u8"]))
def test_compress_round_trip(raw: bytes, dtype: str) -> None:
    width = np.dtype(dtype).itemsize
    data = np.frombuffer(raw[: len(raw) // width * width], dtype)
    codec, stored = compress(data)
    assert len(stored) <= data.nbytes
    assert (codec == "raw") == (len(stored) == data.nbytes)
    again = decompress(memoryview(stored), codec, data.nbytes, width)
    assert bytes(again) == data.tobytes()


def test_one_frame_of_standard_zstd() -> None:
    data = np.arange(30_000, dtype=np.float32)
    codec, stored = compress(data)
    plain = zstandard.ZstdDecompressor().decompress(stored)
    assert codec == "planes"
    assert plain == split_planes(data).tobytes()


@pytest.mark.parametrize("size", [0, 999, 1001, 1 << 40])
def test_frame_of_another_size(size: int) -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1000))
    with pytest.raises(Malformed):
        decompress(memoryview(frame), "zstd", size, 1)
