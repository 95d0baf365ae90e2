"""What sub-networks compute: CKA where it is known, and models on text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from study.test_study import of

from prunella.cli import main
from prunella.errors import InputError
from prunella.study.outputs import linear_cka
from prunella.study.run import study

Make = Callable[..., Path]
TEXTS = ["the first text", "a second one", "and one more of them", "the end"] * 4


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def test_cka_by_the_definition_with_kernels() -> None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels (equation 2)."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6).double(), torch.randn(40, 9).double()
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.T, y @ y.T
    wanted = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(wanted.item())


def test_cka_ignores_rotation_and_scale_alone() -> None:
    torch.manual_seed(1)
    x = torch.randn(50, 8).double()
    x -= x.mean(0)
    turn, _ = torch.linalg.qr(torch.randn(8, 8).double())
    assert linear_cka(x, 3 * x @ turn) == pytest.approx(1)
    assert linear_cka(x, x @ torch.diag(torch.arange(8.0).double() + 0.1)) < 0.9
    assert linear_cka(x, torch.zeros(50, 2).double()) == 0


def test_models_on_text(tiny_checkpoint: Make, tmp_path: Path, texts: str) -> None:
    same = tiny_checkpoint("bert", "classifier")
    encoder = tiny_checkpoint("bert", "base")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in same.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    found = study(of(same, copy, encoder, text=texts, texts=10)).to_json()["outputs"]
    assert found["texts"] == 10
    by_pair = {(p["first"], p["second"]): p for p in found["pairs"]}
    alike = by_pair[same.name, "copy"]
    assert alike["cka"] == pytest.approx([1.0] * len(alike["cka"]))
    assert len(alike["cka"]) == 3  # embeddings and two layers
    assert alike["same_answers"] == 1.0
    other = by_pair[same.name, encoder.name]
    assert other["same_answers"] is None


def test_the_command_and_bad_input(
    tiny_checkpoint: Make, tmp_path: Path, texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(tiny_checkpoint("bert", kind)) for kind in ("classifier", "base")]
    out = tmp_path / "page.html"
    command = ["study", *folders, "--no-spectra", "--text"]
    assert main([*command, texts, "--out", str(out)]) == 0
    assert "Same answers" in capsys.readouterr().out
    assert "<h2>Outputs" in out.read_text()
    assert main([*command, str(tmp_path / "missing.txt")]) == 2
    assert "missing.txt" in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="no text in it"):
        study(of(*map(Path, folders), text=str(tmp_path / "empty.txt")))
    with pytest.raises(InputError, match="prunella mask apply"):
        study(of(Path(folders[0]), text=texts))
