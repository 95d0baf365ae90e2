"""The released encoders in models/: whole, as sparse as their names say, and nobody's folders in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunella.packed.backbone import backbone_of, is_difference
from prunella.packed.read import open_packed
from prunella.packed.sizes import sizes

MODELS = Path(__file__).parent.parent / "models"
FILES = sorted(MODELS.glob("*.prn"))


def test_there_are_some() -> None:
    assert FILES
    readme = (MODELS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"[\w.-]+\.prn", readme)) == {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_released_encoder(path: Path) -> None:
    packed = open_packed(path)
    packed.verify()
    assert is_difference(packed)
    readme = (MODELS / "README.md").read_text(encoding="utf-8")
    assert backbone_of(packed).sha256[:12] in readme
    assert path.name in readme
    zeros = re.search(r"-sparse-(\d+)", path.stem)
    assert zeros is not None
    assert 100 * sizes(packed).encoder.sparsity == pytest.approx(int(zeros[1]), abs=0.1)
    told = packed.files["prunella.json"].decode()
    assert '"/' not in told and "../" not in told
