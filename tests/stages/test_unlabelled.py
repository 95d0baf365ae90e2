"""Further rows that the teacher alone answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages.test_kinds import KINDS, WHERE, row

from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.data.task_batches import collate
from prunella.distillation import Wanted
from prunella.errors import InputError
from prunella.stages.evaluate import evaluate
from prunella.stages.mask import mask
from prunella.stages.quantize import quantize
from prunella.stages.task import Task, load_task_model, open_task
from prunella.stages.transfer import transfer
from prunella.training.task import TaskLoss
from prunella.workspace import identity_of

Make = Callable[..., Path]
ALL = (*KINDS, "regression")
LABELS = {"token-classification": "tags", "question-answering": "answers", "multi-label": "labels"}
COMMON: dict[str, Any] = {
    "steps": 2,
    "batch_size": 8,
    "max_length": 24,
    "stride": 6,
    "precision": "fp32",
    "threads": 1,
}
ONE_SIGNAL = s.DistillationSettings(logits=1.0)


def rows_of(kind: str, numbers: range) -> list[dict[str, Any]]:
    if kind != "regression":
        return [row(kind, i) for i in numbers]
    found = [row("classification", i) for i in numbers]
    return [one | {"label": i % 7 / 2} for i, one in zip(numbers, found, strict=True)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def unlabelled(kind: str, numbers: range, instead: Any = None) -> list[dict[str, Any]]:
    """Rows without their label, or with nonsense as it."""
    label = LABELS.get(kind, "label")
    found = [{k: v for k, v in one.items() if k != label} for one in rows_of(kind, numbers)]
    return [one | {label: instead} for one in found] if instead is not None else found


@pytest.fixture(params=ALL)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    kind = request.param
    return {
        "kind": kind,
        "train": write(tmp_path / "train.jsonl", rows_of(kind, range(20))),
        "more": write(tmp_path / "more.jsonl", unlabelled(kind, range(20, 33))),
        "told": write(tmp_path / "told.jsonl", rows_of(kind, range(20, 33))),
        "wrong": write(tmp_path / "wrong.jsonl", unlabelled(kind, range(20, 33), "no label")),
    }


def opened(model: Path, files: dict[str, str], *further: str) -> Task:
    settings = s.TransferSettings(
        model=str(model),
        teacher=str(model),
        out="out",
        train=files["train"],
        kind=files["kind"],
        unlabelled=tuple(files[name] for name in further),
        **COMMON,
    )
    return open_task(settings, open_checkpoint(model), open_checkpoint(model))


def test_texts_are_read_as_those_with_labels_and_labels_do_not_count(
    tiny_checkpoint: Make, files: dict[str, str]
) -> None:
    base = tiny_checkpoint("bert", "base")
    plain = opened(base, files).train.encoded
    told = opened(base, files | {"train": files["told"]}).train.encoded
    for name in ("more", "wrong"):
        task = opened(base, files, name)
        assert len(task.unlabelled[0]) == 13
        assert len(task.learned) == len(plain) + len(told)
        for at, want in ((0, plain), (len(plain), told)):
            rows = np.arange(len(want))
            found, wanted = collate(task.learned, rows + at, 0), collate(want, rows, 0)
            compared = wanted.keys() - {"index", "example"} - ({"labels"} if at else set())
            assert all(torch.equal(found[key], wanted[key]) for key in compared)
            if "example" in wanted:
                assert torch.equal(found["example"] - found["example"][0], wanted["example"])
    twice = opened(base, files, "more", "more")
    assert len(twice.learned) == len(plain) + 2 * len(told)
    assert twice.train.encoded.labels.shape == plain.labels.shape


def loss_of(task: Task, model: Any, rows: list[int], labelled: int | None) -> torch.Tensor:
    of = TaskLoss(task.kind, 1.0, Wanted(True), ONE_SIGNAL, None, 1, labelled=labelled)
    return of(model, collate(task.learned, np.array(rows), 0))["labels"]


def test_rows_without_labels_count_in_the_mean_and_add_nothing_to_it(
    tiny_checkpoint: Make, files: dict[str, str]
) -> None:
    base = tiny_checkpoint("bert", "base")
    task = opened(base, files, "more")
    model = load_task_model(open_checkpoint(base), task).eval()
    n = len(task.train.encoded)
    together = task.train.encoded.together
    known, new = ([8, 9], [n, n + 1, n + 2]) if not together else ([0, 1], [n, n + 1])

    alone = loss_of(task, model, known, None)
    assert alone > 0
    torch.testing.assert_close(loss_of(task, model, known, n), alone)
    labels = [len(collate(task.learned, np.array(r), 0)["labels"]) for r in (known, known + new)]
    share = labels[0] / labels[1]  # tokens where these have labels, else rows
    for rows in (known + new, new + known):
        torch.testing.assert_close(
            loss_of(task, model, rows, n), share * alone, rtol=1e-4, atol=1e-5
        )
    nothing = loss_of(task, model, new, n)
    assert nothing == 0
    nothing.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_student_learns_what_the_teacher_answers_there(
    tiny_checkpoint: Make, tmp_path: Path
) -> None:
    """The labelled rows are all of one class but one; only the others tell them apart."""
    base = str(tiny_checkpoint("bert", "base"))
    told = [{"text": f"the king sleeps {w} ." * 2, "label": "a"} for w in WHERE]
    new = [{"text": f"the baker sleeps {w} ." * 2, "label": "b"} for w in WHERE]
    both = write(tmp_path / "both.jsonl", told + new)
    common = COMMON | {"steps": 60, "learning_rate": 3e-3, "dropout": 0.0}
    dense = str(tmp_path / "dense")
    transfer(s.TransferSettings(model=base, out=dense, train=both, **common))
    common |= {"train": write(tmp_path / "train.jsonl", [*told, told[0] | {"label": "b"}])}
    common |= {"teacher": dense, "labels": 0.0, "distillation": ONE_SIGNAL}
    texts = write(tmp_path / "more.jsonl", [{"text": one["text"]} for one in new])
    found = []
    for name, more in (("without", ()), ("with", (texts,))):
        out = str(tmp_path / name)
        settings = s.TransferSettings(model=base, out=out, unlabelled=more, **common)
        figures = transfer(settings).metrics
        assert figures.get("unlabelled_rows") == (len(new) if more else None)
        found.append(evaluate(s.EvaluateSettings(model=out, data=both)).metrics["accuracy"])
    assert found == [0.5, 1.0]


def test_all_stages_of_a_task_take_them(tiny_checkpoint: Make, tmp_path: Path) -> None:
    base = tiny_checkpoint("bert", "base")
    train = write(tmp_path / "train.jsonl", rows_of("question-answering", range(20)))
    more = [{k: v for k, v in one.items() if k != "answers"} for one in
            rows_of("question-answering", range(20, 30))]  # fmt: skip
    renamed = [{("sentence" if k == "context" else k): v for k, v in one.items()} for one in more]
    rows = {"train": train, "unlabelled": (write(tmp_path / "more.jsonl", renamed),)}
    dense, task = (str(tmp_path / name) for name in ("dense", "task"))
    transfer(s.TransferSettings(model=str(base), out=dense, train=train, **COMMON))
    taught = {**COMMON, **rows, "teacher": dense}
    made = [
        transfer(s.TransferSettings(model=str(base), out=task, **taught)),
        quantize(s.QuantizeSettings(model=task, out=str(tmp_path / "int8"), **taught)),
        mask(s.MaskSettings(model=str(base), out=str(tmp_path / "mask"), **taught)),
    ]
    assert [one.metrics["unlabelled_rows"] for one in made] == [10, 10, 10]
    assert all("unlabelled 1" in one.provenance["identity"]["data"] for one in made)
    again = s.TransferSettings(model=str(base), out=task, **taught)
    assert transfer(again).finished_before
    with pytest.raises(InputError, match=r"another run's checkpoint \(.*unlabelled"):
        transfer(again.model_copy(update={"unlabelled": ()}))
    write(tmp_path / "more.jsonl", renamed[:5])
    with pytest.raises(InputError, match=r"another run's checkpoint \(.*unlabelled 1"):
        transfer(again)


@pytest.mark.parametrize(
    ("known", "new", "share"),
    [  # 6 of 6 + 1 words; 1 of 2 rows, though 2 of 6 choices
        (
            {"tokens": "a baker does not sleep .".split(), "tags": ["O", "B-WHO", *"OOOO"]},
            {"tokens": ["king"]},
            6 / 7,
        ),
        (
            {"text": "The king", "choices": ["sleeps", "not"], "label": 1},
            {"text": "The queen", "choices": ["sleeps", "not", "in", "the"]},
            1 / 2,
        ),
    ],
)
def test_the_share_is_of_what_the_loss_is_the_mean_over(
    tiny_checkpoint: Make, tmp_path: Path, known: dict[str, Any], new: dict[str, Any], share: float
) -> None:
    base = tiny_checkpoint("bert", "base")
    kind = "token-classification" if "tokens" in known else "multiple-choice"
    files = {"kind": kind, "train": write(tmp_path / "a.jsonl", [known])}
    task = opened(base, files | {"more": write(tmp_path / "b.jsonl", [new])}, "more")
    model = load_task_model(open_checkpoint(base), task).eval()
    first = len(task.train.encoded)
    alone = loss_of(task, model, list(range(first)), None)
    both = loss_of(task, model, list(range(len(task.learned))), first)
    torch.testing.assert_close(both, share * alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [["1.5", "2", "other"], ["1.0", "2.0", "n/a"]])
def test_classes_whose_names_look_like_numbers(
    tiny_checkpoint: Make, tmp_path: Path, labels: list[str]
) -> None:
    told = [
        {"sentence": f"the {who} sleeps", "label": v}
        for who, v in zip(WHERE[:6], labels * 2, strict=True)
    ]
    files = {"kind": "classification", "train": write(tmp_path / "a.jsonl", told)}
    files["more"] = write(tmp_path / "b.jsonl", [{"sentence": "a", "text": "b"}])
    base = tiny_checkpoint("bert", "base")
    with pytest.raises(InputError, match=r"could be sentence or text.*'sentence', 'text' \("):
        opened(base, files, "more")  # the columns are those of the file
    files["more"] = write(tmp_path / "b.jsonl", [{"sentence": "a baker", "label": []}])
    assert len(opened(base, files, "more").learned) == len(told) + 1


def test_what_cannot_be_asked(tiny_checkpoint: Make, tmp_path: Path) -> None:
    base = tiny_checkpoint("bert", "base")
    train = write(tmp_path / "train.jsonl", rows_of("classification", range(8)))
    pairs = [{"sentence1": "a b", "sentence2": "c d"}]
    common: dict[str, Any] = {**COMMON, "model": str(base), "out": str(tmp_path / "out")}
    for more, message in (
        ({"teacher": None}, "only a teacher can answer.*--teacher"),
        ({"distillation": s.DistillationSettings()}, "teacher: nothing is learned from it"),
        ({"unlabelled": (write(tmp_path / "p.jsonl", pairs),)}, "p.jsonl: holds pairs of texts"),
        ({"unlabelled": (write(tmp_path / "q.jsonl", [{"body": "a"}]),)}, "q.jsonl.*the texts"),
        ({"unlabelled": (str(tmp_path / "none.jsonl"),)}, "no such file.*none.jsonl"),
    ):
        settings = {"teacher": str(base), "unlabelled": (train,), "train": train} | more
        with pytest.raises(InputError, match=message):
            transfer(s.TransferSettings(**(common | settings)))
    words = write(tmp_path / "words.jsonl", rows_of("token-classification", range(8)))
    for more, message in (
        ([{"text": "a b"}], "cannot tell which column holds the texts"),
        ([{"tokens": []}], "a list with an entry for each word.*row 1"),
    ):
        settings = {"teacher": str(base), "train": words}
        settings |= {"unlabelled": (write(tmp_path / "w.jsonl", more),)}
        with pytest.raises(InputError, match=message):
            transfer(s.TransferSettings(**(common | settings)))


@pytest.mark.parametrize("signal", ["logits", "hidden", "attention"])
def test_signals_are_refused_without_a_teacher(
    tiny_checkpoint: Make, tmp_path: Path, signal: str
) -> None:
    """They would count for nothing, without a word; those of the defaults do not count as given."""
    model = str(tiny_checkpoint("bert", "classifier", labels=2))
    common: dict[str, Any] = {**COMMON, "model": model, "out": str(tmp_path / "out"), "steps": 1}
    common["train"] = write(tmp_path / "train.jsonl", rows_of("classification", range(8)))
    given: dict[str, Any] = {"distillation": {signal: 0.5}}
    with pytest.raises(InputError, match="distillation: only a teacher .*--teacher, or leave"):
        transfer(s.TransferSettings(**common, **given, new_head=True))
    with pytest.raises(InputError, match="distillation: only a teacher .*--teacher, or leave"):
        quantize(s.QuantizeSettings(**common, **given))
    for preset in (None, "paper"):
        with pytest.raises(InputError, match="distillation: only a teacher .*--teacher, or leave"):
            mask(s.MaskSettings(**common, **given, preset=preset))
    transfer(s.TransferSettings(**common, distillation=s.DistillationSettings(), new_head=True))


def test_a_run_without_them_is_the_run_that_it_was_before_they_could_be_given() -> None:
    def identity(**more: Any) -> dict[str, Any]:
        settings = s.TransferSettings(model="m", out="o", train="t", **more)
        return identity_of("transfer", settings, {}, {})

    assert "unlabelled" not in identity()["settings"]
    assert identity()["sha256"] == identity(unlabelled=())["sha256"]
    assert identity(unlabelled=("a",))["sha256"] != identity()["sha256"]
