"""What sub-networks compute: CKA where it is known, and models on text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study.test_study import of
from transformers import AutoModel, AutoModelForSequenceClassification

from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.models import load_tokenizer
from prunella.study.outputs import Likeness, Outputs, Products
from prunella.study.records import reads_pairs
from prunella.study.run import study
from prunella.tasks.classification import Classification
from prunella.tasks.multi_label import MultiLabel
from prunella.tasks.regression import Regression
from prunella.tasks.texts import TextRows

Make = Callable[..., Path]
TEXTS = ["the first text", "a second one", "and one more of them", "the end"] * 4


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def linear_cka(x: torch.Tensor, y: torch.Tensor, batch: int = 16) -> float:
    """Of one layer each, centred or not, in batches."""
    products = Products()
    for part in range(0, len(x), batch):
        products.add({3: [x[part : part + batch]], 5: [y[part : part + batch]]})
    (found,) = products.cka(3, 5)
    return found


def test_cka_by_the_definition_with_kernels() -> None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels."""
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


def test_cka_of_uncentred_outputs() -> None:
    torch.manual_seed(2)
    x, y = torch.randn(50, 8).double(), torch.randn(50, 5).double()
    shifted = linear_cka(x + 100, y - torch.arange(5.0), batch=7)
    assert shifted == pytest.approx(linear_cka(x, y, batch=50))
    assert linear_cka(x, torch.full((50, 3), 0.1).double()) == 0


@pytest.fixture
def model(tiny_checkpoint: Make, tmp_path: Path) -> Make:
    """`model(name, task=..., data=...)`: a copy of a tiny classifier with a record."""

    def make(
        name: str,
        task: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        **kind: Any,
    ) -> Path:
        folder = shutil.copytree(tiny_checkpoint("bert", "classifier", **kind), tmp_path / name)
        if task is not None:
            record = {
                "stage": "transfer",
                "settings": {"train": "train.jsonl"},
                "identity": {"data": data or {}},
                "task": task,
            }
            (folder / "prunella.json").write_text(json.dumps(record))
        read = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(read | (config or {})))
        return folder

    return make


SINGLE = {"kind": "classification", "labels": ["0", "1"], "pairs": False}
ROWS = {"train": "a" * 64, "validation": "b" * 64}


def outputs_of(*folders: Path, texts: str) -> dict[str, Any]:
    return study(of(*folders, text=texts, spectra=False)).to_json()["outputs"]


def test_models_on_text(tiny_checkpoint: Make, model: Make, texts: str) -> None:
    same, copy = (model(name, SINGLE, ROWS) for name in ("same", "copy"))
    encoder = tiny_checkpoint("bert", "base")
    found = study(of(same, copy, encoder, text=texts, texts=10)).to_json()["outputs"]
    assert found["texts"] == 10
    assert found["unasked"] == {}
    by_pair = {(p["first"], p["second"]): p for p in found["pairs"]}
    alike = by_pair[same.name, "copy"]
    assert alike["cka"] == pytest.approx([1.0] * len(alike["cka"]))
    assert len(alike["cka"]) == 3  # embeddings and two layers
    assert alike["same_answers"] == 1.0
    other = by_pair[same.name, encoder.name]
    assert other["same_answers"] is None


def test_models_of_few_positions(model: Make, texts: str, tmp_path: Path) -> None:
    few = model("few", SINGLE, ROWS)  # it takes 64 tokens
    other = shutil.copytree(few, tmp_path / "other")
    long = tmp_path / "long.txt"
    long.write_text(Path(texts).read_text().replace("\n", " ") * 5 + "\n")
    found = outputs_of(few, other, texts=str(long))
    assert found["pairs"][0]["cka"] == pytest.approx([1.0] * 3)


def test_special_tokens_do_not_count(tiny_checkpoint: Make, texts: str) -> None:
    folders = [tiny_checkpoint("bert", "base", seed=seed) for seed in (0, 1)]
    found = outputs_of(*folders, texts=texts)
    tokenizer = load_tokenizer(open_checkpoint(folders[0]))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert found["tokens"] == sum(map(len, ids))
    layers = []
    for folder in folders:
        encoder = AutoModel.from_pretrained(folder).eval()
        given = [torch.tensor([tokenizer(text)["input_ids"]]) for text in TEXTS]
        with torch.inference_mode():
            rows = torch.cat([encoder(i).last_hidden_state[0, 1:-1] for i in given]).double()
        layers.append(rows - rows.mean(0))
    assert found["pairs"][0]["cka"][-1] == pytest.approx(linear_cka(*layers), abs=1e-4)


