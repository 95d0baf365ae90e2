"""adapt: zeros stay, forgetting is measured, a killed run resumes, and bad input is explained."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages.faults import run_with
from stages.tiny import Place, arrays, zeros
from transformers import AutoModelForMaskedLM

from prunella import display
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.settings import (
    AdaptSettings,
    DistillationSettings,
    PruneSettings,
    TeachSettings,
    TransferSettings,
)
from prunella.sparsity.masks import Masks
from prunella.stages.adapt import adapt
from prunella.stages.prune import prune
from prunella.stages.teach import teach
from prunella.stages.transfer import transfer

Make = Callable[..., Path]
DOMAIN = "The {} of the {} was measured in {} patients, and the mean {} fell by {} percent."
FIGURES = {"mlm_loss", "perplexity", "mlm_accuracy"}


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tiny_checkpoint: Make,
) -> Place:
    """With a sparse model, and text of a domain that repeats itself."""
    place = Place(tmp_path_factory.mktemp("adapt"), corpus_file, task_files)
    taught = TeachSettings(
        model=str(tiny_checkpoint("bert")), out=place.out("dense"), steps=30, **place.text
    )
    teach(taught.model_copy(update={"learning_rate": 5e-3}))
    prune(
        PruneSettings(
            model=place.out("dense"), out=place.out("sparse"), steps=4, sparsity=0.8, **place.text
        )
    )
    draw = np.random.default_rng(0)
    words = ["pressure", "volume", "dose", "liver", "kidney", "blood", "enzyme", "score", "level"]
    lines = [
        " ".join(
            DOMAIN.format(*draw.choice(words, 2), draw.integers(99), draw.choice(words), number)
            for number in draw.integers(1000, size=4)
        )
        for _ in range(160)
    ]
    lines += lines[:20] + [line.replace("measured", "assessed", 1) for line in lines[20:30]]
    (place.folder / "domain.txt").write_text("\n\n".join(lines))
    (place.folder / "held-out.txt").write_text("\n\n".join(lines[:30]).replace("mean", "median"))
    general = "\n".join(place.corpus.read_text().splitlines()[:120])
    (place.folder / "general.txt").write_text(general)
    return place


def given(place: Place, name: str, **more: Any) -> AdaptSettings:
    values: dict[str, Any] = {
        **place.text,
        "model": place.out("sparse"),
        "text": (place.out("domain.txt"),),
        "out": place.out(name),
        "steps": 3,
        **more,
    }
    return AdaptSettings(**values)


def test_zeros_stay_and_the_rest_learns_the_domain(place: Place) -> None:
    settings = given(
        place,
        "adapted",
        steps=60,
        learning_rate=0.02,
        weight_decay=0.1,
        dropout=0.0,
        general_text=(place.out("general.txt"),),
        validation_text=(place.out("held-out.txt"),),
    )
    result = adapt(settings)
    before, after = zeros(place.open("sparse")), zeros(open_checkpoint(result.out))
    old, new = arrays(place.out("sparse")), arrays(result.out)
    for name, where in before.items():
        assert after[name][where].all()
        assert (old[name][~where] != new[name][~where]).mean() > 0.9
    found = result.provenance["held_out"]
    assert found.keys() == {"domain", "general"}
    for figures in (found[text][when] for text in found for when in ("before", "after")):
        assert figures.keys() == FIGURES
        assert figures["perplexity"] == pytest.approx(math.exp(figures["mlm_loss"]))
    assert found["domain"]["after"]["mlm_loss"] < found["domain"]["before"]["mlm_loss"] - 0.3
    forgotten = found["general"]["after"]["mlm_loss"] - found["general"]["before"]["mlm_loss"]
    assert result.metrics["forgetting"] == forgotten > 0
    assert result.metrics["mlm_loss"] == found["domain"]["after"]["mlm_loss"]
    stock = AutoModelForMaskedLM.from_pretrained(result.out)
    assert float((stock.bert.encoder.layer[0].output.dense.weight == 0).float().mean()) > 0.79


def test_before_and_after_are_measured_alike(place: Place) -> None:
    """With nothing learned the figures are the same, and the next run begins where one ended."""
    texts = {"general_text": (place.out("general.txt"),), "batch_tokens": 256}
    texts["validation_text"] = (place.out("held-out.txt"),)
    still = adapt(given(place, "still", learning_rate=1e-30, weight_decay=0, **texts))
    for figures in still.provenance["held_out"].values():
        assert figures["before"] == figures["after"]
    assert still.metrics["forgetting"] == 0
    first = adapt(given(place, "first", seed=1, **texts)).provenance["held_out"]
    again = adapt(given(place, "again", seed=2, model=place.out("first"), **texts))
    for text, figures in again.provenance["held_out"].items():
        assert figures["before"] == pytest.approx(first[text]["after"], rel=1e-5)


def test_near_duplicates_are_counted(place: Place) -> None:
    result = adapt(given(place, "unique"))
    text = result.provenance["text"]
    assert text["paragraphs"]["train"]["kept"] + text["paragraphs"]["train"]["dropped"] == 190
    assert 30 <= text["paragraphs"]["train"]["dropped"] <= 33
    assert "general" not in result.provenance["held_out"]
    assert "forgetting" not in result.metrics
    whole = adapt(given(place, "repeated", deduplicate=False)).provenance["text"]
    assert "paragraphs" not in whole
    assert whole["fingerprint"] != text["fingerprint"]
    assert whole["train_tokens"] > 1.1 * text["train_tokens"]


def test_general_text_is_mixed_in(place: Place) -> None:
    replay = {"replay_text": (str(place.corpus),), "general_share": 0.5}
    texts = {"general_text": (place.out("general.txt"),), "dropout": 0.0, "learning_rate": 0.02}
    alone = adapt(given(place, "alone", steps=40, **texts))
    mixed = adapt(given(place, "mixed", steps=40, **texts, **replay))
    assert mixed.metrics["forgetting"] < alone.metrics["forgetting"] - 0.05
    text = mixed.provenance["text"]
    assert text["paragraphs"].keys() == {"train", "replay"}
    assert text["replay_tokens"] > 0
    assert set(mixed.provenance["identity"]["data"]) == {"text", "general_text", "replay_text"}


@pytest.mark.parametrize("signal", ["logits", "hidden"])
def test_a_dense_teacher_of_the_domain(place: Place, signal: str) -> None:
    if not Path(place.out("teacher")).exists():
        dense = adapt(given(place, "teacher", model=place.out("dense")))
        assert dense.provenance["sparsity"]["total"] < 0.01
    signals = DistillationSettings(**{signal: 1.0})
    taught = given(place, f"taught-{signal}", teacher=place.out("teacher"), distillation=signals)
    result = adapt(taught)
    assert result.provenance["parents"].keys() == {"model", "teacher"}
    (row, *_) = (result.out / "log.jsonl").read_text().splitlines()
    terms = {key for key in json.loads(row) if key.startswith("loss_")}
    assert terms == {"loss_mlm", f"loss_{signal}"}
    assert "hidden_distance" in result.metrics
    only = adapt(taught.model_copy(update={"mlm": 0.0, "out": place.out(f"only-{signal}")}))
    (row, *_) = (only.out / "log.jsonl").read_text().splitlines()
    assert "loss_mlm" not in json.loads(row)


def test_a_missing_head_is_trained_first(place: Place, tiny_checkpoint: Make) -> None:
    base = str(tiny_checkpoint("bert", "base"))
    pruning = {"mlm": 0, "distillation": DistillationSettings(hidden=1.0), "sparsity": 0.8}
    headless = PruneSettings(
        model=base, out=place.out("headless"), steps=3, **pruning, **place.text
    )
    prune(headless)
    result = adapt(
        given(place, "with-head", model=place.out("headless"), head_steps=5, log_every=1)
    )
    rows = [json.loads(line) for line in (result.out / "log.jsonl").read_text().splitlines()]
    assert [row["run"] for row in rows] == ["head"] * 5 + ["adapt"] * 3
    assert result.metrics["steps"] == 8
    before = zeros(place.open("headless"))
    after = zeros(open_checkpoint(result.out))
    assert all(after[f"bert.{name}"][where].all() for name, where in before.items())


def test_a_missing_head_is_the_teachers(place: Place, tiny_checkpoint: Make) -> None:
    still = {
        "learning_rate": 1e-30,
        "weight_decay": 0,
        "model": str(tiny_checkpoint("bert", "base")),
    }
    result = adapt(given(place, "lent-head", teacher=place.out("dense"), **still))
    assert result.provenance["head"] == "copied from the teacher"
    assert result.metrics["steps"] == 3  # none for the head
    mine, theirs = arrays(result.out), arrays(place.out("dense"))
    head = [name for name in theirs if name.startswith("cls.")]
    assert len(head) >= 5
    assert all((mine[name] == theirs[name]).all() for name in head)
    embedding = "bert.embeddings.word_embeddings.weight"
    assert (mine[embedding] != theirs[embedding]).any()
    trained = adapt(given(place, "own", teacher=place.out("dense"), head_steps=2, **still))
    assert trained.metrics["steps"] == 5


def given_task(place: Place) -> TransferSettings:
    return TransferSettings(
        model=place.out("dense"),
        train=str(place.tasks["single"]["train"]),
        out=place.out("task"),
        steps=2,
        max_length=24,
        threads=1,
        precision="fp32",
    )


def test_the_model_of_a_task_teaches_its_hidden_states(
    place: Place, tiny_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no head for masked words, and none is made."""
    transfer(given_task(place))
    signals = {"mlm": 0.0, "distillation": DistillationSettings(hidden=1.0), "learning_rate": 5e-3}
    texts = {"general_text": (place.out("general.txt"),), "teacher": place.out("task")}
    headless = str(tiny_checkpoint("bert", "base"))
    result = adapt(given(place, "of-task", model=headless, steps=20, **texts, **signals))
    assert not [name for name in arrays(result.out) if name.startswith("cls.")]
    for figures in result.provenance["held_out"].values():
        assert figures["after"].keys() == {"hidden_distance"}
        assert figures["after"]["hidden_distance"] < figures["before"]["hidden_distance"]
    assert "head" not in result.provenance and "forgetting" not in result.metrics
    display.show(result)
    assert "hidden distance" in capsys.readouterr().out
    kept = adapt(given(place, "head-stays", **texts, **signals))
    assert [name for name in arrays(kept.out) if name.startswith("cls.")]
    with pytest.raises(InputError, match="has no masked-language-modelling head"):
        adapt(given(place, "logits", **texts, distillation=DistillationSettings(logits=1.0)))


