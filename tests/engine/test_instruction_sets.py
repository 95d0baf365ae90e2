"""PRUNELLA_ISA decides what runs, from the command line too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packed.models import tiny_model

from prunella.cli import main
from prunella.engine import _native
from prunella.engine.compiled import usable_isas
from prunella.engine.model import load
from prunella.packed.write import assemble

ORDER = ["portable", "avx2", "avx512", "amx"]
ISA_OF = {(k["arithmetic"], k["name"]): k["isa"] for k in _native.kernels()}


@pytest.fixture(params=["int8", "bf16", "fp32"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "model.prn"
    content = tiny_model("bert", "SequenceClassification", request.param)
    made.write_bytes(b"".join(assemble(*content)))
    return made


def predict(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Any], str]:
    code = main(["predict", "--model", str(path), "--text", "a b c d", "--threads", "1"])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("isa", usable_isas())
def test_predict_runs_on_the_one_that_is_forced(
    path: Path,
    isa: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRUNELLA_ISA", "portable")
    _, expected, _ = predict(path, capsys)
    monkeypatch.setenv("PRUNELLA_ISA", isa)
    code, found, _ = predict(path, capsys)
    assert code == 0
    assert found[0]["label"] == expected[0]["label"]
    assert found[0]["score"] == pytest.approx(expected[0]["score"], rel=0.05)
    for entry in load(path, threads=1).describe():
        used = {ISA_OF[entry["arithmetic"], kernel] for kernel in entry["kernels"]}
        assert all(ORDER.index(name) <= ORDER.index(isa) for name in used), used
        if isa == "portable":
            assert used == {"portable"}


@pytest.mark.parametrize("name", ["mmx", "AVX2", "portable "])
def test_an_unknown_one_is_an_error_of_the_user(
    path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNELLA_ISA", name)
    code, found, error = predict(path, capsys)
    assert code == 2 and not found
    words = " ".join(error.split())
    assert f"instruction set '{name}' is unknown" in words
    assert "PRUNELLA_ISA" in words and "portable" in words


def test_the_empty_name_means_the_best(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNELLA_ISA", "")
    assert predict(path, capsys)[0] == 0
