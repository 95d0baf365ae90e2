"""Checkpoints: the weights read as safetensors' own reader reads them; damage is explained."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prunella.checkpoint import (
    PROVENANCE,
    Checkpoint,
    open_checkpoint,
    provenance,
    publish,
    rename_old,
    write_json,
)
from prunella.errors import InputError

WEIGHTS = "model.safetensors"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file(tensors, folder / WEIGHTS)
    return open_checkpoint(folder)


def raw_file(folder: Path, header: Any, data: bytes = b"") -> Checkpoint:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return open_checkpoint(folder)


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


tensor_lists = st.lists(
    st.tuples(
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 4), max_size=3),
        st.integers(0, 2**31),
    ),
    max_size=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs=tensor_lists)
def test_reads_what_safetensors_reads(tmp_path: Path, specs: list[Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for i, (dtype, shape, seed) in enumerate(specs):
        count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
        noise = np.random.default_rng(seed).integers(0, 2 if dtype == torch.bool else 256, count)
        flat = torch.from_numpy(noise.astype(np.uint8))
        tensors[f"t{i}"] = (flat.view(dtype) if count else flat.to(dtype)).reshape(shape)
    found = write(tmp_path / "m", tensors)
    reference = load_file(tmp_path / "m" / WEIGHTS)
    arrays = {name: array for name, _, array in found.arrays()}
    assert list(arrays) == sorted(reference)
    for info in found.tensors:
        expected, array = reference[info.name], arrays[info.name]
        assert info.shape == array.shape == tuple(expected.shape)
        assert array.tobytes() == expected.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert info.bytes == expected.nbytes
        assert info.size == expected.numel()
        # Compared as float64, since torch compares neither float8 nor wide unsigned integers.
        # NaN counts as a value.
        assert info.nonzeros == np.count_nonzero(expected.to(torch.float64).numpy())


def test_zeros_of_either_sign_count_as_pruned(tmp_path: Path) -> None:
    values = torch.tensor([[0.0, -0.0], [1.5, -2.0]])
    names = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
    found = write(tmp_path / "m", {name: values.to(getattr(torch, name)) for name in names})
    assert {t.name: t.nonzeros for t in found.tensors} == dict.fromkeys(names, 2)
    assert {t.sparsity for t in found.tensors} == {0.5}


def test_the_lowest_short_is_not_a_zero(tmp_path: Path) -> None:
    found = write(tmp_path / "m", {"a": torch.tensor([-32768, 0], dtype=torch.int16)})
    assert [t.nonzeros for t in found.tensors] == [1]


def test_roles_and_sparsity(tmp_path: Path) -> None:
    weight = torch.ones(4, 5)
    weight[0] = 0
    found = write(
        tmp_path / "m",
        {
            QUERY: weight,
            QUERY.replace("weight", "bias"): torch.zeros(4),
            "bert.embeddings.word_embeddings.weight": torch.ones(3, 4),
            "bert.encoder.layer.0.output.dense.weight": torch.ones(6),  # not a matrix
        },
    )
    assert found.sparsity() == {QUERY: 0.25}
    assert {t.name: t.role for t in found.tensors if t.role} == {QUERY: "query"}


def test_a_saved_model_reads_back(tiny_checkpoint: Callable[..., Path]) -> None:
    found = open_checkpoint(tiny_checkpoint("electra"))
    reference = load_file(found.path / WEIGHTS)
    arrays = {name: array for name, _, array in found.arrays()}
    assert arrays.keys() == reference.keys()
    for name, tensor in reference.items():
        assert np.array_equal(arrays[name], tensor.numpy())
    assert len(found.sparsity()) == 2 * 6
    assert found.config["model_type"] == "electra"
    assert found.provenance is None


def test_sharded_weights(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write(folder, {"b": torch.ones(2)})
    (folder / WEIGHTS).rename(folder / "two.safetensors")
    save_file({"a": torch.zeros(3), "c": torch.ones(1)}, folder / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)
    found = open_checkpoint(folder)
    assert {t.name: t.nonzeros for t in found.tensors} == {"a": 0, "b": 2, "c": 1}
    before = found.weights_hash
    save_file({"b": torch.full((2,), 2.0)}, folder / "two.safetensors")
    assert open_checkpoint(folder).weights_hash != before
    (folder / "two.safetensors").unlink()
    for read in (lambda c: c.tensors, lambda c: c.weights_hash):
        with pytest.raises(InputError, match=r"two\.safetensors: no such file"):
            read(open_checkpoint(folder))


NAMES = {
    f"{where}LayerNorm.{old}": f"{where}LayerNorm.{new}"
    for old, new in (("gamma", "weight"), ("beta", "bias"))
    for where in ("", "embeddings.", "cls.predictions.transform.", "bert.encoder.layer.11.output.")
}


def test_old_names_are_read_as_those_of_today(tmp_path: Path) -> None:
    """And both spellings of a model have the hash that the new one always had."""
    others = ["embeddings.gamma", "gamma.weight", "a", "z"]
    values = {name: torch.rand(3) for name in (*NAMES, *others)}
    values["position_ids"] = torch.arange(4)
    old = write(tmp_path / "old", values)
    new = write(tmp_path / "new", {NAMES.get(name, name): x for name, x in values.items()})
    arrays = {name: array for name, _, array in old.arrays()}
    assert arrays.keys() == {NAMES.get(name, name) for name in values}
    for name, tensor in values.items():
        assert np.array_equal(arrays[NAMES.get(name, name)], tensor.numpy())
    raw = (new.path / "config.json").read_bytes() + (new.path / WEIGHTS).read_bytes()
    assert old.weights_hash == new.weights_hash == hashlib.sha256(raw).hexdigest()
    rename_old(old.path)
    assert (old.path / WEIGHTS).read_bytes() == (new.path / WEIGHTS).read_bytes()
    assert sorted(file.name for file in old.path.iterdir()) == ["config.json", WEIGHTS]
    before = (new.path / WEIGHTS).stat()
    rename_old(new.path)
    assert (new.path / WEIGHTS).stat() == before


def test_old_names_in_shards(tmp_path: Path) -> None:
    folders = {"old": list(NAMES), "new": list(NAMES.values())}
    for folder, names in folders.items():
        made = write(tmp_path / folder, {"a": torch.ones(2)})
        parts = [f"{number}.safetensors" for number in range(len(names))]
        for number, name in enumerate(names):
            save_file({name: torch.full((2,), float(number))}, made.path / parts[number])
        index = {"weight_map": dict(zip(names, parts, strict=True))}
        write_json(made.path / "model.safetensors.index.json", index)
    old, new = (open_checkpoint(tmp_path / folder) for folder in folders)
    assert [t.name for t in old.tensors] == [t.name for t in new.tensors]
    assert old.weights_hash == new.weights_hash
    rename_old(old.path)
    for file in new.path.iterdir():
        assert (old.path / file.name).read_bytes() == file.read_bytes()


def test_a_tensor_under_both_names_is_refused(tmp_path: Path) -> None:
    both = {"LayerNorm.gamma": torch.ones(2), "LayerNorm.weight": torch.ones(2)}
    found = write(tmp_path / "m", both)
    for read in (lambda c: c.tensors, lambda c: c.weights_hash):
        with pytest.raises(InputError, match=r"LayerNorm\.weight .* old name"):
            read(found)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": ["x"]}},
        {"weight_map": {"a": "../other/model.safetensors"}},
        {"weight_map": {"a": "/etc/hostname"}},
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: Any) -> None:
    write(tmp_path / "m", {"a": torch.ones(1)})
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="weight_map"):
        _ = open_checkpoint(tmp_path / "m").weights_hash


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        {"w": 3},
        {"w": {}},
        {"w": {"dtype": "F32", "shape": [2, 2]}},
        entry(dtype="F31"),
        entry(dtype=["F32"]),
        entry(dtype=None),
        entry(shape=(2, 3)),
        entry(shape=(-2, -2)),
        entry(shape=4),
        entry(shape="22"),
        entry(shape=(2, 2.0)),
        entry(shape=(4, True)),
        entry(shape=(2**32, 2**32), offsets=(0, 0)),  # the product is 0 in 64 bits
        entry(shape=(2**200, 0), offsets=(0, 0)),
        entry(shape=[1] * 100, offsets=(0, 4)),
        entry(offsets=(0, 20)),
        entry(offsets=(16, 0)),
        entry(offsets=(-16, 0)),
        entry(offsets=(0.0, 16.0)),
        entry(offsets=(0,)),
        entry(offsets=None),
    ],
    ids=lambda header: str(header)[:60] if isinstance(header, dict) else repr(header[:8]),
)
def test_damaged_headers_are_explained(tmp_path: Path, header: Any) -> None:
    found = raw_file(tmp_path / "m", header, data=bytes(16))
    with pytest.raises(InputError, match="damaged safetensors"):
        _ = found.tensors


@pytest.mark.parametrize("size", [0, 5, 8])
def test_cut_files_are_explained(tmp_path: Path, size: int) -> None:
    found = write(tmp_path / "m", {"w": torch.ones(3)})
    file = found.path / WEIGHTS
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="damaged safetensors"):
        _ = found.tensors


def test_a_file_that_lost_its_last_byte_is_refused(tmp_path: Path) -> None:
    found = write(tmp_path / "m", {"a": torch.ones(3), "b": torch.ones(3)})
    file = found.path / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="tensor b lies outside the file"):
        _ = found.tensors


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 199), byte=st.integers(0, 255))
def test_no_changed_byte_is_a_fault_of_ours(tmp_path: Path, position: int, byte: int) -> None:
    found = write(tmp_path / "m", {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int8)})
    file = found.path / WEIGHTS
    content = bytearray(file.read_bytes())
    content[position % len(content)] = byte
    file.write_bytes(content)
    try:
        _ = found.tensors
    except InputError as error:
        assert str(file) in str(error)  # noqa: PT017


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no model\.safetensors.*save_pretrained"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="is a file, and a model directory is needed"):
        open_checkpoint(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000])
def test_a_broken_configuration_is_explained(tmp_path: Path, text: str) -> None:
    found = raw_file(tmp_path / "m", {})
    (found.path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: (not valid JSON|expected a JSON object)"):
        _ = found.config


def test_broken_utf8_in_the_provenance_is_explained(tmp_path: Path) -> None:
    found = raw_file(tmp_path / "m", {})
    (found.path / PROVENANCE).write_bytes(b'{"stage": "\xff"}')
    with pytest.raises(InputError, match=f"{PROVENANCE}: not valid JSON"):
        _ = found.provenance


def test_the_hash_follows_weights_and_configuration(tmp_path: Path) -> None:
    weight = torch.ones(3, 3)
    first = write(tmp_path / "m", {"w": weight}).weights_hash
    assert write(tmp_path / "copy", {"w": weight}).weights_hash == first
    write_json(tmp_path / "copy" / PROVENANCE, {"stage": "teach"})
    assert open_checkpoint(tmp_path / "copy").weights_hash == first
    (tmp_path / "copy" / "config.json").write_text('{"model_type": "electra"}')
    assert open_checkpoint(tmp_path / "copy").weights_hash != first
    weight[1, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert write(tmp_path / "m", {"w": weight}).weights_hash != first


def test_the_tokenizer_has_a_hash_of_its_own(tmp_path: Path) -> None:
    made = write(tmp_path / "m", {"w": torch.ones(1)})
    bare, weights = made.tokenizer_hash, made.weights_hash
    seen = {bare}
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        (made.path / name).write_text("{}")
        seen.add(open_checkpoint(made.path).tokenizer_hash)
    (made.path / "vocab.txt").write_text("[PAD]")
    seen.add(open_checkpoint(made.path).tokenizer_hash)
    assert len(seen) == 5
    again = open_checkpoint(made.path)
    assert again.tokenizer_hash in seen and again.weights_hash == weights


def test_provenance_names_its_parents(tmp_path: Path) -> None:
    parent = write(tmp_path / "parent", {"w": torch.ones(2)})
    write_json(parent.path / PROVENANCE, {"stage": "teach"})
    record = provenance(
        "prune",
        {"sparsity": 0.9},
        parents={"model": parent, "teacher": None},
        sparsity={QUERY: 0.9},
        metrics={"loss": 1.0},
        seconds=1.23,
        task={"kind": "regression"},
    )
    assert record["parents"] == {
        "model": {"path": str(parent.path), "sha256": parent.weights_hash, "stage": "teach"}
    }
    assert record["sparsity"]["matrices"] == {QUERY: 0.9}
    assert record["settings"] == {"sparsity": 0.9}
    assert record["task"] == {"kind": "regression"}
    assert str(torch.__version__).startswith(record["versions"]["torch"].split("+")[0])
    write_json(tmp_path / "record.json", record)
    assert json.loads((tmp_path / "record.json").read_text()) == record


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ü": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 1}


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "draft"
    folder.mkdir(parents=True)
    (folder / "new").write_text("new")
    (folder / "new").chmod(0o600)
    return folder


@pytest.fixture(params=["exchanged", "moved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system can exchange two folders."""
    if request.param == "moved":
        monkeypatch.setattr("prunella.checkpoint._exchanged", lambda first, second: False)
    elif sys.platform != "linux":
        pytest.skip("needs renameat2")
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("replaced", [False, True])
def test_publish_moves_and_replaces(tmp_path: Path, draft: Path, replaced: bool) -> None:
    final = tmp_path / "out"
    if replaced:
        final.mkdir()
        (final / "old").write_text("old")
    publish(draft, final)
    assert [file.name for file in final.iterdir()] == ["new"]
    assert (final / "new").stat().st_mode & 0o777 == final.stat().st_mode & 0o666  # not private
    assert list(draft.parent.iterdir()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "work"]