def test_a_head_that_is_left_behind_is_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    task = given_task(place)
    transfer(task)
    result = adapt(given(place, "of-a-task", model=task.out, steps=1, head_steps=1))
    assert result.provenance["dropped_head"] == "SequenceClassification"
    display.show(result)
    assert (
        "The head for SequenceClassification of the model is not in this one"
        in capsys.readouterr().out
    )
    assert "dropped_head" not in adapt(given(place, "of-none", steps=1)).provenance


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra"])
def test_other_families(place: Place, tiny_checkpoint: Make, family: str) -> None:
    sparse = PruneSettings(
        model=str(tiny_checkpoint(family)), out=place.out(family), steps=3, **place.text
    )
    before = zeros(open_checkpoint(prune(sparse).out))
    result = adapt(given(place, f"{family}-adapted", model=place.out(family)))
    after = zeros(open_checkpoint(result.out))
    assert all(after[name][where].all() for name, where in before.items())
    assert result.provenance["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)


def test_weights_that_come_back_are_found_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Masks, "zero_weights", lambda self: None)
    monkeypatch.setattr(Masks, "zero_gradients", lambda self: None)
    with pytest.raises(RuntimeError, match="pruned weights are not zero"):
        adapt(given(place, "broken"))
    assert not Path(place.out("broken")).exists()


