"""The verb: masks from files to numbers and to one page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from study.conftest import Make

from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.packing import pack, unpack
from prunella.settings import PackSettings, StudySettings, UnpackSettings
from prunella.study.networks import open_networks, short_names
from prunella.study.run import study

HALF = np.kron(np.eye(2), np.ones((2, 2)))


def of(*paths: Path, **given) -> StudySettings:
    return StudySettings(models=tuple(map(str, paths)), **given)


def test_two_masks_by_hand(checkpoint: Make):
    a = checkpoint("a", query=HALF)
    b = checkpoint("b", prefix="", query=1 - HALF, key=HALF)
    document = study(of(a, b)).to_json()
    assert document["compared"] == ["layer 0 query", "layer 0 key"]
    (pair,) = document["overlaps"]
    # a keeps 8 + 16 of 32, b 8 + 8; they share none in query and 8 in key.
    assert pair["iou"] == 8 / (24 + 16 - 8)
    assert pair["matched"] == pytest.approx((4 + 8) / (40 - 12))
    assert pair["agreement"] == pytest.approx((8 - 12) / (16 - 12))
    assert pair["by_component"] == {"query": -1.0, "key": None}
    first = document["networks"][0]
    assert (first["weights"], first["kept"]) == (112, 104)
    densities = {m["matrix"]: m["density"] for m in first["matrices"]}
    assert densities["layer 0 query"] == 0.5 and densities["word embeddings"] == 1
    json.dumps(document, allow_nan=False)


def test_a_pair_is_judged_alone(checkpoint: Make):
    """A third one that prunes what these two leave whole changes nothing between them."""
    table, padding = np.ones((500, 4)), np.ones((500, 4))
    table[1:250] = 0
    padding[0, 0] = 0  # too few to count
    held = {"word_embeddings": padding}
    a, b = checkpoint("a", query=HALF, **held), checkpoint("b", query=1 - HALF, key=HALF, **held)
    third = checkpoint("c", word_embeddings=table, value=HALF)
    dense = checkpoint("d", **held)
    alone = study(of(a, b)).to_json()["overlaps"][0]
    among = study(of(a, b, third, dense)).to_json()["overlaps"]
    found = next(pair for pair in among if (pair["first"], pair["second"]) == ("a", "b"))
    assert found | {"log10_p_corrected": 0} == alone | {"log10_p_corrected": 0}
    with_dense = {p["first"]: p for p in among if p["second"] == "d"}
    assert all(pair["agreement"] is None for pair in with_dense.values())


def test_pruned_embeddings_count_and_untouched_ones_do_not(checkpoint: Make):
    table = np.ones((5, 4))
    table[1] = 0
    a, b = checkpoint("a", word_embeddings=table), checkpoint("b", query=HALF)
    document = study(of(a, b)).to_json()
    assert document["compared"] == ["word embeddings", "layer 0 query"]


def test_a_packed_file_has_the_masks_of_its_checkpoint(tiny_checkpoint, tmp_path: Path):
    folder = tiny_checkpoint("bert", "classifier")
    pack(PackSettings(model=str(folder), out=str(tmp_path / "m.prn")))
    first, second = open_networks([str(folder), str(tmp_path / "m.prn")])
    assert first.shapes == second.shapes and first.heads == second.heads == 2
    for place in (place for place in first.shapes if place.layer is not None):
        assert np.array_equal(first.read(place), second.read(place))


def test_zeros_of_rounding_alone_are_no_mask(tiny_checkpoint, tmp_path: Path):
    """A dense model in int8, packed, unpacked and quantised: nothing of it counts as pruned."""
    folder, file = tiny_checkpoint("bert", "classifier"), tmp_path / "m.prn"
    pack(PackSettings(model=str(folder), out=str(file), weights="int8", embeddings="int8"))
    unpacked = unpack(UnpackSettings(model=str(file), out=str(tmp_path / "unpacked")))
    rounded = [a for n, _, a in open_checkpoint(unpacked).arrays() if "query.weight" in n]
    zeros = sum(np.count_nonzero(array == 0) for array in rounded)
    assert 0.001 < zeros / sum(array.size for array in rounded) < 0.05
    document = study(of(folder, file, unpacked)).to_json()
    # In fp32 the row of the padding is zero.
    assert document["compared"] == ["word embeddings"]
    assert {n["density"] for n in document["networks"]} == {1.0}
    for rounded in document["networks"][1:]:
        assert {matrix["density"] for matrix in rounded["matrices"]} == {1.0}


def test_negative_zeros_are_zeros_in_every_form(checkpoint: Make, tmp_path: Path):
    """Packed files store them; in bf16 they are bits."""
    folder = checkpoint("signed", query=np.array([[0, 0, 1, 1]] * 4))  # of either sign
    for form in ("fp32", "bf16"):
        file = tmp_path / f"{form}.prn"
        pack(PackSettings(model=str(folder), out=str(file), weights=form))
        (network,) = open_networks([str(file)])
        place = next(place for place in network.shapes if place.component == "query")
        assert network.read(place).tolist() == [[False, False, True, True]] * 4, form


def test_quantised_weights_packed_in_fp32_count_alike(checkpoint: Make, tmp_path: Path):
    almost = np.ones((64, 64))
    almost[0, 0] = 0
    record = {"stage": "quantize", "quantization": {"scheme": "int8"}}
    wide = {n: np.ones((64, 64)) for n in ("key", "value", "attention_output")}
    for name, given, kept in (("a", record, 64 * 64), ("b", {"stage": "transfer"}, 64 * 64 - 1)):
        folder = checkpoint(name, record=given, query=almost, **wide)
        pack(PackSettings(model=str(folder), out=str(tmp_path / f"{name}.prn"), weights="fp32"))
        (network,) = open_networks([str(tmp_path / f"{name}.prn")])
        place = next(place for place in network.shapes if place.component == "query")
        assert np.count_nonzero(network.read(place)) == kept


def test_a_pruned_matrix_in_int8_keeps_its_mask(checkpoint: Make, tmp_path: Path):
    folder, file = checkpoint("a", query=HALF), tmp_path / "m.prn"
    pack(PackSettings(model=str(folder), out=str(file), weights="int8"))
    document = study(of(folder, file)).to_json()
    assert document["compared"] == ["layer 0 query"]
    assert document["overlaps"][0]["iou"] == 1


@pytest.mark.parametrize(
    ("bias", "lost"), [(None, 8), (np.zeros(4), 8), (np.array([1, -1, 0, 0]), 0)]
)
def test_biases_of_queries_are_read(checkpoint: Make, tmp_path: Path, bias, lost: int):
    query = np.ones((4, 4))
    query[:2] = 0
    folder, file = checkpoint("a", query=query, query_bias=bias), tmp_path / "m.prn"
    pack(PackSettings(model=str(folder), out=str(file), weights="fp32"))
    for found in study(of(folder, file)).to_json()["networks"]:
        (layer,) = found["layers"]
        assert layer["disconnected"]["key"] == lost
        assert layer["uniform_heads"] == (1 if lost else 0)


def test_names_are_as_short_as_tells_them_apart():
    paths = [Path("/x/a/task"), Path("/x/b/task"), Path("/x/b/other")]
    assert short_names(paths) == ["a/task", "b/task", "b/other"]
    assert short_names(paths[1:]) == ["task", "other"]


def test_what_cannot_be_studied(checkpoint: Make, tmp_path: Path):
    a = checkpoint("a")
    other = checkpoint("b", ffn_in=np.ones((7, 4)), ffn_out=np.ones((4, 7)))
    for paths, message in (
        ((), "nothing to study"),
        ((a, a), "named twice"),
        ((a, other), "ffn in is 7 x 4, in .* it is 6 x 4"),
        ((a, tmp_path / "none"), "no such file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            study(of(*paths))


def test_a_page_is_not_replaced_unasked(checkpoint: Make, tmp_path: Path):
    a, out = checkpoint("a", query=HALF), tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        study(of(a, out=str(out)))
    assert out.read_text() == "mine"
    study(of(a, out=str(out), overwrite=True))
    assert "One sub-network: a." in out.read_text()


def test_the_command(checkpoint: Make, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    paths = [str(checkpoint(name, query=mask)) for name, mask in (("a", HALF), ("b", 1 - HALF))]
    out = tmp_path / "page.html"
    assert main(["study", *paths, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    assert "-100.0%" in printed and "92.86%" in printed
    text = out.read_text()
    assert "http" not in re.sub(r'xmlns[:\w]*="[^"]*"|http-equiv', "", text)
    for heading in ("Density", "Overlap", "Disconnected weights", "Fan-in", "Spectral gap"):
        assert f"<h2>{heading}" in text
    for words in ("Source:", "Doubts:"):
        assert text.count(words) == 5
    assert main(["study", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overlaps"][0]["iou"] == 0