@pytest.mark.usefixtures("way")
def test_a_failed_publish_leaves_the_older_checkpoint(tmp_path: Path, draft: Path) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("old")
    shutil.rmtree(draft)
    with pytest.raises(OSError, match="draft"):
        publish(draft, final)
    assert (final / "old").read_text() == "old"


def test_publish_deletes_nothing_of_others(tmp_path: Path, draft: Path) -> None:
    final, theirs = tmp_path / "out", tmp_path / "out.replaced"
    for folder in (final, theirs):
        folder.mkdir()
        (folder / "file").write_text("x")
    publish(draft, final)
    assert (theirs / "file").exists()


def test_each_moment_of_publish_leaves_a_whole_checkpoint(
    tmp_path: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """OUT is never half of anything: at every rename it is the old one, absent, or the new one;
    where folders can be exchanged, it is always there."""
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("old")
    seen: list[list[str] | None] = []
    rename = os.rename

    def look() -> None:
        seen.append([f.name for f in final.iterdir()] if final.exists() else None)

    def watched(source: Any, target: Any) -> None:
        look()
        rename(source, target)
        look()

    monkeypatch.setattr(os, "rename", watched)
    publish(draft, final)
    assert seen == ([["old"], None, None, ["new"]] if way == "moved" else [])
    assert [file.name for file in final.iterdir()] == ["new"]
