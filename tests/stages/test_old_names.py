"""Checkpoints whose LayerNorms have their old names, gamma and beta, as bert-base-uncased's do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from stages.tiny import Place, arrays, save_model
from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizer

import prunella
from prunella import settings as s
from prunella.checkpoint import WEIGHTS
from prunella.cli import main
from prunella.inspection import inspect
from prunella.packed.mask_file import open_mask
from prunella.packing import pack, unpack
from prunella.stages.adapt import adapt
from prunella.stages.mask import mask
from prunella.stages.prune import prune
from prunella.stages.quantize import quantize
from prunella.stages.teach import teach
from prunella.stages.transfer import transfer

TEXTS = ["What a splendid day, said the king.", "A dull box"]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tiny_tokenizer: BertTokenizer,
) -> Place:
    """With two spellings of one model, `old` and `new`: what the Hub's bert-base-uncased holds.

    That is a pooler, the heads for masked words and for next sentences, "bert." before the names.
    """
    place = Place(tmp_path_factory.mktemp("spelled"), corpus_file, task_files)
    new, old = place.folder / "new", place.folder / "old"
    save_model(new, "bert", tiny_tokenizer, architectures=["BertForMaskedLM"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config: Any = AutoConfig.from_pretrained(new)
        weights = transformers.BertForPreTraining(config).state_dict()
    weights.pop("cls.predictions.decoder.weight")  # the table of words
    weights.pop("cls.predictions.decoder.bias")
    for name, tensor in weights.items():  # as they begin, all LayerNorms are alike
        if "LayerNorm" in name:
            tensor += torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
    old.mkdir()
    for file in new.iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    save_file(weights, new / WEIGHTS, {"format": "pt"})
    save_file({old_name(n): x for n, x in weights.items()}, old / WEIGHTS, {"format": "pt"})
    return place


def old_name(name: str) -> str:
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        name = name.replace(new, old)
    return name


def spelled(folder: str | Path) -> set[str]:
    """The names in the file itself that are old ones."""
    return {n for n in load_file(Path(folder) / WEIGHTS) if n.endswith((".gamma", ".beta"))}


def test_the_model_is_spelled_as_it_should_be(place: Place) -> None:
    found = spelled(place.out("old"))
    assert {"bert.embeddings.LayerNorm.gamma", "cls.predictions.transform.LayerNorm.beta"} < found
    assert len(found) == 12 and not spelled(place.out("new"))


def stages(place: Place) -> dict[str, Callable[[str, str], Any]]:
    """Of each stage, what runs it: from a folder, to a folder."""
    text, rows = place.text, place.rows()
    hidden: dict[str, Any] = {"mlm": 0, "distillation": s.DistillationSettings(hidden=1.0)}
    apart: dict[str, Any] = {**text, "steps": 2, "deduplicate": False}
    return {
        "teach": lambda m, o: teach(s.TeachSettings(model=m, out=o, steps=2, **text)),
        "prune": lambda m, o: prune(s.PruneSettings(model=m, out=o, steps=4, **text)),
        "prune-hidden": lambda m, o: prune(
            s.PruneSettings(model=m, out=o, steps=4, **text, **hidden)
        ),
        "adapt": lambda m, o: adapt(s.AdaptSettings(model=m, out=o, **apart)),
        "transfer": lambda m, o: transfer(s.TransferSettings(model=m, out=o, **rows)),
        "mask": lambda m, o: mask(
            s.MaskSettings(model=m, out=o, kept=0.7, steps=2, threads=1, **without(rows, "steps"))
        ),
    }


def without(rows: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in rows.items() if key != name}


@pytest.fixture(scope="module")
def made(place: Place) -> Callable[[str, str], str]:
    """Runs a stage from one of the two spellings, once; returns its folder."""
    ran: set[str] = set()

    def make(stage: str, spelling: str = "old") -> str:
        out = place.out(f"{stage}-{spelling}")
        if out not in ran:
            stages(place)[stage](place.out(spelling), out)
            ran.add(out)
        return out

    return make


@pytest.mark.parametrize("stage", ["teach", "prune", "prune-hidden", "adapt", "transfer", "mask"])
def test_every_stage_makes_the_same_of_both(made: Callable[[str, str], str], stage: str) -> None:
    old, new = made(stage, "old"), made(stage, "new")
    assert not spelled(old)
    assert Path(old, WEIGHTS).read_bytes() == Path(new, WEIGHTS).read_bytes()
    parents = [json.loads(Path(out, "prunella.json").read_text())["parents"] for out in (old, new)]
    assert parents[0]["model"]["sha256"] == parents[1]["model"]["sha256"]


def test_a_mask_leaves_the_norms_alone(
    place: Place, made: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = made("mask")
    before, after = arrays(place.out("old")), arrays(out)
    norms = [name for name in after if "LayerNorm" in name]
    assert len(norms) == 10
    assert all(np.array_equal(after[name], before[name]) for name in norms)
    file = str(Path(out, "task.mask"))
    assert set(open_mask(file).own) == {"classifier.weight", "classifier.bias"}
    # It belongs to both spellings, which are one model.
    for spelling in ("old", "new"):
        applied = place.out(f"applied-{spelling}")
        assert main(["mask", "apply", place.out(spelling), file, "--out", applied]) == 0
        again = arrays(applied)
        assert again.keys() == after.keys()
        assert all(again[name].tobytes() == after[name].tobytes() for name in after)
        packed = place.out(f"backbone-{spelling}.prn")
        pack(s.PackSettings(model=place.out(spelling), out=packed))
        models = prunella.load(packed, masks=[file])
        alone = place.out("alone.prn")
        pack(s.PackSettings(model=applied, out=alone, overwrite=True))
        ours, theirs = models["mask-old"](TEXTS), prunella.load(alone)(TEXTS)
        assert [x.label for x in ours] == [x.label for x in theirs]
        assert [x.score for x in ours] == pytest.approx([x.score for x in theirs], abs=1e-5)
    capsys.readouterr()


@pytest.mark.parametrize("quantized", [False, True])
def test_what_was_transferred_is_served(
    place: Place, made: Callable[..., str], quantized: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made("transfer")
    if quantized:
        out = place.out("int8")
        quantize(s.QuantizeSettings(model=folder, out=out, **place.rows()))
        folder = out
    packed = place.out(f"task-{quantized}.prn")
    pack(s.PackSettings(model=folder, out=packed))
    assert main(["predict", packed, "--text", TEXTS[0], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["results"][0]
    if not quantized:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
        with torch.no_grad():
            expected = model(**tokens).logits.softmax(-1).max().item()
        assert answer["score"] == pytest.approx(expected, abs=1e-4)


def test_the_model_itself_is_packed_and_served(place: Place) -> None:
    """It is asked for masked words, its other heads and all."""
    packed = place.out("itself.prn")
    pack(s.PackSettings(model=place.out("old"), out=packed))
    found = prunella.load(packed)("The king sleeps in the [MASK].")
    model = transformers.AutoModelForMaskedLM.from_pretrained(place.out("old"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.out("old"))
    tokens = tokenizer("The king sleeps in the [MASK].", return_tensors="pt")
    with torch.no_grad():
        scores = model(**tokens).logits[tokens.input_ids == tokenizer.mask_token_id].softmax(-1)
    assert found.candidates[0].score == pytest.approx(scores.max().item(), abs=1e-4)
    unpack(s.UnpackSettings(model=packed, out=place.out("unpacked")))
    assert not spelled(place.out("unpacked"))
    assert inspect(s.InspectSettings(model=place.out("old"))).sha256 == (
        inspect(s.InspectSettings(model=place.out("new"))).sha256
    )
    rows = inspect(s.InspectSettings(model=place.out("old"))).rows
    assert not [row.name for row in rows if row.name.endswith((".gamma", ".beta"))]


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_a_difference_leaves_out_what_both_have(place: Place, spelling: str) -> None:
    frozen = ("bert.embeddings",)
    rows, folder = place.rows(), place.out(f"frozen-{spelling}")
    transfer(s.TransferSettings(model=place.out("old"), out=folder, **rows, frozen=frozen))
    packed, out = place.out(f"part-{spelling}.prn"), place.out(f"whole-{spelling}")
    done = pack(s.PackSettings(model=folder, out=packed, backbone=place.out(spelling)))
    held = {info.name for info, _ in done.sizes.tensors}
    assert "bert.encoder.layer.0.output.LayerNorm.weight" in held
    assert not [name for name in held if "embeddings" in name]
    unpack(s.UnpackSettings(model=packed, out=out, backbone=place.out(spelling)))
    wanted, found = arrays(folder), arrays(out)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
