"""What is written is read back, bit for bit, by this reader and by the reference reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import reference, samples

from prunella.errors import InputError
from prunella.packed.layout import DTYPES
from prunella.packed.read import open_packed, read_packed
from prunella.packed.write import TensorSpec, assemble, write


@st.composite
def tensors(draw: st.DrawFn, name: str) -> TensorSpec:
    """Any type, shape, density and bit pattern."""
    label = draw(st.sampled_from(sorted(DTYPES)))
    dtype = DTYPES[label]
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=3)))
    density = draw(st.sampled_from([0.0, 0.003, 0.1, 0.5, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(shape, dtype=int))
    raw = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype)
    array = np.where(rng.random(size) < density, raw, np.zeros_like(raw)).reshape(shape)
    if draw(st.booleans()):
        array = array.T
    scale = None
    if label == "int8" and array.ndim and draw(st.booleans()):
        scale = rng.standard_normal(array.shape[0]).astype(np.float32)
    return TensorSpec(
        name,
        array,
        encoding=draw(st.sampled_from(["dense", "sparse"])),
        scale=scale,
        role=draw(st.sampled_from([None, "query", "ffn_out"])),
        dtype="bf16" if label == "bf16" else None,
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_tensor_survives(data: st.DataObject) -> None:
    specs = [data.draw(tensors(name)) for name in ("a", "b.weight", "ç")]
    metadata = data.draw(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()))
    files = data.draw(
        st.dictionaries(st.from_regex(r"[a-z]{1,9}\.json", fullmatch=True), st.binary())
    )
    whole = b"".join(assemble(specs, metadata, files))
    packed = read_packed(whole, Path("any.prn"))
    packed.verify()
    seen_metadata, seen_files, seen = reference.read(whole)
    assert packed.metadata == seen_metadata == metadata
    assert packed.files == seen_files == files
    assert packed.names == tuple(seen) == ("a", "b.weight", "ç")
    for spec in specs:
        again, info = packed.tensor(spec.name), packed.info(spec.name)
        bits = spec.array.tobytes()
        assert again.tobytes() == seen[spec.name].elements == bits
        assert again.shape == tuple(seen[spec.name].shape) == spec.array.shape
        assert again.dtype == spec.array.dtype
        assert not again.flags.writeable
        assert (info.role, info.encoding) == (spec.role, spec.encoding)
        width = spec.array.itemsize
        items = [bits[i : i + width] for i in range(0, len(bits), width)]
        assert info.nonzeros == sum(item != bytes(width) for item in items)
        scale = packed.scale(spec.name)
        if spec.scale is None:
            assert scale is None
            assert seen[spec.name].scale is None
        else:
            assert scale is not None
            assert scale.tobytes() == spec.scale.tobytes()
            assert seen[spec.name].scale == tuple(spec.scale.tolist())


def test_sample_exercises_every_coding(tmp_path: Path) -> None:
    path = tmp_path / "sample.prn"
    write(path, samples.specs(), samples.METADATA, samples.FILES)
    packed = open_packed(path)
    infos = [packed.info(name) for name in packed.names]
    assert {info.mask_coding for info in infos} == {"gaps", "bitmap", None}
    codecs = {section.codec for _, section in packed.header.sections()}
    assert codecs == {"raw", "zstd", "planes"}


def test_negative_zero_and_nan_payloads_are_values(tmp_path: Path) -> None:
    bits = np.array([0, 0x80000000, 0x7FA00001, 0xFFC12345, 1, 0x7F800000], np.uint32)
    for encoding in ("dense", "sparse"):
        write(tmp_path / "x.prn", [TensorSpec("x", bits.view(np.float32), encoding)], {}, {})
        packed = open_packed(tmp_path / "x.prn")
        assert packed.tensor("x").view(np.uint32).tolist() == bits.tolist()
        assert packed.info("x").nonzeros == 5


def test_bf16_keeps_its_name(tmp_path: Path) -> None:
    array = np.array([[0x3F80, 0], [0, 0xC000]], np.uint16)
    specs = [TensorSpec("b", array, "sparse", dtype="bf16"), TensorSpec("u", array, "sparse")]
    write(tmp_path / "b.prn", specs, {}, {})
    packed = open_packed(tmp_path / "b.prn")
    assert (packed.info("b").dtype, packed.info("u").dtype) == ("bf16", "uint16")
    assert packed.tensor("b").tolist() == array.tolist()


def test_big_endian_arrays_are_stored_little_endian(tmp_path: Path) -> None:
    array = np.array([1.5, 0.0, -2.0], ">f4")
    write(tmp_path / "x.prn", [TensorSpec("x", array, "sparse")], {}, {})
    again = open_packed(tmp_path / "x.prn").tensor("x")
    assert again.tolist() == [1.5, 0.0, -2.0]
    assert again.dtype == np.dtype("<f4")


@pytest.mark.parametrize("encoding", ["dense", "sparse"])
def test_compressed_sparse_rows(tmp_path: Path, encoding: str) -> None:
    array = np.array([[0, 5, 0], [0, 0, 0], [-1, 0, 7], [0, 0, 0]], np.int8)
    write(tmp_path / "x.prn", [TensorSpec("x", array, encoding)], {}, {})  # type: ignore[arg-type]
    rows = open_packed(tmp_path / "x.prn").sparse("x")
    assert rows.shape == (4, 3)
    assert rows.indptr.tolist() == [0, 1, 1, 3, 3]
    assert rows.indices.tolist() == [1, 0, 2]
    assert rows.values.tolist() == [5, -1, 7]
    assert (rows.indptr.dtype, rows.indices.dtype) == (np.int32, np.int32)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_rows_of_empty_matrices(tmp_path: Path, shape: tuple[int, int]) -> None:
    write(tmp_path / "x.prn", [TensorSpec("x", np.zeros(shape, np.int8), "sparse")], {}, {})
    packed = open_packed(tmp_path / "x.prn")
    rows = packed.sparse("x")
    assert rows.indptr.tolist() == [0] * (shape[0] + 1)
    assert not len(rows.indices)
    assert packed.tensor("x").shape == shape


def test_only_a_matrix_has_rows(tmp_path: Path) -> None:
    write(tmp_path / "x.prn", [TensorSpec("x", np.zeros(3, np.int8), "sparse")], {}, {})
    packed = open_packed(tmp_path / "x.prn")
    with pytest.raises(ValueError, match="only a matrix"):
        packed.sparse("x")
    with pytest.raises(InputError, match=r"x\.prn: holds no tensor 'y'"):
        packed.tensor("y")


def test_raw_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint8)
    write(tmp_path / "x.prn", [TensorSpec("x", array, "dense")], {}, {})
    data = (tmp_path / "x.prn").read_bytes()
    packed = read_packed(data, tmp_path / "x.prn")
    assert packed.info("x").values.codec == "raw"
    assert np.shares_memory(packed.tensor("x"), np.frombuffer(data, np.uint8))


def test_import_needs_neither_torch_nor_pydantic() -> None:
    code = "import sys, prunella.packed.write, prunella.packed.read, prunella.packed.sizes; "
    code += "print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
