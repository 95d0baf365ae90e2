"""Training goes on with the head that is there: its names, its ids, the rows as they were read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError
from prunella.models import load_config
from prunella.stages.evaluate import evaluate
from prunella.stages.examples import open_for_evaluation
from prunella.stages.mask import mask
from prunella.stages.quantize import quantize
from prunella.stages.task import open_task
from prunella.stages.transfer import transfer

Make = Callable[..., Path]
NEWS = ["World", "Sports", "Business"]
TAGS = ["O", "B-WHO", "I-WHO"]
COMMON: dict[str, Any] = {"steps": 1, "batch_size": 8, "max_length": 16, "threads": 1}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(labels: list[Any], column: str = "label") -> list[dict[str, Any]]:
    return [{"text": f"the baker sells {i} kettles", column: v} for i, v in enumerate(labels)]


def named(source: Path, folder: Path, names: list[str], **changes: Any) -> Path:
    """A copy of a checkpoint whose outputs have these names."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), **changes}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def news(tiny_checkpoint: Make, tmp_path: Path) -> Path:
    """A head whose classes are not in alphabetic order."""
    return named(tiny_checkpoint("bert", "classifier", labels=3), tmp_path / "news", NEWS)


@pytest.fixture
def tagger(tiny_checkpoint: Make, tmp_path: Path) -> Path:
    base, folder = tiny_checkpoint("bert", "base"), tmp_path / "tagger"
    shutil.copytree(base, folder)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=3)
    model.save_pretrained(folder)
    return named(folder, tmp_path / "named", TAGS)


def opened(model: Path, train: str, **more: Any) -> Any:
    settings = s.TransferSettings(model=str(model), out="out", train=train, **COMMON, **more)
    return open_task(settings, open_checkpoint(model), None)


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (["Sports", "World", "Business"], [1, 0, 2]),
        (["Sports", "World", "World"], [1, 0, 0]),  # not all of them
        ([1, 0, 2], [1, 0, 2]),
    ],
)
def test_class_ids_are_those_of_the_head(
    news: Path, tmp_path: Path, labels: list[Any], ids: list[int]
) -> None:
    train = write(tmp_path, texts(labels))
    task = opened(news, train, validation=train)
    assert task.names == NEWS
    assert task.train.gold.tolist() == task.validation.gold.tolist() == ids
    out = tmp_path / "out"
    transfer(s.TransferSettings(model=str(news), out=str(out), train=train, **COMMON))
    stored = json.loads((out / "config.json").read_text())["id2label"]
    assert list(stored.values()) == NEWS


