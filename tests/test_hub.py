"""Models of the Hub by name, from its cache on this machine: every verb that takes MODEL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prunella import settings as s
from prunella.backbones import compare
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.inspection import inspect
from prunella.mask_application import apply_mask, save_mask
from prunella.packed.mask_file import MASK_FILE
from prunella.packing import pack

Make = Callable[..., Path]
NAME = "someone/some-model"


@pytest.fixture
def cache(tiny_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds a model of that name, and no network."""
    place, revision = tmp_path / "hub", "0123456789abcdef0123456789abcdef01234567"
    model = place / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(tiny_checkpoint("bert", "classifier"), model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.usefixtures("cache")
def test_pack_and_inspect(tiny_checkpoint: Make, tmp_path: Path) -> None:
    folder = str(tiny_checkpoint("bert", "classifier"))
    for name, model in (("ours.prn", NAME), ("theirs.prn", folder)):
        pack(s.PackSettings(model=model, out=str(tmp_path / name)))
    assert (tmp_path / "ours.prn").read_bytes() == (tmp_path / "theirs.prn").read_bytes()
    found, expected = (inspect(s.InspectSettings(model=model)) for model in (NAME, folder))
    assert found.path == NAME
    assert (found.rows, found.sha256) == (expected.rows, expected.sha256)


@pytest.mark.usefixtures("cache")
def test_a_mask_is_applied(tiny_checkpoint: Make, tmp_path: Path) -> None:
    backbone = open_checkpoint(tiny_checkpoint("bert", "classifier"))
    masked = {tensor.name for tensor in backbone.tensors if tensor.role}
    assert compare(backbone, backbone)[0].prefix == "bert."
    save_mask(tmp_path / MASK_FILE, backbone, backbone, masked, {"task": {}})
    settings = s.ApplyMaskSettings(
        model=NAME, mask=str(tmp_path / MASK_FILE), out=str(tmp_path / "applied")
    )
    applied = open_checkpoint(apply_mask(settings))
    arrays = {name: array for name, _, array in applied.arrays()}
    for name, _, array in backbone.arrays():
        assert np.array_equal(arrays[name], array)


@pytest.mark.usefixtures("cache")
def test_a_model_that_the_hub_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for command in (
        ["pack", "--model", "someone/other", "--out", out],
        ["mask", "apply", "someone/other", __file__, "--out", out],
        ["inspect", "someone/other"],
    ):
        assert main(command) == 2
        assert "someone/other: no such folder, and the Hub" in capsys.readouterr().err
    for name in ("model.prn", "runs/task.mask", "./model"):  # no names of the Hub
        with pytest.raises(InputError, match="no such file or folder"):
            inspect(s.InspectSettings(model=name))


_WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from prunella.cli import main
model, out = sys.argv[1:]
assert main(["pack", "--model", model, "--out", out]) == 0
assert main(["inspect", model]) == 0
"""


def test_no_torch_is_needed(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.prn"
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, NAME, str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert out.exists()
