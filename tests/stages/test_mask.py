"""mask: frozen weights, masks that learn, task.mask, and the checkpoint that it makes again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages.tiny import Place, arrays
from transformers import AutoModelForSequenceClassification

from prunella import display
from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.data.readers import content_hash
from prunella.errors import InputError
from prunella.mask_application import apply_mask
from prunella.packed.mask_file import open_mask
from prunella.packing import pack, unpack
from prunella.sparsity.learned import METHODS as METHODS_OF
from prunella.stages.adapt import adapt
from prunella.stages.mask import mask
from prunella.stages.prune import prune
from prunella.stages.quantize import quantize
from prunella.stages.transfer import transfer
from prunella.study.networks import open_networks
from prunella.study.records import labels_of
from prunella.study.run import study
from prunella.training import loop

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("mask"), corpus_file, task_files)


def settings(place: Place, model: Path | str, name: str, **more: Any) -> s.MaskSettings:
    rows = {**place.rows(), "threads": 1, **more}
    return s.MaskSettings(model=str(model), out=place.out(name), **rows)


METHODS: dict[str, dict[str, Any]] = {
    "smp": {"method": "smp", "kept": 0.3},
    "abp": {"method": "abp", "kept": 0.3},
    "zhao": {"method": "zhao", "mask_learning_rate": 0.01},
    "paper": {"preset": "paper", "steps": 3},
    "uniform": {"scope": "uniform", "recovery": False, "kept": 0.3},
    "embeddings": {"embeddings": True, "kept": 0.3},
}


@pytest.fixture(scope="module")
def made(place: Place, tiny_checkpoint: Make) -> Callable[[str], Any]:
    """The result of each method, made once."""
    results: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in results:
            model = tiny_checkpoint("bert", "base")
            results[name] = mask(settings(place, model, name, **METHODS[name]))
        return results[name]

    return make


def origin(name: str) -> str:
    return name.removeprefix("bert.")


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_those_of_the_backbone_or_zero(
    made: Callable[[str], Any], tiny_checkpoint: Make, name: str
) -> None:
    result = made(name)
    before, after = arrays(tiny_checkpoint("bert", "base")), arrays(result.out)
    masks = open_mask(result.out / "task.mask")
    for tensor, values in after.items():
        if tensor.startswith("classifier"):
            continue
        weights = before[origin(tensor)]
        kept = masks.kept(tensor) if tensor in masks.masked else np.ones(values.shape, bool)
        assert np.array_equal(values, np.where(kept, weights, 0))
    assert set(masks.own) == {"classifier.weight", "classifier.bias"}
    tables = sum("embeddings" in tensor for tensor in masks.masked)
    assert (tables, len(masks.masked) - tables) == (3 if name == "embeddings" else 0, 13)


@pytest.mark.parametrize("name", ["smp", "abp", "uniform", "embeddings"])
def test_the_share_asked_for_is_kept(made: Callable[[str], Any], name: str) -> None:
    assert made(name).metrics["kept"] == pytest.approx(0.3, abs=1e-3)


def test_the_published_drift_hardly_moves_anything(made: Callable[[str], Any]) -> None:
    record = made("paper").provenance
    assert record["metrics"]["kept"] > 0.99
    assert record["settings"]["drift"] == 2e-7
    assert record["settings"]["method"] == "abp"
    assert record["settings"]["batch_size"] == 8


def test_what_fell_short_is_said(
    made: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("paper", "raise --drift, or train"), ("smp", "masks of magnitude")):
        display.show(made(name))
        assert said in " ".join(capsys.readouterr().out.split())
    assert not made("zhao").provenance["notes"]  # no head start, and no share to reach
    assert made("abp").provenance["scores"] == asdict(METHODS_OF["abp"])


def test_tables_that_were_pruned_stay_so(
    place: Place, made: Callable[[str], Any], tiny_checkpoint: Make
) -> None:
    """In all that follows: their zeros are a pattern as well."""
    start, rows = made("embeddings"), {**place.rows(), "learning_rate": 0.05}
    shares = start.provenance["sparsity"]["matrices"]
    tables = [name for name in arrays(start.out) if name in shares and "embeddings" in name]
    assert len(tables) == 3
    assert all(shares[name] == pytest.approx(0.7, abs=0.02) for name in tables)
    apart = s.PruningSettings(sparsity=0.8, roles=("ffn_in", "ffn_out"))
    stages: dict[str, Callable[[dict[str, Any]], Any]] = {
        "transfer": lambda to: transfer(s.TransferSettings(**to, **rows)),
        "pruned": lambda to: transfer(s.TransferSettings(**to, **rows, prune=apart)),
        "quantize": lambda to: quantize(s.QuantizeSettings(**to, **rows)),
        "adapt": lambda to: adapt(
            s.AdaptSettings(**to, **place.text, steps=2, learning_rate=0.05, deduplicate=False)
        ),
        "prune": lambda to: prune(
            s.PruneSettings(**to, **place.text, steps=2, learning_rate=0.05, sparsity=0.8)
        ),
    }
    before = arrays(start.out)
    for name, stage in stages.items():
        out = place.out(f"tables-{name}")
        # Upstream a head for masked words is needed, which `adapt` made.
        model = place.out("tables-adapt") if name == "prune" else str(start.out)
        stage({"model": model, "out": out})
        after = arrays(out)
        for table in tables:
            assert not after[table if table in after else origin(table)][before[table] == 0].any()
        shown = json.loads(Path(out, "prunella.json").read_text())["sparsity"]["matrices"]
        assert ("prune" in name) != any("embeddings" in matrix for matrix in shown), name
    moved = arrays(place.out("tables-transfer"))[tables[0]] != before[tables[0]]
    assert moved.any()  # locked, not frozen


def test_scores_learn(place: Place, tiny_checkpoint: Make, made: Callable[[str], Any]) -> None:
    """Other labels, other masks: they are no function of the weights alone."""
    turned = place.folder / "turned.jsonl"
    rows = [json.loads(line) for line in place.tasks["single"]["train"].read_text().splitlines()]
    for row in rows:
        row["label"] = {"good": "bad", "bad": "good"}[row["label"]]
    turned.write_text("\n".join(map(json.dumps, rows)))
    model = tiny_checkpoint("bert", "base")
    other = mask(settings(place, model, "turned", kept=0.3, train=str(turned), validation=None))
    ours, theirs = (open_mask(r.out / "task.mask") for r in (made("smp"), other))
    assert any((ours.kept(name) != theirs.kept(name)).any() for name in ours.masked)


def test_applying_gives_the_same_checkpoint(
    place: Place,
    made: Callable[[str], Any],
    tiny_checkpoint: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, backbone = made("smp"), str(tiny_checkpoint("bert", "base"))
    out = place.out("applied")
    command = ["mask", "apply", backbone, str(result.out / "task.mask"), "--out", out]
    assert main(command) == 0
    wanted, found = arrays(result.out), arrays(out)
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    assert json.loads(Path(out, "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    _, info = AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    record = open_checkpoint(out).provenance
    assert record is not None
    assert record["task"] == result.provenance["task"]
    assert record["task"]["pairs"] is False
    data = result.provenance["identity"]["data"]
    assert record["mask"] == {"method": "smp", "train": "single-train.jsonl", "data": data}
    assert data["train"] == content_hash(place.rows()["train"])
    # A study finds one method and one task in the checkpoint, in the mask and in what it makes.
    paths = [str(result.out), str(result.out / "task.mask"), out]
    labels = labels_of([n.record for n in open_networks(paths)], [place.folder] * 3)
    assert labels == {"method": ["smp"] * 3, "task": ["single-train.jsonl"] * 3}
    assert record["sparsity"]["total"] == pytest.approx(0.7, abs=1e-3)
    assert main(command) == 2
    assert "exists; choose another --out or pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_another_backbone_is_refused(
    place: Place,
    made: Callable[[str], Any],
    tiny_checkpoint: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = str(tiny_checkpoint("bert", "base", seed=1))
    file = str(made("smp").out / "task.mask")
    assert main(["mask", "apply", other, file, "--out", place.out("never")]) == 2
    assert "was made from another backbone" in capsys.readouterr().err
    assert not Path(place.out("never")).exists()


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra"])
def test_other_families(place: Place, tiny_checkpoint: Make, family: str) -> None:
    """From the checkpoint of a language model, whose head is left out, in two ways alike."""
    model = tiny_checkpoint(family)
    result = mask(settings(place, model, family, kept=0.5, steps=1))
    out = place.out(f"{family}-applied")
    assert main(["mask", "apply", str(model), str(result.out / "task.mask"), "--out", out]) == 0
    wanted, found = arrays(result.out), arrays(out)
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_parts_that_are_trained_as_well_travel_along(place: Place, tiny_checkpoint: Make) -> None:
    model = tiny_checkpoint("bert", "base")
    parts = ("biases", "norms", "pooler")
    result = mask(settings(place, model, "more", kept=0.5, steps=1, also_train=parts))
    masks = open_mask(result.out / "task.mask")
    assert {"bert.pooler.dense.weight", "bert.encoder.layer.0.output.LayerNorm.weight"} < set(
        masks.own
    )
    assert len(masks.masked) == 12
    out = place.out("more-applied")
    assert main(["mask", "apply", str(model), str(result.out / "task.mask"), "--out", out]) == 0
    wanted, found = arrays(result.out), arrays(out)
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_a_teacher(place: Place, tiny_checkpoint: Make) -> None:
    rows = place.rows()
    dense = str(tiny_checkpoint("bert"))
    teacher = transfer(s.TransferSettings(model=dense, out=place.out("teacher"), **rows))
    result = mask(settings(place, dense, "taught", teacher=str(teacher.out), kept=0.5))
    log = (result.out / "log.jsonl").read_text().splitlines()
    assert {"loss_labels", "loss_logits", "loss_hidden"} <= json.loads(log[-1]).keys()
    assert json.loads(log[0])["learning_rate"] <= 1e-3  # of the head, not of the scores


@pytest.mark.parametrize("method", ["smp", "abp"])
def test_interrupted_and_resumed(
    place: Place, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The same bits, masks and head, as of a run that nobody interrupts."""
    command = [
        *("mask", "--model", str(tiny_checkpoint("bert", "base")), "--method", method),
        *("--train", str(place.tasks["single"]["train"]), "--steps", "8", "--save-every", "3"),
        *("--batch-size", "8", "--max-length", "24", "--threads", "1", "--precision", "fp32"),
        *("--kept", "0.4", "--freeze", "0.9", "--dropout", "0.1", "--out"),
    ]
    whole, out = place.out(f"{method}-whole"), place.out(f"{method}-killed")
    torch.manual_seed(5)
    assert main([*command, whole]) == 0
    steps = iter(range(5))
    original = loop._Trainer.training_step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Trainer, "training_step", interrupted)
        assert main([*command, out]) == 130
    assert not Path(out).exists()
    torch.manual_seed(6)
    assert main([*command, out]) == 0
    for name in ("model.safetensors", "task.mask"):
        assert Path(out, name).read_bytes() == Path(whole, name).read_bytes()


