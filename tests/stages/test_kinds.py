"""Every kind of task through all stages: taught, pruned, in 8 bits, packed, served as evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from stages.tiny import EVERYTHING, arrays, zeros

import prunella
from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.models import load_finished
from prunella.packing import pack
from prunella.stages import task as task_stage
from prunella.stages.evaluate import evaluate
from prunella.stages.examples import open_for_evaluation, predict
from prunella.stages.quantize import quantize
from prunella.stages.transfer import transfer

Make = Callable[..., Path]
WHO = "baker captain doctor farmer hunter judge king lawyer miller painter queen sailor".split()
WHERE = "attic bridge castle forest garden harbour island kitchen market palace river".split()
KINDS = (
    "multi-label",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "classification",
)


def row(kind: str, i: int) -> dict[str, Any]:
    """Row i of a task that asks who is where."""
    who, where, other = WHO[i % 12], WHERE[(i * 5) % 11], WHO[(i + 5) % 12]
    first, second = f"The {who} sleeps in the {where} .", f"The {other} does not . "
    if kind == "multi-label":
        labels = [name for name in ("baker", "king") if name in (who, other)]
        return {"text": f"{first} {second}", "labels": labels}
    if kind == "classification":
        return {"text": f"{first} {second}", "label": "north" if i % 4 else "south"}
    if kind == "token-classification":
        words = f"{first} {second * (i % 3)}".split()
        tags = ["B-WHO" if w in WHO else "B-WHERE" if w in WHERE else "O" for w in words]
        tags = ["I-WHERE" if i and tags[i - 1] == "B-WHERE" else t for i, t in enumerate(tags)]
        return {"tokens": words, "tags": tags}
    if kind == "question-answering":
        context = f"{second * (i % 3)} {first} {second * (i % 4)}"
        found = [] if i % 5 == 4 else [{"text": who, "answer_start": context.index(who)}]
        return {"id": f"q{i}", "question": "Who sleeps ?", "context": context, "answers": found}
    ends = [f"in the {where} .", "on a cloud .", "not ."][: 2 + i % 2]
    return {"text": f"The {who} sleeps", "choices": ends[::-1] if i % 3 else ends, "label": i % 2}


def write(folder: Path, kind: str, count: int = 40) -> str:
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row(kind, i)) + "\n" for i in range(count)))
    return str(path)


@pytest.fixture(scope="module")
def sparse(tiny_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random encoder with every other weight gone."""
    from transformers import AutoModel, AutoTokenizer

    base = tiny_checkpoint("bert", "base")
    folder = tmp_path_factory.mktemp("sparse")
    model = AutoModel.from_pretrained(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embeddings" not in name:
                weight.view(-1)[::2] = 0
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


class Chain:
    """A dense teacher, a sparse student taught by it, its 8-bit form, and that packed."""

    def __init__(self, kind: str, folder: Path, dense: str, sparse: str) -> None:
        self.kind, self.folder, self.sparse = kind, folder, sparse
        self.rows = write(folder, kind)
        common: dict[str, Any] = {
            "train": self.rows,
            "validation": self.rows,
            "steps": 4,
            "batch_size": 8,
            "max_length": 24,
            "stride": 6,
            "precision": "fp32",
            "threads": 1,
        }
        self.dense = transfer(
            s.TransferSettings(model=dense, out=self.out("dense"), learning_rate=1e-3, **common)
        )
        taught = {**common, "teacher": self.out("dense"), "distillation": EVERYTHING}
        self.task = transfer(s.TransferSettings(model=sparse, out=self.out("task"), **taught))
        del taught["max_length"], taught["stride"]  # as trained
        self.int8 = quantize(
            s.QuantizeSettings(model=self.out("task"), out=self.out("int8"), **taught)
        )
        pack(s.PackSettings(model=self.out("int8"), out=self.out("model.prn")))

    def out(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module", params=KINDS)
def chain(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Make,
    sparse: str,
) -> Chain:
    folder = tmp_path_factory.mktemp(request.param)
    return Chain(request.param, folder, str(tiny_checkpoint("bert", "base")), sparse)


HEADS = {
    "multi-label": "SequenceClassification",
    "classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "multiple-choice": "MultipleChoice",
}
FIGURES = {
    "multi-label": "f1",
    "classification": "accuracy",
    "token-classification": "f1",
    "question-answering": "exact",
    "multiple-choice": "accuracy",
}


def test_the_kind_is_found_and_recorded(chain: Chain) -> None:
    for result in (chain.dense, chain.task, chain.int8):
        record = result.provenance["task"]
        assert record["kind"] == chain.kind
        assert (record["max_length"], record["stride"]) == (24, 6)
        assert (record["train_rows"], record["validation_rows"]) == (40, 40)
        assert 0 <= result.metrics[FIGURES[chain.kind]] <= 1
        assert record["metric"] in result.metrics
    config = open_checkpoint(chain.out("int8")).config
    assert config["architectures"] == [f"BertFor{HEADS[chain.kind]}"]
    if chain.kind == "question-answering":
        assert record["no_answer"] is True
    if chain.kind == "token-classification":
        assert record["labels"] == ["O", "B-WHERE", "B-WHO", "I-WHERE"]


def test_zeros_stay_and_everything_else_learns(chain: Chain) -> None:
    before = {
        name.removeprefix("bert."): w for name, w in zeros(open_checkpoint(chain.sparse)).items()
    }
    for name in ("task", "int8"):
        after = {
            n.removeprefix("bert."): w for n, w in zeros(open_checkpoint(chain.out(name))).items()
        }
        assert after.keys() <= before.keys()  # token and span heads have no pooler
        assert all(after[matrix][before[matrix]].all() for matrix in after)
    old, new = arrays(chain.out("task")), arrays(chain.out("int8"))
    assert not any(np.array_equal(old[name], new[name]) for name in old if "LayerNorm" in name)


def test_evaluation_says_what_training_said(chain: Chain) -> None:
    found = evaluate(
        s.EvaluateSettings(model=chain.out("int8"), data=chain.rows, resamples=20, threads=1)
    )
    assert (found.kind, found.rows) == (chain.kind, 40)
    figure = FIGURES[chain.kind]
    assert found.metrics[figure] == chain.int8.metrics[figure]


def test_a_packed_file_is_evaluated_too(chain: Chain) -> None:
    settings = {"data": chain.rows, "resamples": 20, "threads": 1}
    packed = evaluate(s.EvaluateSettings(model=chain.out("model.prn"), **settings))
    figure = FIGURES[chain.kind]
    # The engine rounds otherwise, and a few of 40 rows lie near the border after so few steps.
    assert packed.kind == chain.kind
    assert packed.metrics[figure] == pytest.approx(chain.int8.metrics[figure], abs=0.1)


def test_the_engine_says_what_evaluation_says(chain: Chain) -> None:
    engine = prunella.load(chain.out("model.prn"), threads=1)
    assert engine.task.name == chain.kind
    checkpoint = open_checkpoint(chain.out("int8"))
    network: Any = load_finished(checkpoint)
    settings = s.EvaluateSettings(model=chain.out("int8"), data=chain.rows)
    examples, deciding = open_for_evaluation(settings, checkpoint, network.config)
    predictions = predict(network, examples, deciding)
    rows = [row(chain.kind, i) for i in range(40)]
    if chain.kind == "token-classification":
        served = engine([" ".join(r["tokens"]) for r in rows])
        asked = [_entities(r["tokens"], v) for r, v in zip(rows, predictions.values, strict=True)]
        found = [[(e.label, e.start, e.end) for e in entities] for entities in served]
    elif chain.kind == "multiple-choice":
        served = engine([{"text": r["text"], "choices": r["choices"]} for r in rows])
        for choice, detail in zip(served, predictions.details, strict=True):
            likely = softmax(detail["logits"]).tolist()  # nearly equal ones, after so few steps
            assert choice.scores == pytest.approx(likely, abs=1e-3)
        return
    elif chain.kind == "question-answering":
        served = engine([(r["question"], r["context"]) for r in rows])
        asked, found = predictions.values, [answer.text for answer in served]
        assert "" in found or any(found)
    else:
        served = engine([r["text"] for r in rows])
        asked = [detail["prediction"] for detail in predictions.details]
        if chain.kind == "multi-label":
            found = [sorted(one.labels) for one in served]
            asked = [sorted(labels) for labels in asked]
        else:
            found = [one.label for one in served]
    same = sum(a == b for a, b in zip(asked, found, strict=True))
    assert same >= 39  # a tie within the engine's rounding is allowed


def test_a_file_is_predicted_as_it_is_evaluated(chain: Chain, tmp_path: Path) -> None:
    """Row by row, with the columns, lengths and windows of training, none of them typed again."""
    packed, asked, served = chain.out("model.prn"), tmp_path / "e.jsonl", tmp_path / "p.jsonl"
    how = ("--threads", "1")
    given = ("--data", chain.rows, "--predictions", str(asked), "--resamples", "10")
    assert main(["evaluate", packed, *given, *how]) == 0
    assert main(["predict", packed, "--file", chain.rows, "--out", str(served), *how]) == 0
    wanted, found = (
        [json.loads(line) for line in f.read_text().splitlines()] for f in (asked, served)
    )
    if chain.kind == "token-classification":
        shown = [_entities(row["tokens"], row["prediction"]) for row in wanted]
        said = [[(e["label"], e["start"], e["end"]) for e in row["entities"]] for row in found]
    else:
        shown = [row["prediction"] for row in wanted]
        key = {"question-answering": "text", "multiple-choice": "index", "multi-label": "labels"}
        said = [row[key.get(chain.kind, "label")] for row in found]
    if chain.kind == "multi-label":
        shown, said = ([sorted(labels) for labels in rows] for rows in (shown, said))
    assert shown == said


def test_columns_are_recorded_as_they_were_found(chain: Chain) -> None:
    columns = {
        "multi-label": ("text", None, "labels", None),
        "token-classification": ("tokens", None, "tags", None),
        "question-answering": ("question", "context", "answers", None),
        "multiple-choice": ("text", None, "label", "choices"),
        "classification": ("text", None, "label", None),
    }
    record = chain.task.provenance["task"]
    assert tuple(record["columns"].values()) == columns[chain.kind]
    assert record["text"] is None  # so that other rows may have other names


def _entities(words: list[str], tags: list[str]) -> list[tuple[str, int, int]]:
    """Entities as the engine reads tags: neighbours of one type, anew at each B-."""
    found: list[tuple[str, int, int]] = []
    place, before = 0, None
    for word, tag in zip(words, tags, strict=True):
        kind = tag[2:] if tag != "O" else None
        if kind and kind == before and not tag.startswith("B-"):
            found[-1] = (kind, found[-1][1], place + len(word))
        elif kind:
            found.append((kind, place, place + len(word)))
        before, place = kind, place + len(word) + 1
    return found


@pytest.mark.parametrize("kind", ["token-classification", "question-answering", "multiple-choice"])
def test_a_killed_run_ends_with_the_same_bits(
    kind: str, tmp_path: Path, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rows = str(tiny_checkpoint("distilbert", "base")), write(tmp_path, kind)
    teacher = str(tmp_path / "teacher")
    common: dict[str, Any] = {
        "train": rows,
        "steps": 6,
        "batch_size": 4,
        "max_length": 32,
        "precision": "fp32",
        "threads": 1,
        "save_every": 2,
    }
    transfer(s.TransferSettings(model=base, out=teacher, **common))
    taught = {**common, "teacher": teacher, "distillation": EVERYTHING}
    transfer(s.TransferSettings(model=base, out=str(tmp_path / "whole"), **taught))

    class Killed(Exception):
        pass

    calls = 0
    original = task_stage.TaskLoss.__call__

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(task_stage.TaskLoss, "__call__", dying)
        transfer(s.TransferSettings(model=base, out=str(tmp_path / "again"), **taught))
    torch.manual_seed(99)
    transfer(s.TransferSettings(model=base, out=str(tmp_path / "again"), **taught))
    one, two = arrays(tmp_path / "whole"), arrays(tmp_path / "again")
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_balanced_classes_count_alike(tmp_path: Path, tiny_checkpoint: Make) -> None:
    base, rows = str(tiny_checkpoint("bert", "base")), write(tmp_path, "classification")
    common: dict[str, Any] = {"train": rows, "steps": 3, "max_length": 24, "threads": 1}
    found = [
        transfer(
            s.TransferSettings(model=base, out=str(tmp_path / how), class_weights=how, **common)
        )
        for how in ("none", "balanced")
    ]
    plain, balanced = (arrays(result.out) for result in found)
    assert not np.array_equal(plain["classifier.bias"], balanced["classifier.bias"])
    questions = write(tmp_path, "question-answering")
    with pytest.raises(InputError, match="question-answering has no classes to balance"):
        transfer(
            s.TransferSettings(
                model=base,
                out=str(tmp_path / "no"),
                class_weights="balanced",
                **common | {"train": questions},
            )
        )


def test_a_head_of_another_kind_is_refused(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if chain.kind != "token-classification":
        pytest.skip("one head is enough")
    rows = write(tmp_path, "classification")
    command = ["transfer", "--model", chain.out("dense"), "--train", rows, "--out"]
    assert main([*command, str(tmp_path / "out"), "--kind", "classification"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its head is for another kind of task (TokenClassification) than classification" in said


def test_usual_lengths_give_way_to_what_the_model_takes(
    tmp_path: Path, tiny_checkpoint: Make
) -> None:
    base = str(tiny_checkpoint("bert", "base"))
    result = transfer(
        s.TransferSettings(
            model=base,
            out=str(tmp_path / "out"),
            train=write(tmp_path, "question-answering"),
            steps=1,
            threads=1,
        )
    )
    assert result.provenance["task"]["max_length"] == 64  # not 384