# ------------------------------------------------------------------------------- the command line


def command(place: Place, *more: str, model: str = "sparse") -> list[str]:
    return [
        *("adapt", "--model", place.out(model), "--text", place.out("domain.txt")),
        *("--general-text", place.out("general.txt"), "--cache", place.out("cache")),
        *("--replay-text", str(place.corpus), "--general-share", "0.3"),
        *("--steps", "8", "--save-every", "3", "--log-every", "1", "--accumulation", "2"),
        *("--length", "16", "--batch-tokens", "64", "--threads", "1", "--precision", "fp32"),
        *more,
    ]


@pytest.fixture(scope="module")
def uninterrupted(place: Place) -> dict[str, Any]:
    """The bits and figures of a run that nobody interrupts: with a head to train, and a teacher."""
    encoder = place.folder / "encoder"
    shutil.copytree(place.out("sparse"), encoder)
    from transformers import AutoModel

    AutoModel.from_pretrained(place.out("sparse")).save_pretrained(encoder)
    assert main([*headless(place), "--out", place.out("whole")]) == 0
    record = place.open("whole").provenance
    assert record is not None
    return {"arrays": arrays(place.out("whole")), "held_out": record["held_out"]}


def headless(place: Place) -> list[str]:
    teacher = ("--teacher", place.out("dense"), "--distillation.hidden", "0.5")
    return command(place, "--head-steps", "4", *teacher, model="encoder")