def test_a_sparse_backbone_keeps_its_zeros(place: Place, tiny_checkpoint: Make) -> None:
    pruned = s.PruningSettings(sparsity=0.6)
    model = str(tiny_checkpoint("bert"))
    sparse = transfer(
        s.TransferSettings(model=model, out=place.out("sparse"), prune=pruned, **place.rows())
    )
    result = mask(settings(place, sparse.out, "sparser", kept=0.3, steps=1))
    before, after = arrays(sparse.out), arrays(result.out)
    names = open_mask(result.out / "task.mask").masked
    assert all((after[name][before[name] == 0] == 0).all() for name in names)
    with pytest.raises(InputError, match=r"is sparse, so that only 4\d.\d % .* lower --kept"):
        mask(settings(place, sparse.out, "denser", kept=0.5, steps=1))
    with pytest.raises(InputError, match=r"only 4\d.\d % of its weights can be kept; lower --kept"):
        drifting = {"method": "abp", "drift": 0.1}
        mask(settings(place, sparse.out, "denser", kept=0.5, steps=1, **drifting))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "smp", "drift": 1e-7}, "drift: method smp has none"),
        ({"method": "zhao", "kept": 0.5}, "kept: method zhao keeps what"),
        ({"method": "zhao", "preset": "paper"}, "preset: paper is of method abp"),
        ({"method": "zhao", "growth_end": 0.2}, r"growth_end: has no meaning .*method zhao"),
        ({"method": "zhao", "scope": "uniform"}, r"scope: has no meaning"),
        ({"method": "abp", "drift": 1e-3, "scope": "role"}, r"scope: .* decides \(--drift\)"),
        ({"preset": "paper", "teacher": "MODEL"}, r"teacher: nothing .*\(preset paper\); set --d"),
        ({"roles": ()}, "nothing to mask"),
        ({"frozen": ("bert.encoder",)}, "frozen: the weights .* stay as they are in any case"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Place, tiny_checkpoint: Make, more: dict[str, Any], message: str
) -> None:
    model = tiny_checkpoint("bert", "base")
    if "teacher" in more:
        more = {**more, "teacher": str(model)}
    with pytest.raises(InputError, match=message):
        mask(settings(place, model, "refused", **more))


