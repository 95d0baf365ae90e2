"""Writing: deterministic, whole or not at all, and nothing that the reader would refuse."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import samples

from prunella.errors import InputError
from prunella.packed import write as module
from prunella.packed.bf16 import from_bf16, to_bf16
from prunella.packed.read import open_packed
from prunella.packed.write import TensorSpec, write

ONE = np.ones((2, 3), np.int8)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(samples.METADATA.items()))
    files_backwards = dict(reversed(samples.FILES.items()))
    write(tmp_path / "a.prn", samples.specs(), samples.METADATA, samples.FILES)
    write(tmp_path / "b.prn", samples.specs(), backwards, files_backwards)
    assert (tmp_path / "a.prn").read_bytes() == (tmp_path / "b.prn").read_bytes()


def test_sections_are_aligned(tmp_path: Path) -> None:
    write(tmp_path / "a.prn", samples.specs(), samples.METADATA, samples.FILES)
    packed = open_packed(tmp_path / "a.prn")
    assert all(section.offset % 64 == 0 for _, section in packed.header.sections())
    data = (tmp_path / "a.prn").read_bytes()
    assert data.startswith(b"\x89PRN\r\n\x1a\n\x01\0\0\0")
    assert len(data) == packed.size


def test_an_empty_model(tmp_path: Path) -> None:
    write(tmp_path / "a.prn", [], {}, {})
    packed = open_packed(tmp_path / "a.prn")
    packed.verify()
    assert packed.names == ()
    assert packed.files == {}
    assert packed.metadata == {}


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.prn"
    write(path, [TensorSpec("x", ONE, "sparse")], {}, {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.prn: cannot be written .No space left"):
        write(path, [TensorSpec("y", ONE, "sparse")], {}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.prn"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.prn", [TensorSpec("x", ONE, "sparse")], {}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["missing/a.prn", ".", "file/a.prn"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / place, [], {}, {})


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.prn", [], {}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.prn").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TensorSpec("", ONE, "sparse"), "called ''"),
        (TensorSpec("x\n", ONE, "sparse"), "not allowed"),
        (TensorSpec("x", ONE, "zipped"), "encoding"),  # type: ignore[arg-type]
        (TensorSpec("x", ONE.astype(complex), "dense"), "complex128"),
        (TensorSpec("x", ONE.astype(bool), "dense"), "bool"),
        (TensorSpec("x", ONE.astype(object), "dense"), "object"),
        (TensorSpec("x", ONE, "dense", dtype="bf16"), "bf16"),
        (TensorSpec("x", ONE, "dense", scale=np.ones(3, np.float32)), "one for each row"),
        (TensorSpec("x", ONE, "dense", scale=np.ones(2)), "float32"),
        (TensorSpec("x", ONE.astype("f4"), "dense", np.ones(2, np.float32)), "scales"),
        (TensorSpec("x", np.zeros((1,) * 9, np.int8), "dense"), "shape"),
        (TensorSpec("x", np.broadcast_to(np.int8(0), (1 << 31,)), "dense"), "larger than"),
    ],
)
def test_tensors_that_cannot_be_packed(tmp_path: Path, spec: TensorSpec, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / "a.prn", [spec], {}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("metadata", "files"),
    [
        ({"loss": float("nan")}, {}),
        ({"text": "x" * (1 << 24)}, {}),
        ({"path": Path("x")}, {}),
        ({"text": "\ud800"}, {}),
        ({1: "a", "1": "b"}, {}),
        ({}, {"../x": b""}),
        ({}, {"/x": b""}),
    ],
)
def test_contents_that_cannot_be_packed(tmp_path: Path, metadata: Any, files: Any) -> None:
    with pytest.raises(InputError, match="cannot be packed"):
        write(tmp_path / "a.prn", [], metadata, files)


def test_same_name_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same name"):
        write(tmp_path / "a.prn", [TensorSpec("x", ONE, "dense")] * 2, {}, {})


def test_bf16_rounds_to_even_and_keeps_nan() -> None:
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FFFFFFF, 0x7F800001, 0x80000000],
        np.uint32,
    )
    rounded = to_bf16(bits.view(np.float32))
    # 1 + half a step is even at 0x3F80; 0x3F81 + half a step goes up; the largest to infinity.
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7FFF, 0x7FC0, 0x8000]
    exact = np.array([[1.0, -2.5], [0.0, 384.0]], np.float32)
    assert from_bf16(to_bf16(exact)).tolist() == exact.tolist()