@pytest.mark.parametrize(
    "faults",
    [("step:3", "step:9"), ("before-publishing",)],  # the head has 8 micro-batches
    ids="-".join,
)
def test_killed_and_resumed(
    place: Place, uninterrupted: dict[str, Any], faults: tuple[str, ...]
) -> None:
    out = place.out("-".join(faults).replace(":", "-"))
    for fault in faults:
        ended = run_with(fault, [*headless(place), "--out", out], place.folder)
        assert ended.code == -signal.SIGKILL, ended.stderr
        assert not Path(out).exists()
    assert main([*headless(place), "--out", out]) == 0
    found, wanted = arrays(out), uninterrupted["arrays"]
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    record = open_checkpoint(out).provenance
    assert record is not None and record["held_out"] == uninterrupted["held_out"]


def test_what_is_printed(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command(place), "--out", place.out("shown")]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[1:-1])) <= 80
    for words in ("forgetting", "train paragraphs dropped", "perplexity", "before", "after"):
        assert words in shown
    assert shown.count("domain") == shown.count("general") == 1
    assert "next: prunella transfer" in shown
    assert main([*command(place), "--out", place.out("shown"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["finished_before"]
    assert document["held_out"]["general"]["before"]["mlm_loss"] > 0
    assert document["text"]["paragraphs"]["train"]["dropped"] >= 30


def test_dry_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(place), "--out", place.out("dry"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "zeros would be locked" in shown and "no: tied to" in shown
    assert main([*command(place), "--out", place.out("dry"), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    matrices = zeros(place.open("sparse"))
    assert document["locked_zeros"] == sum(int(where.sum()) for where in matrices.values())
    assert {t["name"] for t in document["targets"] if t["locked"]} == {
        name.removesuffix(".weight") for name in matrices
    }
    assert not Path(place.out("dry")).exists()
    assert not Path(place.out("dry.partial")).exists()


def test_a_step_of_a_recipe(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = place.folder / "recipe.yaml"
    settings = given(place, "x").model_dump(mode="json", exclude_unset=True)
    settings |= {"out": "${out}/adapted", "general_text": [place.out("general.txt")]}
    recipe.write_text(
        json.dumps({"name": "domain", "out": place.out("runs"), "steps": [{"adapt": settings}]})
    )
    assert main(["run", str(recipe), "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert (step["verb"], step["stage"]) == ("adapt", "adapt")
    assert step["metrics"]["forgetting"] == pytest.approx(
        step["held_out"]["general"]["after"]["mlm_loss"]
        - step["held_out"]["general"]["before"]["mlm_loss"]
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"general_share": 0.5}, "--general-share and --replay-text belong together"),
    ({"replay_text": ("general.txt",)}, "--general-share and --replay-text belong together"),
    ({"distillation": DistillationSettings(hidden=1.0)}, "needs a --teacher"),
    ({"general_text": ("absent.txt",)}, r"absent\.txt: there is no such file"),
    ({"length": 100}, "the model has 72 positions"),
    ({"general_text": ("empty.txt",)}, r"empty\.txt: holds no text"),
    ({"model": "absent"}, "absent"),
    ({"teacher": "no-head"}, "has no masked-language-modelling head"),
    (
        {"teacher": "dense", "mlm": 0.0, "distillation": DistillationSettings()},
        "every distillation weight are 0",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(
    place: Place, tiny_checkpoint: Make, wrong: dict[str, Any], message: str
) -> None:
    (place.folder / "empty.txt").write_text("")
    if not Path(place.out("no-head")).exists():
        shutil.copytree(tiny_checkpoint("bert", "base"), place.out("no-head"))
    names = {"model", "teacher", "general_text", "replay_text"}
    full = {
        name: ((place.out(value[0]),) if isinstance(value, tuple) else place.out(value))
        if name in names
        else value
        for name, value in wrong.items()
    }
    with pytest.raises(InputError, match=message):
        adapt(given(place, "bad", **full, overwrite=True))
    assert not Path(place.out("bad")).exists()


@pytest.mark.parametrize(
    ("held_out", "trained"),
    [
        ("general_text", "replay_text"),
        ("general_text", "text"),
        ("validation_text", "text"),
        ("validation_text", "replay_text"),
    ],
)
def test_text_is_not_both_learned_and_measured_on(
    place: Place, held_out: str, trained: str
) -> None:
    folder = place.folder / "linked"
    folder.mkdir(exist_ok=True)
    (folder / "same.txt").unlink(missing_ok=True)
    (folder / "same.txt").symlink_to(place.folder / "general.txt")
    texts: dict[str, Any] = {held_out: (str(folder / "*.txt"),)}
    texts[trained] = (place.out("domain.txt"), place.out("general.txt"))
    if trained == "replay_text":
        texts["general_share"] = 0.5
    flags = [f"--{name.replace('_', '-')}" for name in (held_out, trained)]
    with pytest.raises(InputError, match=rf"general\.txt: is in {flags[0]} and in {flags[1]};"):
        adapt(given(place, "bad", **texts))
    if (held_out, trained) == ("validation_text", "text"):
        same = {**place.text, **texts, "model": place.out("sparse"), "out": place.out("bad")}
        with pytest.raises(InputError, match=rf"is in {flags[0]} and in {flags[1]};"):
            prune(PruneSettings(**same))
        with pytest.raises(InputError, match=rf"is in {flags[0]} and in {flags[1]};"):
            teach(TeachSettings(**same))
    assert not Path(place.out("bad")).exists()


def test_an_edited_general_text_is_another_run(place: Place, tmp_path: Path) -> None:
    general = tmp_path / "general.txt"
    shutil.copy(place.out("general.txt"), general)
    settings = given(place, "edited", general_text=(str(general),))
    adapt(settings)
    assert adapt(settings).finished_before
    general.write_text(general.read_text() + "\nOne line more.")
    with pytest.raises(InputError, match="general_text: other contents"):
        adapt(settings)