def test_labels_that_the_head_does_not_know(news: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown label 'Sci-Tech'; the 3 classes.*'World', 'Sp"):
        opened(news, write(tmp_path, texts(["World", "Sci-Tech"])))


NUMBERED = {"LABEL_n": ["LABEL_0", "LABEL_1", "LABEL_2"], "0, 1, 2": ["0", "1", "2"]}
REFUSED = (
    r"the labels \(Business, Sports, World\) cannot be matched to the classes of .*, which are "
)


@pytest.fixture(params=NUMBERED)
def numbered(request: pytest.FixtureRequest, tiny_checkpoint: Make, tmp_path: Path) -> Path:
    """A head whose classes are numbers: transformers' own, or of training on numbers."""
    plain = tiny_checkpoint("bert", "classifier", labels=3)
    return named(plain, tmp_path / "numbered", NUMBERED[request.param])


def test_names_are_not_matched_to_a_head_of_numbers(numbered: Path, tmp_path: Path) -> None:
    """By the alphabet, each class might be another one; evaluate refuses them as well."""
    rows = write(tmp_path, texts(NEWS * 3))
    given = {"model": str(numbered), "out": str(tmp_path / "out"), "train": rows, **COMMON}
    message = REFUSED + r"numbers \(0 to 2\).*config.json.*new-head"
    with pytest.raises(InputError, match=message):
        transfer(s.TransferSettings(**given))
    with pytest.raises(InputError, match=message):
        quantize(s.QuantizeSettings(**given))
    with pytest.raises(InputError, match=message):
        mask(s.MaskSettings(**given))
    settings = s.TransferSettings(**given)
    task = open_task(settings, open_checkpoint(numbered), None, new_head=True)
    assert task.names == sorted(NEWS)
    with pytest.raises(InputError, match="unknown label"):
        evaluate(s.EvaluateSettings(model=str(numbered), data=rows))


def test_numbers_are_those_of_a_head_of_numbers(numbered: Path, tmp_path: Path) -> None:
    task = opened(numbered, write(tmp_path, texts([1, 0, 2])))
    assert (task.names, task.train.gold.tolist()) == (["0", "1", "2"], [1, 0, 2])
    made_up = opened(numbered, write(tmp_path, texts(["LABEL_2", "LABEL_0", "LABEL_1"])))
    assert made_up.train.gold.tolist() == [2, 0, 1]


def test_numbers_from_one(tiny_checkpoint: Make, tmp_path: Path) -> None:
    """Their order is that of classes without names; classes called 0, 1, 2 are others."""
    plain = tiny_checkpoint("bert", "classifier", labels=3)
    train = write(tmp_path, texts([1, 3, 2]))
    assert opened(plain, train).names == ["1", "2", "3"]
    with pytest.raises(InputError, match=r"the labels \(1, 2, 3\) cannot be matched"):
        opened(named(plain, tmp_path / "numbers", ["0", "1", "2"]), train)


def test_more_than_ten_made_up_names_are_in_order(tiny_checkpoint: Make, tmp_path: Path) -> None:
    plain = tiny_checkpoint("bert", "classifier", labels=12)
    task = opened(plain, write(tmp_path, texts([f"LABEL_{i}" for i in range(12)] * 2)))
    assert task.train.gold.tolist() == [*range(12)] * 2  # LABEL_10 is sorted before LABEL_2


def test_names_of_a_table_are_those_of_its_numbers(numbered: Path, tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=NEWS)
    )
    rows = {"text": ["a kettle"] * 3, "label": [2, 0, 1]}
    train = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(train)
    task = opened(numbered, train)
    assert (task.names, task.train.gold.tolist()) == (NEWS, [2, 0, 1])


def test_labels_of_several_and_a_head_of_numbers(numbered: Path, tmp_path: Path) -> None:
    some = [{"text": "a kettle", "labels": labels} for labels in (NEWS[:1], NEWS[1:], [])]
    with pytest.raises(InputError, match=REFUSED):
        opened(numbered, write(tmp_path, some))
    ids = [{"text": "a kettle", "labels": labels} for labels in ([2], [1, 0], [])]
    assert opened(numbered, write(tmp_path, ids)).train.gold.tolist() == [
        *([0, 0, 1], [1, 1, 0], [0, 0, 0])
    ]


def taught(student: Path, teacher: Path, train: str, out: Path) -> None:
    settings = {"model": str(student), "teacher": str(teacher), "train": train, "out": str(out)}
    transfer(s.TransferSettings.model_validate({**settings, **COMMON}))


def test_a_teacher_of_numbers_teaches_numbers(
    numbered: Path, news: Path, tiny_checkpoint: Make, tmp_path: Path
) -> None:
    names = write(tmp_path, texts(NEWS * 3), "names.jsonl")
    base, out = tiny_checkpoint("bert", "base"), tmp_path / "out"
    for student in (base, news):
        with pytest.raises(InputError, match="cannot be matched to the classes .* or fine-tune it"):
            taught(student, numbered, names, out)
    ids = write(tmp_path, texts([0, 1, 2] * 3), "ids.jsonl")
    for number, student in enumerate((base, numbered, news)):
        taught(student, numbered, ids, tmp_path / f"out{number}")


def test_a_teacher_of_numbers_and_a_table_with_names(
    numbered: Path, news: Path, tiny_checkpoint: Make, tmp_path: Path
) -> None:
    """Its ids are those of a new head; one with the same names in another order has others."""
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=sorted(NEWS))
    )
    rows = {"text": ["a kettle"] * 9, "label": [2, 0, 1] * 3}
    train = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(train)
    taught(tiny_checkpoint("bert", "base"), numbered, train, tmp_path / "out")
    with pytest.raises(InputError, match="the teacher's labels are 0, 1, 2, the task's World, Spo"):
        taught(news, numbered, train, tmp_path / "other")