def test_no_run_destroys_what_it_starts_from(
    place: Place, made: Callable[[str], Any], tiny_checkpoint: Make
) -> None:
    backbone = Path(shutil.copytree(tiny_checkpoint("bert", "base"), place.out("backbone")))
    folder = Path(shutil.copytree(made("smp").out, place.out("with-mask")))
    before = {path: path.read_bytes() for path in (*backbone.iterdir(), *folder.iterdir())}
    task = str(folder / "task.mask")
    applying = s.ApplyMaskSettings(
        model=str(backbone), mask=task, out=str(backbone), overwrite=True
    )
    with pytest.raises(InputError, match=r"backbone: is the backbone of this run"):
        apply_mask(applying)
    with pytest.raises(InputError, match=r"with-mask: holds .*task.mask, the mask of this run"):
        apply_mask(applying.model_copy(update={"out": str(folder)}))
    again = settings(place, folder, "with-mask", overwrite=True)
    with pytest.raises(InputError, match="with-mask: is the model of this run"):
        mask(again)
    packed = place.out("whole.prn")
    pack(s.PackSettings(model=str(backbone), out=packed))
    with pytest.raises(InputError, match=r"holds more than a model directory does \(task.mask\)"):
        unpack(s.UnpackSettings(model=packed, out=str(folder), overwrite=True))
    assert before == {path: path.read_bytes() for path in before}


