"""pack and unpack: what is rounded, what is refused, and what is never touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prunella
from prunella import display
from prunella.checkpoint import PROVENANCE, WEIGHTS, Checkpoint
from prunella.errors import InputError
from prunella.grid import SCALES_FILE
from prunella.inspection import inspect
from prunella.packed.backbone import Backbone
from prunella.packed.bf16 import from_bf16, to_bf16
from prunella.packed.mask_file import open_mask, write_mask
from prunella.packed.read import open_packed
from prunella.packed.write import TensorSpec, write
from prunella.packing import Packed, pack, unpack
from prunella.settings import InspectSettings, PackSettings, UnpackSettings

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
WORDS = "bert.embeddings.word_embeddings.weight"
NORM = "bert.embeddings.LayerNorm.weight"
HEAD = "classifier.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of a few tensors, as far as packing looks at one."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((24, 40)).astype(np.float32)
    query[rng.random(query.shape) < 0.9] = 0
    tensors = {
        QUERY: query,
        WORDS: rng.standard_normal((50, 40)).astype(np.float32),
        NORM: rng.standard_normal(40).astype(np.float32),
        HEAD: rng.standard_normal((2, 40)).astype(np.float32),
    }
    tensors[WORDS][7] = 0  # the padding's row
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def packed(model: Path, tmp_path: Path) -> Path:
    return packed_as(model, tmp_path / "model.prn").path


def packed_as(model: Path, out: Path, **more: Any) -> Packed:
    return pack(PackSettings(model=str(model), out=str(out), **more))


def unpacked(packed: Path, out: Path, *, overwrite: bool = False) -> dict[str, np.ndarray]:
    unpack(UnpackSettings(model=str(packed), out=str(out), overwrite=overwrite))
    return load_file(out / WEIGHTS)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# ---------------------------------------------------------------------------------- what is kept


def test_fp32_comes_back_bit_for_bit(model: Path, packed: Path, tmp_path: Path) -> None:
    before, after = load_file(model / WEIGHTS), unpacked(packed, tmp_path / "back")
    assert {n: a.tobytes() for n, a in after.items()} == {n: a.tobytes() for n, a in before.items()}
    assert names(tmp_path / "back") == {WEIGHTS, "config.json", "vocab.txt"}
    assert (tmp_path / "back/vocab.txt").read_text() == "a\nb\n"


@pytest.mark.parametrize("weights", ["int8", "bf16"])
@pytest.mark.parametrize("embeddings", ["fp32", "bf16", "int8"])
def test_only_what_was_asked_is_rounded(
    model: Path, tmp_path: Path, weights: str, embeddings: str
) -> None:
    done = packed_as(model, tmp_path / "m.prn", weights=weights, embeddings=embeddings)
    before, after = load_file(model / WEIGHTS), unpacked(done.path, tmp_path / "back")
    found = open_packed(done.path)
    for name, kind in ((QUERY, weights), (WORDS, embeddings), (NORM, "fp32"), (HEAD, "fp32")):
        assert found.info(name).dtype == kind
        if kind == "fp32":
            assert after[name].tobytes() == before[name].tobytes()
        elif kind == "bf16":
            assert np.array_equal(after[name], from_bf16(to_bf16(before[name])))
        else:  # half a step of the row's grid, which is a 127th of its largest
            step = np.abs(before[name]).max(axis=1, keepdims=True) / 127
            assert (np.abs(after[name] - before[name]) <= step * 0.5001).all()
            assert len(np.unique(after[name])) > 20
        assert not after[name][before[name] == 0].any()
    # A table's grid says how it is stored, not that a layer computes in 8 bits.
    assert (tmp_path / "back" / SCALES_FILE).exists() == (weights == "int8")
    if weights == "int8":
        assert set(load_file(tmp_path / "back" / SCALES_FILE)) == {QUERY}


def test_the_parts_add_up_to_the_file(model: Path, tmp_path: Path) -> None:
    done = packed_as(model, tmp_path / "m.prn", embeddings="int8")
    document = done.to_json()
    parts = document["parts"]
    assert list(parts) == ["encoder", "embeddings", "others", "files", "header"]
    assert sum(part["bytes"] for part in parts.values()) == done.path.stat().st_size
    for figure in ("dense_fp32_bytes", "dense_int8_bytes"):
        assert sum(part[figure] for part in parts.values()) == document[figure]["model"]
    assert parts["encoder"]["dense_fp32_bytes"] == 4 * 24 * 40
    assert parts["encoder"]["dense_int8_bytes"] == 24 * 40 + 4 * 24
    assert parts["embeddings"]["dense_fp32_bytes"] == 4 * 50 * 40
    assert parts["others"]["dense_fp32_bytes"] == 4 * (40 + 80)
    shown = inspect(InspectSettings(model=str(done.path))).to_json()["packed"]
    assert shown["parts"] == parts
    assert shown["encoder"]["nominal_ratio"] == document["nominal_ratio"]


def test_pack_and_inspect_show_the_same_sizes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = packed_as(model, tmp_path / "m.prn", weights="int8")
    display.show(done)
    packed = capsys.readouterr().out
    display.show(inspect(InspectSettings(model=str(done.path))))
    inspected = capsys.readouterr().out
    for part in ("encoder matrices", "embedding tables", "head, biases", "tokenizer", "header"):
        assert part in packed
    sizes = packed[packed.index("part ") :]
    sizes, *hint = re.split(r"\n\d+% of the file are the embedding tables", sizes)
    tables, whole = done.sizes.parts["embeddings"], done.sizes.model
    assert bool(hint) == (tables.stored > whole.stored / 2)
    assert sizes.strip() in inspected
    encoder = done.sizes.encoder
    said = " ".join(packed.split())
    assert f"Papers would say {encoder.nominal_ratio:.1f}x" in said
    assert f"matrices are {encoder.true_ratio:.1f}x smaller" in said
    assert max(map(len, packed.splitlines())) <= 80


def test_the_same_checkpoint_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for weights in ("int8", "bf16", "fp32"):
        first = packed_as(model, tmp_path / f"a-{weights}.prn", weights=weights).path
        second = packed_as(model, tmp_path / f"b-{weights}.prn", weights=weights).path
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("broken", [QUERY, WORDS])
def test_numbers_that_int8_cannot_hold_are_refused(
    model: Path, tmp_path: Path, broken: str
) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors[broken][3, 4] = np.inf
    save_file(tensors, model / WEIGHTS)
    with pytest.raises(InputError, match=f"{broken}: .*not finite.*--weights fp32"):
        packed_as(model, tmp_path / "m.prn", weights="int8", embeddings="int8")
    assert not (tmp_path / "m.prn").exists()


# ------------------------------------------------------------------------------- pack: what is there


def test_the_same_command_again_writes_nothing(model: Path, packed: Path) -> None:
    before = packed.stat().st_mtime_ns
    assert packed_as(model, packed).sizes.model.stored == packed.stat().st_size
    assert packed.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["weights", "tokenizer", "settings"])
def test_another_content_is_replaced_only_when_asked(
    model: Path, packed: Path, change: str
) -> None:
    more: dict[str, Any] = {}
    if change == "weights":
        tensors = load_file(model / WEIGHTS)
        save_file({**tensors, NORM: tensors[NORM] + 1}, model / WEIGHTS)
    elif change == "tokenizer":
        (model / "vocab.txt").write_text("a\nc\n")
    else:
        more = {"embeddings": "int8"}
    before = packed.read_bytes()
    with pytest.raises(InputError, match=r"exists; choose another --out or pass --overwrite"):
        packed_as(model, packed, **more)
    assert packed.read_bytes() == before
    packed_as(model, packed, overwrite=True, **more)
    assert packed.read_bytes() != before


def test_a_file_of_others_is_not_taken_for_a_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.txt: exists; choose another --out"):
        packed_as(model, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="is a folder"):
        packed_as(model, tmp_path, overwrite=True)


# ----------------------------------------------------------------------------- unpack: what is there


@pytest.fixture(params=["a note beside a model", "a folder inside a model", "no model", "a file"])
def foreign(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Iterator[Path]:
    """Something of the user's; whatever a test does, it must stay as it was."""
    path = tmp_path / "thesis"
    if request.param == "a file":
        path.write_text("years of work")
        yield path
        assert path.read_text() == "years of work"
        return
    if "model" in request.param and request.param != "no model":
        model.rename(path)
    path.mkdir(exist_ok=True)
    if request.param == "a folder inside a model":
        (path / "plots").mkdir()
    else:
        (path / "chapter.txt").write_text("years of work")
    before = names(path)
    yield path
    assert names(path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_model_directory_is_never_replaced(
    packed: Path, foreign: Path, overwrite: bool
) -> None:
    words = "holds more than a model directory" if overwrite else "exists; choose another --out"
    with pytest.raises(InputError, match=words):
        unpacked(packed, foreign, overwrite=overwrite)
    assert not [entry for entry in foreign.parent.iterdir() if entry.name.startswith(".")]


def test_a_model_directory_is_replaced_when_asked(packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    unpacked(packed, out)
    (out / "config.json").write_text("{}")
    (out / PROVENANCE).write_text("{}")
    with pytest.raises(InputError, match="exists; choose another --out or pass --overwrite"):
        unpacked(packed, out)
    unpacked(packed, out, overwrite=True)
    assert names(out) == {WEIGHTS, "config.json", "vocab.txt"}
    assert json.loads((out / "config.json").read_text()) == {"model_type": "bert"}


def test_unfinished_training_beside_it_is_left_alone(packed: Path, tmp_path: Path) -> None:
    states = tmp_path / "back.partial" / "states"
    states.mkdir(parents=True)
    (states / "weights").write_text("hours of training")
    for overwrite in (False, True):
        unpacked(packed, tmp_path / "back", overwrite=overwrite)
        assert (states / "weights").read_text() == "hours of training"


def test_a_failure_leaves_the_older_model_and_no_litter(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "back"
    unpacked(packed, out)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunella.packing.save_file", full)
    before = names(tmp_path)
    with pytest.raises(InputError, match=r"back: cannot be written \(No space left"):
        unpacked(packed, out, overwrite=True)
    assert names(tmp_path) == before
    assert WEIGHTS in names(out)


def test_a_damaged_file_makes_no_folder(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[-1] ^= 1
    packed.write_bytes(content)
    with pytest.raises(InputError, match="damaged: a checksum is wrong"):
        unpacked(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_carried_files_may_lie_in_folders(packed: Path, tmp_path: Path) -> None:
    write(packed, [], {}, {"config.json": b"{}", "pooling/config.json": b"{}"})
    unpacked(packed, tmp_path / "back")
    assert (tmp_path / "back/pooling/config.json").read_text() == "{}"


def test_files_that_cannot_lie_beside_each_other_are_explained(
    packed: Path, tmp_path: Path
) -> None:
    write(packed, [], {}, {"a": b"x", "a/b": b"y"})
    with pytest.raises(InputError, match="back: cannot be written"):
        unpacked(packed, tmp_path / "back")
    assert names(tmp_path) == {"model", "model.prn"}


# ------------------------------------------------------------------- what differs from a backbone


@pytest.fixture
def child(model: Path, tmp_path: Path) -> Path:
    """A task's model of the fixture as backbone: another name before the encoder's tensors, a
    pruned matrix, the tables as they were, a new head; the backbone's own head is gone.
    """
    tensors = load_file(model / WEIGHTS)
    query = tensors[QUERY].copy()
    query[::2] = 0
    folder = tmp_path / "child"
    folder.mkdir()
    head = np.array([[0.0, -0.0]], np.float32)
    save_file({**tensors, QUERY: query, HEAD: head}, folder / WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "bert", "num_labels": 1}')
    bare = {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name != HEAD}
    save_file({**bare, "pooler.dense.bias": np.ones(40, np.float32)}, model / WEIGHTS)
    return folder


def test_a_difference_holds_what_the_backbone_lacks(
    model: Path, child: Path, tmp_path: Path
) -> None:
    out = tmp_path / "child.prn"
    whole = packed_as(child, tmp_path / "whole.prn")
    made = packed_as(child, out, backbone=str(model))
    assert open_packed(out).names == (QUERY, HEAD)
    assert made.sizes.model.stored < whole.sizes.model.stored / 2
    before = load_file(child / WEIGHTS)
    unpack(UnpackSettings(model=str(out), out=str(tmp_path / "back"), backbone=str(model)))
    after = load_file(tmp_path / "back" / WEIGHTS)
    assert {n: a.tobytes() for n, a in after.items()} == {n: a.tobytes() for n, a in before.items()}
    assert (tmp_path / "back/config.json").read_text() == (child / "config.json").read_text()


def test_bits_decide_what_is_the_same(model: Path, child: Path, tmp_path: Path) -> None:
    tensors = load_file(child / WEIGHTS)
    tensors[WORDS][7, 3] = -0.0
    save_file(tensors, child / WEIGHTS)
    made = packed_as(child, tmp_path / "child.prn", backbone=str(model))
    assert WORDS in open_packed(made.path).names
    unpack(UnpackSettings(model=str(made.path), out=str(tmp_path / "back"), backbone=str(model)))
    assert np.signbit(load_file(tmp_path / "back" / WEIGHTS)[WORDS][7, 3])


def test_a_difference_needs_its_own_backbone(model: Path, child: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "child.prn", tmp_path / "back"
    packed_as(child, out, backbone=str(model))
    with pytest.raises(InputError, match="holds only what differs .* with --backbone"):
        unpack(UnpackSettings(model=str(out), out=str(back)))
    with pytest.raises(InputError, match=r"child.prn: was made from another backbone than"):
        unpack(UnpackSettings(model=str(out), out=str(back), backbone=str(child)))
    whole = packed_as(child, tmp_path / "whole.prn").path
    with pytest.raises(InputError, match="is a whole model; leave --backbone out"):
        unpack(UnpackSettings(model=str(whole), out=str(back), backbone=str(model)))
    assert not back.exists()


def test_a_mask_is_no_model(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "task.mask"
    backbone = Backbone("ab" * 32, "", frozenset())
    kept = np.eye(4, dtype=np.bool_)
    write_mask(path, {QUERY: kept}, {}, backbone=backbone, metadata={}, files={})
    with pytest.raises(
        InputError, match="is the mask of a task and no model; `prunella mask apply"
    ):
        unpack(UnpackSettings(model=str(path), out=str(tmp_path / "back")))
    found = inspect(InspectSettings(model=str(path)))
    assert (found.kind, found.backbone) == ("mask", "ab" * 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a folder without a task.mask; give"):
        open_mask(tmp_path / "empty")
    with pytest.raises(InputError, match=r"is a folder; give .*task.mask, the mask in it"):
        open_mask(tmp_path)
    with pytest.raises(
        InputError, match="is a file, and a model directory is needed; `prunella un"
    ):
        packed_as(path, tmp_path / "x.prn")


def test_a_backbone_with_nothing_in_common_is_refused(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file({NORM: np.zeros(40, np.float32)}, other / WEIGHTS)
    (other / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no tensor in common with"):
        packed_as(model, tmp_path / "x.prn", backbone=str(other))
    assert not (tmp_path / "x.prn").exists()


def test_a_difference_is_no_model(
    model: Path, child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = packed_as(child, tmp_path / "child.prn", backbone=str(model))
    display.show(made)
    assert f"--backbone {model} --out FOLDER" in " ".join(capsys.readouterr().out.split())
    out = made.path
    with pytest.raises(InputError, match="holds only what differs from its backbone; make the mod"):
        prunella.load(out)
    found = inspect(InspectSettings(model=str(out)))
    assert found.backbone == Checkpoint(model).weights_hash
    display.show(found)
    shown = capsys.readouterr().out
    assert f"only what differs from its backbone, {found.backbone[:12]}" in shown
    assert "all that it holds" in shown and "whole model" not in shown


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"backbone_sha256": "ab"}, "names no backbone"),
        ({"prefix": 1}, "prefix is no text"),
        ({"left_out": {}}, "left_out is no list"),
    ],
)
def test_a_difference_that_lies(
    model: Path, child: Path, tmp_path: Path, lie: dict[str, Any], message: str
) -> None:
    packed = open_packed(packed_as(child, tmp_path / "child.prn", backbone=str(model)).path)
    specs = [TensorSpec(HEAD, packed.tensor(HEAD), "dense")]
    write(tmp_path / "lie.prn", specs, {**packed.metadata, **lie}, packed.files)
    back = UnpackSettings(
        model=str(tmp_path / "lie.prn"), out=str(tmp_path / "back"), backbone=str(model)
    )
    with pytest.raises(InputError, match=message):
        unpack(back)