def test_tags_are_not_matched_to_a_head_of_numbers(tagger: Path, tmp_path: Path) -> None:
    plain = named(tagger, tmp_path / "plain", ["LABEL_0", "LABEL_1", "LABEL_2"])
    rows = [{"tokens": ["the", "baker", "x"], "tags": TAGS}] * 4
    with pytest.raises(InputError, match=r"the labels \(O, B-WHO, I-WHO\) cannot be matched"):
        opened(plain, write(tmp_path, rows))
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        tags=datasets.List(datasets.ClassLabel(names=["I-WHO", "O", "B-WHO"])),
    )
    ids = {"tokens": [["the", "baker", "x"]] * 4, "tags": [[1, 2, 0]] * 4}
    train = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict(ids, features=features).to_parquet(train)
    task = opened(plain, train)
    assert (task.names, task.train.gold[0]) == (["I-WHO", "O", "B-WHO"], TAGS)


def test_tags_are_those_of_the_head(tagger: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "baker"], "tags": ["O", "B-WHO"]}] * 4
    task = opened(tagger, write(tmp_path, rows))
    assert task.names == TAGS  # sorted they would stand otherwise, and I-WHO does not occur
    numbers = [{"tokens": ["the", "baker"], "tags": [0, 1]}] * 4
    assert opened(tagger, write(tmp_path, numbers)).train.gold[0] == ["O", "B-WHO"]
    others = [{"tokens": ["the", "baker"], "tags": ["O", "B-GENE"]}] * 4
    with pytest.raises(InputError, match="4 tags are none of those of the head"):
        opened(tagger, write(tmp_path, others))


def test_numbers_that_nothing_names_are_no_tags(tiny_checkpoint: Make, tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "baker"], "tags": [0, 1]}] * 4
    with pytest.raises(InputError, match="tags are numbers without names.* write the tags themse"):
        opened(tiny_checkpoint("bert", "base"), write(tmp_path, rows))


def test_what_is_inherited_is_recorded(tiny_checkpoint: Make, tmp_path: Path) -> None:
    rows = [{"review": f"{i} kettles", "stars": i % 2, "text": "-", "label": 0} for i in range(16)]
    train, out = write(tmp_path, rows), str(tmp_path / "out")
    model, columns = str(tiny_checkpoint("bert", "base")), {"text": "review", "label": "stars"}
    transfer(s.TransferSettings(model=model, out=out, train=train, **columns, **COMMON))
    again = s.QuantizeSettings(model=out, out=str(tmp_path / "int8"), train=train, steps=1)
    record = quantize(again).provenance["task"]
    assert (record["text"], record["label"], record["max_length"]) == ("review", "stars", 16)


@pytest.mark.parametrize(("asked", "stride"), [(None, 6), (0, 0), (128, 128)])
def test_what_is_asked_for_comes_before_what_was_trained(
    tiny_checkpoint: Make, tmp_path: Path, asked: int | None, stride: int
) -> None:
    """Also where it is what it would be without any record."""
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("bert", "base"), model)
    (model / "prunella.json").write_text(json.dumps({"task": {"stride": 6, "max_length": 24}}))
    rows = [{"tokens": ["the", "baker"], "tags": ["O", "B-WHO"]}] * 4
    settings = s.TransferSettings(
        model=str(model), out="out", train=write(tmp_path, rows), stride=asked
    )
    reading = open_task(settings, open_checkpoint(model), None).train.reading
    assert (reading.stride, reading.max_length) == (stride, 24)
    plain = open_checkpoint(tiny_checkpoint("bert", "base"))
    usual = open_task(settings.model_copy(update={"stride": None}), plain, None)
    assert usual.train.reading.stride == 128


