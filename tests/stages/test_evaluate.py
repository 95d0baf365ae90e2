"""evaluate: every kind of task, checkpoints and packed files, one model and two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.conftest import TAGS, Tiny, tiny  # noqa: F401  (a fixture)
from safetensors.numpy import load_file, save_file

from prunella.cli import main
from prunella.data.metrics import bootstrap, metrics, paired_bootstrap
from prunella.engine.model import load
from prunella.errors import InputError
from prunella.packing import pack
from prunella.settings import EvaluateSettings, PackSettings
from prunella.stages import askable as askable_stage
from prunella.stages.comparison import Answers, Comparison, compare
from prunella.stages.evaluate import Evaluation, evaluate

WORDS = "The baker admires the golden kettle in the castle before noon".split()
CONTEXT = " ".join(WORDS)
_QUESTIONS = (("Who?", "baker"), ("What?", "kettle"), ("Where?", "castle"), ("When?", "noon"))


def _texts(labels: list[Any]) -> list[dict[str, Any]]:
    return [
        {"text": " ".join(WORDS[i % 5 : i % 5 + 3]), "label": label}
        for i, label in enumerate(labels)
    ]


ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": _texts(["good", "bad", "bad"] * 8),
    "regression": _texts([i / 7 for i in range(24)]),
    "multi-label": [
        {"text": row["text"], "labels": ["red"] * (i % 2) + ["blue"] * (i % 3 > 0)}
        for i, row in enumerate(_texts([0] * 24))
    ],
    "token-classification": [
        {"tokens": WORDS[i % 4 :], "tags": ([*TAGS, *TAGS, "B-PER"])[i % 4 :]} for i in range(12)
    ],
    "question-answering": [
        {
            "question": question,
            "context": CONTEXT,
            "answers": {"text": [answer], "answer_start": [CONTEXT.index(answer)]},
        }
        for question, answer in _QUESTIONS * 3
    ],
}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("SequenceClassification", {"id2label": {0: "bad", 1: "good"}}),
    "regression": ("SequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "multi-label": (
        "SequenceClassification",
        {"id2label": {0: "red", 1: "blue"}, "problem_type": "multi_label_classification"},
    ),
    "token-classification": ("TokenClassification", {}),
    "question-answering": ("QuestionAnswering", {}),
}
Make = Callable[..., Tiny]


def _model(tiny: Make, kind: str, family: str = "bert", **config: Any) -> Tiny:  # noqa: F811
    head, own = HEADS[kind]
    return tiny(family, head, **{**own, **config})


def _write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _evaluate(model: Path, data: str, **settings: Any) -> Any:
    values = {"model": str(model), "data": data, "resamples": 50, **settings}
    return evaluate(EvaluateSettings.model_validate(values))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_checkpoint_and_its_packed_file_say_the_same(
    tiny: Make,  # noqa: F811
    tmp_path: Path,
    kind: str,
    family: str,
) -> None:
    model, data = _model(tiny, kind, family), _write(tmp_path, ROWS[kind])
    out = tmp_path / "out" / "p.jsonl"
    # Some rows are the same, and rounding ranks them: so no Spearman here.
    settings = {"metric": "mse"} if kind == "regression" else {}
    found = _evaluate(
        model.folder,
        data,
        against=str(model.packed.path),
        predictions=str(out),
        threads=1,
        **settings,
    )
    assert isinstance(found, Comparison)
    assert found.kind == kind and found.rows == len(ROWS[kind])
    for name, value in found.metrics.items():
        if name != "spearman":
            assert found.against_metrics[name] == pytest.approx(value, abs=1e-4), name
    assert found.difference == pytest.approx(0, abs=1e-4)
    if kind == "regression":
        assert found.differing is None
    else:
        assert found.differing == 0 and found.interval == (0, 0) and found.p_value == 1
        assert all(row["prediction"] == row["against"] for row in _lines(out))
    assert [row["index"] for row in _lines(out)] == list(range(len(ROWS[kind])))


@pytest.mark.parametrize("kind", ["token-classification", "question-answering"])
def test_figures_follow_from_the_predictions(tiny: Make, tmp_path: Path, kind: str) -> None:  # noqa: F811
    model, data = _model(tiny, kind), _write(tmp_path, ROWS[kind])
    out = tmp_path / "p.jsonl"
    found = _evaluate(model.folder, data, predictions=str(out), seed=3, level=0.8)
    assert isinstance(found, Evaluation)
    rows = _lines(out)
    gold, predicted = [row["label"] for row in rows], [row["prediction"] for row in rows]
    if kind == "token-classification":
        assert [row["tokens"] for row in rows] == [row["tokens"] for row in ROWS[kind]]
        assert set(found.by_type or {}) == {"LOC", "PER"}
    else:
        assert gold == [row["answers"]["text"] for row in ROWS[kind]]
        assert found.by_type is None
    assert found.metrics == metrics(kind, gold, predicted)
    assert found.main == "f1"
    assert found.interval == bootstrap(kind, gold, predicted, "f1", resamples=50, seed=3, level=0.8)


def test_two_models_are_compared_on_the_same_resamples(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    kind, data = "classification", _write(tmp_path, ROWS["classification"])
    a, b = _model(tiny, kind), _model(tiny, kind, "electra")
    alone = [_evaluate(one.folder, data, predictions=str(tmp_path / "p")) for one in (a, b)]
    found = _evaluate(
        a.folder, data, against=str(b.folder), predictions=str(tmp_path / "both"), metric="f1"
    )
    assert (found.metrics, found.against_metrics) == (alone[0].metrics, alone[1].metrics)
    rows = _lines(tmp_path / "both")
    gold, mine, theirs = (
        np.array([row[name] == "good" for row in rows]).astype(int)
        for name in ("label", "prediction", "against")
    )
    expected = paired_bootstrap(kind, gold, mine, theirs, "f1", resamples=50)
    assert found.main == "f1"
    assert found.difference == expected["difference"]
    assert found.interval == (expected["low"], expected["high"])
    assert found.differing == np.count_nonzero(mine != theirs)


def test_pairs_without_a_second_text_are_scored_alike(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    rows = [
        {
            "sentence1": row["text"],
            "sentence2": "the castle" if i % 3 else "",
            "label": row["label"],
        }
        for i, row in enumerate(ROWS["classification"])
    ]
    model, out = _model(tiny, "classification"), tmp_path / "p.jsonl"
    found = _evaluate(
        model.folder,
        _write(tmp_path, rows),
        against=str(model.packed.path),
        predictions=str(out),
        threads=1,
    )
    assert found.rows == len(rows) and found.differing == 0
    assert found.against_metrics["log_loss"] == pytest.approx(found.metrics["log_loss"], abs=1e-4)


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_weights_that_diverged_are_no_class(tiny: Make, tmp_path: Path, kind: str) -> None:  # noqa: F811
    model, broken = _model(tiny, kind), tmp_path / "broken"
    shutil.copytree(model.folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    data, rows = _write(tmp_path, ROWS[kind]), len(ROWS[kind])
    with pytest.raises(InputError, match=rf"NaN\) for {rows} of {rows} rows: its weights have div"):
        _evaluate(broken, data)


def test_the_engine_does_not_hide_them_either(
    tiny: Make,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = _model(tiny, "classification"), _write(tmp_path, ROWS["classification"])
    run = askable_stage._run

    def diverged(*args: Any) -> np.ndarray:
        logits = run(*args)
        logits[2, 1] = np.nan
        return logits

    monkeypatch.setattr(askable_stage, "_run", diverged)
    with pytest.raises(InputError, match=r"NaN\) for 1 of 24 rows"):
        _evaluate(model.packed.path, data)


def test_classes_in_another_order_are_the_same_classes(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    data = _write(tmp_path, ROWS["classification"])
    model = _model(tiny, "classification")
    turned = tmp_path / "turned"
    shutil.copytree(model.folder, turned)
    config = json.loads((turned / "config.json").read_text())
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (turned / "config.json").write_text(json.dumps(config))
    found = _evaluate(model.folder, data, against=str(turned))
    # The same outputs mean the opposite.
    assert found.differing == found.rows
    assert found.metrics["accuracy"] == pytest.approx(1 - found.against_metrics["accuracy"])


def _answers(names: list[str], gold: Any, values: Any) -> Answers:
    return Answers("m", names, gold, values, {}, {})


def _compare(kind: str, a: Answers, b: Answers, metric: str = "accuracy") -> Comparison:
    return compare(kind, "d", a, b, metric, resamples=10, seed=0, level=0.9, predictions=None)


def test_flags_are_put_in_order() -> None:
    gold, said = np.array([[1, 0, 0], [0, 1, 1]]), np.array([[1, 0, 1], [0, 1, 1]])
    order = [2, 0, 1]
    a = _answers(["x", "y", "z"], gold, said)
    b = _answers(["z", "x", "y"], gold[:, order], said[:, order])
    found = _compare("multi-label", a, b, "f1")
    assert (found.differing, found.difference) == (0, 0)


def test_f1_is_that_of_the_same_class_for_both() -> None:
    """Of two classes it is that of the second, and which one that is the first model decides."""
    gold, mine, theirs = (np.array(x) for x in ([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]))
    names = ["bad", "good"]
    a = Answers("a", names, gold, mine, metrics("classification", gold, mine), {})
    alone = metrics("classification", gold, theirs)
    turned = metrics("classification", 1 - gold, 1 - theirs)
    assert alone["f1"] != turned["f1"]
    b = Answers("b", names[::-1], 1 - gold, 1 - theirs, turned | {"log_loss": 0.7}, {})
    found = _compare("classification", a, b, "f1")
    assert found.against_metrics == pytest.approx(alone | {"log_loss": 0.7})
    assert found.difference == pytest.approx(found.metrics["f1"] - found.against_metrics["f1"])


def test_classes_are_put_in_order_where_the_rows_do_not_show_it() -> None:
    gold = np.array([0, 0])
    a = _answers(["x", "y", "z"], gold, np.array([1, 0]))
    b = _answers(["x", "z", "y"], gold, np.array([2, 0]))
    assert _compare("classification", a, b).differing == 0


def test_what_cannot_be_compared() -> None:
    a = _answers(["x", "y"], np.array([0, 1]), np.array([0, 1]))
    for b in (
        _answers(["x", "z"], np.array([1, 0]), np.array([0, 1])),
        _answers(["y", "x"], np.array([0, 0]), np.array([0, 1])),
    ):
        with pytest.raises(InputError, match=r"different labels from the same rows \(x, y and"):
            _compare("classification", a, b)


def test_kinds_must_agree(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    rows = [{**row, "label": i % 2} for i, row in enumerate(ROWS["regression"])]
    a = _model(tiny, "classification", id2label={0: "LABEL_0", 1: "LABEL_1"})
    b = _model(tiny, "regression")
    with pytest.raises(InputError, match="is for classification, .* for regression; compare"):
        _evaluate(a.folder, _write(tmp_path, rows), against=str(b.folder))


def test_the_metric_that_decides(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    data = _write(tmp_path, ROWS["classification"])
    model = _model(tiny, "classification")
    assert _evaluate(model.folder, data).main == "accuracy"
    assert _evaluate(model.folder, data, metric="matthews").main == "matthews"
    with pytest.raises(InputError, match="classification has no metric 'mathews'; did you mean 'm"):
        _evaluate(model.folder, data, metric="mathews")
    with pytest.raises(InputError, match="there are accuracy, f1, matthews"):
        _evaluate(model.folder, data, metric="exact")
    trained = tmp_path / "trained"
    shutil.copytree(model.folder, trained)
    record = {"kind": "classification", "metric": "matthews"}
    (trained / "prunella.json").write_text(json.dumps({"task": record}))
    assert _evaluate(trained, data).main == "matthews"


def _recorded(folder: Path, out: Path, **record: Any) -> Path:
    shutil.copytree(folder, out)
    (out / "prunella.json").write_text(json.dumps({"task": record}))
    return out


def test_rows_that_are_not_what_the_model_was_trained_on(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    model = _model(tiny, "classification")
    single = _write(tmp_path, ROWS["classification"])
    pairs = tmp_path / "pairs.jsonl"
    rows = [{**row, "text_pair": "castle"} for row in ROWS["classification"]]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_pairs = _recorded(model.folder, tmp_path / "p", kind="classification", pairs=True)
    of_singles = _recorded(model.folder, tmp_path / "s", kind="classification", pairs=False)
    assert _evaluate(of_singles, single).rows == len(rows)
    columns = {"text": "text", "pair": "text_pair"}
    assert _evaluate(of_pairs, str(pairs), **columns).rows == len(rows)
    with pytest.raises(InputError, match="holds single texts, the model was trained on pairs"):
        _evaluate(of_pairs, single)
    with pytest.raises(InputError, match="holds pairs of texts, the model was trained on single"):
        _evaluate(of_singles, str(pairs), **columns)
    scores = _write(tmp_path, ROWS["regression"])
    with pytest.raises(InputError, match="its head has 2 outputs, the task 1 \\(regression\\)"):
        _evaluate(model.folder, scores, kind="regression")
    with pytest.raises(InputError, match="its head is for another kind of task"):
        _evaluate(model.folder, scores, kind="token-classification")


@pytest.mark.parametrize("packed", [False, True])
def test_a_threshold_holds_as_it_was_trained(
    tiny: Make,  # noqa: F811
    tmp_path: Path,
    packed: bool,
) -> None:
    kind = "multi-label"
    data = _write(tmp_path, ROWS[kind])
    model = _model(tiny, kind)
    trained = str(_recorded(model.folder, tmp_path / "t", kind=kind, threshold=0.0))
    if packed:
        trained = str(pack(PackSettings(model=trained, out=str(tmp_path / "t.prn"))).path)
        assert load(trained)("castle").labels == load(trained)("castle", threshold=0).labels
    every = _evaluate(model.folder, data, threshold=0.0)
    assert _evaluate(Path(trained), data).metrics == every.metrics
    assert _evaluate(Path(trained), data, threshold=0.5).metrics != every.metrics


def test_a_comparison_tells_what_was_odd_about_the_rows(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    rows = [*ROWS["classification"], {"text": "castle " * 300, "label": "good"}]
    model = _model(tiny, "classification")
    found = _evaluate(model.folder, _write(tmp_path, rows), against=str(model.folder))
    assert found.counts == found.against_counts == {"rows_cut": 1}


def test_models_of_unlike_tags_are_not_compared() -> None:
    words = [["B-PER", "O"]]
    a, b = (Answers(n, names, words, words, {}, {}) for n, names in (("a", TAGS), ("b", ["B-NP"])))
    with pytest.raises(InputError, match="know no tag in common"):
        _compare("token-classification", a, b, "f1")


def test_a_packed_file_without_a_task_is_refused(tiny: Make, tmp_path: Path) -> None:  # noqa: F811
    data = _write(tmp_path, ROWS["classification"])
    for head in (None, "MaskedLM"):
        with pytest.raises(InputError, match="has no task head; pack a checkpoint"):
            _evaluate(tiny("bert", head).packed.path, data)


def test_the_command_line(
    tiny: Make,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    kind = "token-classification"
    data = Path(_write(tmp_path, ROWS[kind])).name
    for name, family in (("a", "bert"), ("b", "electra")):
        shutil.copytree(_model(tiny, kind, family).folder, tmp_path / name)
    one = ["evaluate", "a", "--data", data, "--resamples", "20"]
    assert main(one) == 0
    printed = capsys.readouterr().out
    assert "a on 12 rows of rows.jsonl" in printed
    assert "f1, 95 % interval" in printed and "LOC" in printed
    two = ["evaluate", "a", "b", *one[2:]]
    assert main(two) == 0
    printed = capsys.readouterr().out
    assert "f1, A - B: " in printed and "They differ on" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert main([*two, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["against"]) == ("a", "b")
    assert document["interval"][0] <= document["difference"] <= document["interval"][1]
    assert main(["evaluate", "a", "b", "c", *one[2:]]) == 2
    assert "'c'" in capsys.readouterr().err