def test_a_mask_may_leave_layers_whole_and_is_told_from_its_checkpoint(
    place: Place, made: Callable[[str], Any], tiny_checkpoint: Make
) -> None:
    model = tiny_checkpoint("bert", "base")
    partly = mask(settings(place, model, "partly", kept=0.3, exclude=("bert.encoder.layer.0",)))
    paths = [made("smp").out, made("smp").out / "task.mask", partly.out / "task.mask"]
    found = study(s.StudySettings(models=tuple(map(str, paths)), spectra=False)).to_json()
    assert [n["name"] for n in found["networks"]] == ["smp", "smp/task.mask", "partly"]
    whole, alone, _ = found["networks"]
    assert whole["density"] == alone["density"] == pytest.approx(0.3, abs=2e-3)
    # By itself too: the layer that it leaves whole counts, as it does in the checkpoint.
    both = [str(partly.out / "task.mask"), str(partly.out)]
    alone, applied = study(s.StudySettings(models=(*both,), spectra=False)).to_json()["networks"]
    assert alone["density"] == applied["density"] == pytest.approx(0.65, abs=2e-3)
    assert alone["weights"] == applied["weights"]
    single = study(s.StudySettings(models=(both[0],), spectra=False)).to_json()["networks"][0]
    assert single["density"] == alone["density"]


def test_a_mask_of_no_layer_is_not_studied(place: Place, tiny_checkpoint: Make) -> None:
    model = tiny_checkpoint("bert", "base")
    result = mask(settings(place, model, "pooler", kept=0.3, steps=1, roles=("pooler",)))
    file = str(result.out / "task.mask")
    with pytest.raises(InputError, match=r"task.mask: masks no matrix of a layer"):
        study(s.StudySettings(models=(file,), spectra=False))


def test_a_mask_leaves_whole_what_it_does_not_name(made: Callable[[str], Any]) -> None:
    """Alone or applied: tables that one masks and the other does not are compared as well."""
    alone = [str(made(name).out / "task.mask") for name in ("smp", "embeddings")]
    applied = [str(made(name).out) for name in ("smp", "embeddings")]
    found = study(s.StudySettings(models=(*alone, *applied), spectra=False)).to_json()
    pairs = {(o["first"], o["second"]): o for o in found["overlaps"]}
    masks = pairs["smp/task.mask", "embeddings/task.mask"]
    mixed = pairs["smp/task.mask", "embeddings"]
    folders = pairs["smp", "embeddings"]
    for key in ("iou", "matched", "agreement"):  # a folder has the zero row of the padding as well
        assert masks[key] == pytest.approx(folders[key], abs=5e-3)
        assert mixed[key] == pytest.approx(folders[key], abs=5e-3)
    assert "word embeddings" in found["compared"]


def test_sizes_are_near_the_entropy(made: Callable[[str], Any]) -> None:
    metrics = made("smp").metrics
    file = open_mask(made("smp").out / "task.mask")
    coded = sum(file.info(n).mask_bytes + file.info(n).values_bytes for n in file.masked)
    assert metrics["mask_bytes"] == file.path.stat().st_size
    assert coded <= 1.05 * metrics["entropy_bytes"] + 64 * len(file.masked)