@pytest.mark.parametrize("recorded", [None, False])
def test_whether_there_may_be_no_answer_is_seen_in_the_rows(
    tiny_checkpoint: Make, tmp_path: Path, recorded: bool | None
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("bert", "base"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"architectures": ["BertForQuestionAnswering"]})
    )
    if recorded is not None:
        (model / "prunella.json").write_text(json.dumps({"task": {"no_answer": recorded}}))
    rows = [
        {"question": "Who?", "context": "the baker", "answers": {"text": a, "answer_start": b}}
        for a, b in ((["baker"], [4]), ([], []))
    ]
    settings = s.EvaluateSettings(model=str(model), data=write(tmp_path, rows))
    checkpoint = open_checkpoint(model)
    _, deciding = open_for_evaluation(settings, checkpoint, load_config(checkpoint))
    assert deciding.no_answer is (recorded is None)


def test_the_recorded_metric_is_that_of_evaluate(tiny_checkpoint: Make, tmp_path: Path) -> None:
    """Training in bf16 computes other logits than a checkpoint gives when it is loaded."""
    scores = [{**row, "label": i / 7} for i, row in enumerate(texts([0] * 16))]
    train, out = write(tmp_path, scores), str(tmp_path / "out")
    common = {**COMMON, "precision": "bf16", "train": train, "validation": train}
    model = str(tiny_checkpoint("bert", "base"))
    recorded = transfer(s.TransferSettings(model=model, out=out, **common)).metrics
    said = evaluate(s.EvaluateSettings(model=out, data=train, resamples=10, threads=1))
    assert recorded["mse"] == pytest.approx(said.metrics["mse"], rel=1e-5)
    assert np.isfinite(recorded["mse"])


@pytest.mark.parametrize(
    ("next_rows", "head"),
    [
        (texts(["up", "down"] * 8), "SequenceClassification"),
        (texts(["World", "Sports", "Business"] * 5, "topic"), "SequenceClassification"),
        ([{"tokens": ["the", "baker"], "tags": ["O", "B-WHO"]}] * 8, "TokenClassification"),
    ],
)
def test_another_task_has_a_head_of_its_own(
    news: Path, tmp_path: Path, next_rows: list[dict[str, Any]], head: str
) -> None:
    """The encoder is what the first task made of it, its zeros locked; columns are found anew."""
    first = str(tmp_path / "first")
    sparse = tmp_path / "sparse"
    shutil.copytree(news, sparse)
    weights = load_file(sparse / "model.safetensors")
    matrix = "bert.encoder.layer.0.intermediate.dense.weight"
    weights[matrix].view(-1)[::2] = 0
    save_file(weights, sparse / "model.safetensors", {"format": "pt"})
    rows = write(tmp_path, texts([NEWS[i % 3] for i in range(16)], "topic"), "first.jsonl")
    asked = {"text": "text", "label": "topic", "kind": "classification"}
    transfer(s.TransferSettings(model=str(sparse), out=first, train=rows, **COMMON, **asked))
    further = write(tmp_path, next_rows, "next.jsonl")
    label = {"label": "topic"} if "topic" in next_rows[0] else {}
    settings = s.TransferSettings(
        model=first,
        out=str(tmp_path / "next"),
        train=further,
        new_head=True,
        seed=5,
        learning_rate=1e-9,
        **COMMON,
        **label,
    )
    transfer(settings)
    before, after = (load_file(Path(f) / "model.safetensors") for f in (first, settings.out))
    assert open_checkpoint(settings.out).config["architectures"] == [f"BertFor{head}"]
    encoder = [name for name in after if name.startswith("bert.")]
    assert matrix in encoder and "classifier.weight" in after
    for name in encoder:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    assert (after[matrix].view(-1)[::2] == 0).all()
    old, new = before["classifier.weight"], after["classifier.weight"]
    assert old.shape != new.shape or not torch.allclose(old, new, atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["up", "down"], "unknown label 'down', 'up'"),
        (["a", "b", "c", "d"], "its head has 3 outputs, the task 4"),
    ],
)
def test_a_head_of_another_task_is_refused_and_the_way_out_is_told(
    news: Path, tmp_path: Path, labels: list[Any], message: str
) -> None:
    rows = write(tmp_path, texts(labels * 4))
    settings = s.TransferSettings(model=str(news), out=str(tmp_path / "o"), train=rows, **COMMON)
    with pytest.raises(InputError, match=f"{message}.*transfer --new-head"):
        transfer(settings)