def test_a_task_is_told_by_records_and_not_by_labels(model: Make, texts: str) -> None:
    """The labels of all of these are LABEL_0 and LABEL_1, and all are the same model."""
    folders = [
        model("first", SINGLE, ROWS),
        model("more-rows", SINGLE, ROWS | {"train": "c" * 64}),
        model("other-data", SINGLE, {"train": "d" * 64, "validation": "e" * 64}),
        model("other-labels", SINGLE | {"labels": ["no", "yes"]}, ROWS),
    ]
    found = outputs_of(*folders, texts=texts)
    answers = {(p["first"], p["second"]): p["same_answers"] for p in found["pairs"]}
    assert answers.pop(("first", "more-rows")) == 1.0
    assert set(answers.values()) == {None}


def test_regressors_of_one_task_correlate(model: Make, texts: str) -> None:
    task = {"kind": "regression", "labels": [], "pairs": False}
    scores = {"labels": 1, "config": {"problem_type": "regression"}}
    folders = [
        model("a", task, ROWS, **scores),
        model("b", task, ROWS, seed=1, **scores),
        model("c", task, {"train": "f" * 64}, **scores),
    ]
    first, *others = outputs_of(*folders, texts=texts)["pairs"]
    assert -1 <= first["r"] < 1 and first["same_answers"] is None
    assert [pair["r"] for pair in others] == [None, None]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (SINGLE | {"pairs": True}, "reads pairs of texts"),
        (SINGLE, None),
        (SINGLE | {"pairs": None}, "no record says"),
        ({"kind": "classification", "labels": ["0", "1"], "pair": "b"}, "reads pairs of texts"),
        ({"kind": "classification", "labels": ["0", "1"], "text": "a", "pair": None}, None),
        ({"kind": "classification", "labels": ["0", "1"]}, "no record says"),
        (None, "no record says"),
    ],
)
def test_models_are_asked_only_what_they_read(
    model: Make, tmp_path: Path, texts: str, task: dict[str, Any] | None, reason: str | None
) -> None:
    folders, out = [model(name, task, ROWS) for name in ("a", "b")], tmp_path / "page.html"
    found = study(of(*folders, text=texts, spectra=False, out=str(out))).to_json()["outputs"]
    (pair,) = found["pairs"]
    assert pair["cka"][-1] == pytest.approx(1)
    if reason is None:
        assert pair["same_answers"] == 1.0 and not found["unasked"]
        return
    assert pair["same_answers"] is None
    assert found["unasked"].keys() == {"a", "b"}
    assert reason in found["unasked"]["a"]
    assert f"No predictions of a, b are compared: {found['unasked']['a']}." in out.read_text()


def test_what_is_not_computed_is_told() -> None:
    pairs = [Likeness(0, 2, [1.0], None, None), Likeness(0, 3, [1.0], None, None)]
    found = Outputs(2, 9, pairs, {0: "one reason", 2: "another", 3: "one reason"})
    assert found.told(["a", "b", "c", "d", "e"]) == [
        "Masks and packed files compute nothing here: b, e.",
        "No predictions of a, d are compared: one reason.",
        "No predictions of c are compared: another.",
    ]


@pytest.mark.parametrize("kind", [Classification(), MultiLabel(), Regression()])
@pytest.mark.parametrize("pairs", [None, ["c", "d"]])
def test_kinds_record_whether_they_read_pairs(kind: Any, pairs: list[str] | None) -> None:
    """Columns that were found by their usual names are not in the record."""
    rows = TextRows(["a", "b"], pairs, np.zeros(2), [])
    assert reads_pairs({"task": kind.traits(rows)}) == (pairs is not None)


def test_a_data_set_of_the_hub_says_whether_it_has_pairs() -> None:
    task = {"kind": "classification", "labels": ["0", "1"]}
    records = [{"task": task, "settings": {"train": f"hub:{n}"}} for n in ("stsb", "glue/sst2")]
    assert [reads_pairs(record) for record in records] == [True, False]


def test_several_labels_are_compared_as_sets(model: Make, texts: str) -> None:
    """One has more labels than the other, of which the likeliest is the same."""
    task = {"kind": "multi-label", "labels": ["x", "y", "z"], "pairs": False}
    several = {"labels": 3, "config": {"problem_type": "multi_label_classification"}}
    few, many, copy = (model(name, task, ROWS, **several) for name in ("few", "many", "copy"))
    head = AutoModelForSequenceClassification.from_pretrained(many)
    with torch.no_grad():
        head.classifier.bias.fill_(100)
    head.save_pretrained(many)
    first, same, _ = outputs_of(few, many, copy, texts=texts)["pairs"]
    assert (first["second"], same["second"]) == ("many", "copy")
    assert (first["same_answers"], same["same_answers"]) == (0, 1)


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
