"""Mask files: what is written comes back, near its entropy; what is hostile is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed import forge

from prunella.errors import InputError
from prunella.inspection import inspect
from prunella.mask_application import entropy_bytes
from prunella.packed.backbone import Backbone
from prunella.packed.mask_file import MaskFile, open_mask, write_mask
from prunella.settings import InspectSettings

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
OUTPUT = "bert.encoder.layer.0.output.dense.weight"
HASH = "ab" * 32


def made(path: Path, masks: dict[str, np.ndarray], **more: Any) -> MaskFile:
    own = {"classifier.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    backbone = Backbone(HASH, "bert.", frozenset({"bert.pooler.dense.bias"}))
    given = {"backbone": backbone}
    arguments = {**given, "metadata": {"task": {"kind": "regression"}}, "files": {}, **more}
    write_mask(path, masks, own, **arguments)
    return open_mask(path)


def mask(share: float, shape: tuple[int, ...] = (40, 50), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
def test_masks_come_back(tmp_path: Path, share: float) -> None:
    masks = {QUERY: mask(share), OUTPUT: mask(1 - share, (50, 40), 1)}
    file = made(tmp_path / "a.mask", masks)
    assert file.masked == set(masks)
    for name, wanted in masks.items():
        assert np.array_equal(file.kept(name), wanted)
        assert file.kept_count(name) == wanted.sum()
    assert file.own == ("classifier.weight",)
    assert file.packed.tensor("classifier.weight").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.packed.metadata["task"] == {"kind": "regression"}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_inspect_tells_what_is_kept(tmp_path: Path, share: float) -> None:
    """Whether the kept weights are marked or, where these are more, the removed ones."""
    masks = {QUERY: mask(share), OUTPUT: mask(1 - share, (50, 40), 1)}
    made(tmp_path / "a.mask", masks)
    found = inspect(InspectSettings(model=str(tmp_path / "a.mask")))
    shown = {row.name: row.sparsity for row in found.rows}
    kept = {name: int(wanted.sum()) for name, wanted in masks.items()}
    assert all(shown[name] == pytest.approx(1 - kept[name] / 2000) for name in masks)
    assert (found.encoder.weights, found.encoder.nonzeros) == (4000, sum(kept.values()))
    assert found.model.nonzeros == sum(kept.values()) + 5  # of the head, which has one zero
    document = found.to_json()
    assert document["encoder"]["sparsity"] == pytest.approx(1 - sum(kept.values()) / 4000)
    assert document["packed"]["encoder"]["nonzeros"] == sum(kept.values())


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.booleans(), min_size=n, max_size=8 * n))
    )
)
def test_any_mask_comes_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[int, list[bool]]
) -> None:
    rows, bits = drawn
    wanted = np.array(bits[: len(bits) // rows * rows]).reshape(rows, -1)
    file = made(tmp_path_factory.mktemp("any") / "a.mask", {QUERY: wanted})
    assert np.array_equal(file.kept(QUERY), wanted)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_masks_are_stored_near_their_entropy(tmp_path: Path, share: float) -> None:
    kept = mask(share, (768, 3072))
    file = made(tmp_path / "a.mask", {OUTPUT: kept})
    info = file.info(OUTPUT)
    bound = entropy_bytes([(int(kept.sum()), kept.size)])
    assert bound <= 1.001 * (info.mask_bytes + info.values_bytes)
    assert info.mask_bytes + info.values_bytes < 1.02 * bound + 1000


def test_the_bound_is_that_of_the_textbook() -> None:
    assert entropy_bytes([(4000, 8000)]) == 1000
    assert entropy_bytes([(0, 8000), (8000, 8000)]) == 0
    assert entropy_bytes([(800, 8000)]) == 469  # 0.469 bit a weight at 90 %


def test_names_of_the_backbone(tmp_path: Path) -> None:
    file = made(tmp_path / "a.mask", {QUERY: mask(0.5)})
    assert file.task_name(QUERY.removeprefix("bert.")) == QUERY
    assert file.task_name(QUERY) == QUERY
    assert file.task_name("pooler.dense.bias") is None
    assert file.task_name("classifier.weight") == "bert.classifier.weight"


def test_the_wrong_backbone_is_named(tmp_path: Path) -> None:
    file = made(tmp_path / "a.mask", {QUERY: mask(0.5)})
    file.check_backbone(HASH, "b.prn")
    for found in ("cd" * 32, None):
        with pytest.raises(InputError, match=r"a.mask: was made from another backbone than b.prn"):
            file.check_backbone(found, "b.prn")


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "no mask": ({"kind": "model"}, "holds no mask"),
    "no hash": ({"backbone_sha256": 7}, "names no backbone"),
    "short hash": ({"backbone_sha256": "ab"}, "names no backbone"),
    "prefix": ({"prefix": None}, "its prefix is no text"),
    "left out": ({"left_out": "all"}, "left_out is no list"),
    "names": ({"masked": [1]}, "masked is no list"),
    "nothing masked": ({"masked": [], "removed": []}, "makes no sense"),
    "unknown mask": ({"masked": [QUERY, "x"]}, "lacks the mask of x"),
    "head as mask": ({"masked": [QUERY, "classifier.weight"]}, "classifier.weight is no mask"),
    "unlisted removed": ({"removed": [OUTPUT]}, "makes no sense"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_found(tmp_path: Path, name: str) -> None:
    changes, message = LIES[name]
    path = tmp_path / "a.mask"
    made(path, {QUERY: mask(0.5)})
    header, body = forge.take_apart(path.read_bytes())
    header["metadata"] |= changes
    path.write_bytes(forge.put_together(header, body))
    with pytest.raises(InputError, match=message):
        open_mask(path)


def test_huge_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mask"
    made(path, {QUERY: mask(0.5)})
    header, body = forge.take_apart(path.read_bytes())
    for shape in ([1 << 40, 50], [1 << 15, 1 << 15]):
        for tensor in header["tensors"]:
            if tensor["name"] == QUERY:
                tensor["shape"] = shape
        path.write_bytes(forge.put_together(header, body))
        with pytest.raises(InputError):
            open_mask(path).kept(QUERY)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "a.mask"
    made(path, {QUERY: mask(0.3), OUTPUT: mask(0.8)})
    return path.read_bytes()


def read_all(path: Path) -> None:
    file = open_mask(path)
    for name in file.masked:
        file.kept(name)
    for name in file.own:
        file.packed.tensor(name)


@given(st.data())
def test_flipped_and_missing_bytes_are_found(
    tmp_path_factory: pytest.TempPathFactory, honest: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.mask"
    if data.draw(st.booleans()):
        path.write_bytes(honest[: data.draw(st.integers(0, len(honest) - 1))])
    else:
        place = data.draw(st.integers(0, len(honest) - 1))
        changed = bytearray(honest)
        changed[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed)
    with pytest.raises(InputError):
        read_all(path)


def test_other_marks_than_one(tmp_path: Path) -> None:
    """As a writer that is not ours may have made them."""
    from prunella.packed.write import TensorSpec, write

    path = tmp_path / "a.mask"
    marks = np.array([[0, 2], [1, 0]], np.uint8)
    document = {
        "kind": "mask",
        "backbone_sha256": HASH,
        "prefix": "",
        "left_out": [],
        "masked": ["x"],
        "removed": [],
    }
    write(path, [TensorSpec("x", marks, "sparse")], document, {})
    with pytest.raises(InputError, match="x holds other marks than 1"):
        open_mask(path).kept("x")
