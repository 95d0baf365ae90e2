"""Patterns stay locked, sparsities are reached, and a stage that fails to says so loudly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages.tiny import Place, arrays, zeros
from torch import nn

from prunella import display
from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError
from prunella.sparsity.masks import Masks
from prunella.sparsity.pruning import Pruning
from prunella.stages.common import verify_pattern
from prunella.stages.prune import prune
from prunella.stages.quantize import quantize
from prunella.stages.transfer import transfer

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tiny_checkpoint: Make,
) -> Place:
    place = Place(tmp_path_factory.mktemp("locks"), corpus_file, task_files)
    model = str(tiny_checkpoint("bert"))
    prune(
        s.PruneSettings(model=model, out=place.out("sparse"), steps=4, sparsity=0.8, **place.text)
    )
    return place


def train(place: Place, name: str, model: str | None = None, **more: Any) -> s.TransferSettings:
    """Settings of a transfer whose large steps would move any weight that is not held."""
    rows = {**place.rows(), "learning_rate": 0.05, "weight_decay": 0.1, **more}
    return s.TransferSettings(model=model or place.out("sparse"), out=place.out(name), **rows)


def test_zeros_of_the_parent_are_zeros_of_the_child(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    result = transfer(train(place, "locked", lock="on"))
    before, after = zeros(place.open("sparse")), zeros(open_checkpoint(result.out))
    assert all(after[name][where].all() for name, where in before.items())
    old, new = arrays(place.out("sparse")), arrays(result.out)
    for name, where in before.items():
        assert (old[name][~where] != new[name][~where]).mean() > 0.9  # the others did move
    pooler = result.provenance["sparsity"]["matrices"]["bert.pooler.dense.weight"]
    assert pooler == 0.0  # new in this model: it holds no pattern, so it is free, which is said
    assert result.provenance["new_matrices"] == ["bert.pooler.dense.weight"]
    display.show(result)
    assert "bert.pooler.dense is new to the model, so it is dense" in capsys.readouterr().out


def test_without_a_lock_they_fill_up(place: Place) -> None:
    result = transfer(train(place, "unlocked", lock="off"))
    assert result.provenance["sparsity"]["total"] < 0.1


@pytest.mark.parametrize("lock", ["auto", "off"])
def test_a_dense_model_needs_no_lock(place: Place, tiny_checkpoint: Make, lock: str) -> None:
    model = str(tiny_checkpoint("bert"))
    result = transfer(train(place, f"dense-{lock}", model, lock=lock, steps=1))
    assert result.provenance["sparsity"]["total"] < 0.01


def test_a_lock_on_a_dense_model_is_refused(place: Place, tiny_checkpoint: Make) -> None:
    with pytest.raises(InputError, match=r"--lock on, but the model is dense"):
        transfer(train(place, "refused", str(tiny_checkpoint("bert")), lock="on"))


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_pruning_at_task_time(place: Place, tiny_checkpoint: Make, scope: Any) -> None:
    pruning = s.PruningSettings(sparsity=0.5, scope=scope)
    model = str(tiny_checkpoint("distilbert"))
    result = transfer(train(place, f"task-{scope}", model, prune=pruning, steps=6))
    shares = result.provenance["sparsity"]["matrices"]
    assert result.provenance["sparsity"]["total"] == pytest.approx(0.5, abs=1e-3)
    assert (len(set(shares.values())) == 1) == (scope == "uniform")
    rows = [json.loads(line) for line in (result.out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_a_sparse_model_is_pruned_further(place: Place) -> None:
    pruning = s.PruningSettings(sparsity=0.9, roles=("query", "key", "value", "ffn_in", "ffn_out"))
    result = transfer(train(place, "further", prune=pruning, steps=6))
    for name, where in zeros(open_checkpoint(result.out)).items():
        if not any(part in name for part in ("pooler", "attention.output")):
            assert where.sum() == round(0.9 * where.size)
    with pytest.raises(InputError, match=r"below the 0\.8"):
        transfer(train(place, "back", prune=s.PruningSettings(sparsity=0.5, roles=("query",))))


def test_quantised_zeros_stay_zeros(place: Place) -> None:
    transfer(train(place, "to-quantise"))
    settings = {**place.rows(), "learning_rate": 0.05}
    for name, epochs in (("trained", 1), ("rounded", 0)):
        changed = {**settings, "steps": 3 if epochs else None, "epochs": epochs}
        result = quantize(
            s.QuantizeSettings(model=place.out("to-quantise"), out=place.out(name), **changed)
        )
        before, after = zeros(place.open("to-quantise")), arrays(result.out)
        for matrix, where in before.items():
            assert not after[matrix][where].any()
            assert not np.signbit(after[matrix][where]).any()
        assert result.provenance["quantization"]["matrices"] == len(before)
    with pytest.raises(InputError, match="is quantised already"):
        quantize(s.QuantizeSettings(model=place.out("trained"), out=place.out("x"), **settings))


# ------------------------------------------------------------------- faults that must not pass


def test_a_stage_that_prunes_nothing_fails(
    place: Place, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pruning, "__call__", lambda self, step: None)
    model = str(tiny_checkpoint("bert"))
    with pytest.raises(RuntimeError, match=r"asked for sparsity 0\.9, reached 0\.000"):
        prune(s.PruneSettings(model=model, out=place.out("nothing"), steps=2, **place.text))
    assert not Path(place.out("nothing")).exists()


@pytest.mark.parametrize("verb", ["transfer", "quantize"])
def test_a_stage_that_unlocks_weights_fails(
    place: Place, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    if not Path(place.out("parent")).exists():
        transfer(train(place, "parent"))
    monkeypatch.setattr(Masks, "zero_weights", lambda self: None)
    monkeypatch.setattr(Masks, "zero_gradients", lambda self: None)
    settings: Any = train(place, f"broken-{verb}", place.out("parent"), steps=1)
    stage: Any = transfer
    if verb == "quantize":
        given = settings.model_fields_set & s.QuantizeSettings.model_fields.keys()
        shared = {name: getattr(settings, name) for name in given}
        settings, stage = s.QuantizeSettings(**shared), quantize
    with pytest.raises(RuntimeError, match=r"not zero|moved a zero"):
        stage(settings)
    assert not Path(settings.out).exists()


def test_verification_reads_what_was_written(place: Place, tmp_path: Path) -> None:
    """A checkpoint that was changed after its masks were made is found out."""
    from safetensors.numpy import save_file

    name = "bert.encoder.layer.0.output.dense.weight"
    stored = arrays(place.out("sparse"))
    masks = Masks.of_zeros({name: nn.Parameter(torch.from_numpy(stored[name].copy()))})
    (tmp_path / "config.json").write_text("{}")

    def verify(tensors: dict[str, np.ndarray], asked: tuple[float, float] | None = None) -> None:
        save_file(tensors, tmp_path / "model.safetensors")
        verify_pattern(open_checkpoint(tmp_path), masks, asked)

    verify(stored)
    verify(stored, asked=(0.8, 0.001))
    with pytest.raises(RuntimeError, match=r"asked for sparsity 0\.9, reached 0\.79"):
        verify(stored, asked=(0.9, 0.001))
    changed = stored[name].copy()
    changed[tuple(np.argwhere(changed == 0)[0])] = 1e-30
    with pytest.raises(RuntimeError, match=f"{name}: 1 pruned weights are not zero"):
        verify({**stored, name: changed})
    with pytest.raises(RuntimeError, match="lacks pruned matrices"):
        verify({other: array for other, array in stored.items() if other != name})
