"""Steps of a recipe that write a file: run again they are passed over, unless something changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engine.conftest import Tiny, tiny  # noqa: F401  (a fixture)

from prunella import predicting
from prunella.cli import main
from prunella.engine.model import Model
from prunella.packing import pack
from prunella.settings import PackSettings

Tinies = Callable[..., Tiny]
TEXTS = ["the queen leaves", "a lantern", "nobody knows why the farmer paints", "dawn"]
EVERY = """
name: every
out: unset
vars: {model: unset, rows: unset}
steps:
  - pack: {model: "${model}", out: "${out}/model.prn"}
  - predict: {model: "${out}/model.prn", file: "${rows}", out: "${out}/p.jsonl", threads: 1}
  - unpack: {model: "${out}/model.prn", out: "${out}/unpacked"}
  - study: {models: ["${model}", "${out}/unpacked"], out: "${out}/study.html"}
  - bench:
      {model: "${out}/model.prn", shapes: 1x8, engines: prunella, arms: sparse-fp32, threads: "1",
       seconds: 0.01, out: "${out}/bench.json"}
"""
EXPORT = """
  - export: {model: "${out}/unpacked", onnx: "${out}/unpacked/model.onnx"}
"""
ONE = """
name: one
out: unset
vars: {model: unset, rows: unset, k: 1}
steps:
  - predict: {model: "${model}", file: "${rows}", out: "${out}/p.jsonl", top_k: "${k}", threads: 1}
"""


class Place:
    """A folder with rows, a packed model, and a recipe to run on them."""

    def __init__(self, folder: Path, subject: Tiny, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.subject, self.capture = folder, subject, capture
        self.rows, self.model = folder / "rows.txt", folder / "model.prn"
        self.rows.write_text("\n".join(TEXTS))
        self.out = folder / "run"
        pack(PackSettings(model=str(subject.folder), out=str(self.model)))

    def run(self, recipe: str, model: Path | None = None, **values: Any) -> tuple[int, Any]:
        path = self.folder / "recipe.yaml"
        path.write_text(recipe)
        values = {"model": model or self.model, "rows": self.rows, **values}
        given = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        code = main(["run", str(path), "--out", str(self.out), *given, "--json"])
        return code, json.loads(self.capture.readouterr().out)

    @property
    def lines(self) -> list[int]:
        return [json.loads(x)["line"] for x in (self.out / "p.jsonl").read_text().splitlines()]


@pytest.fixture
def place(
    tiny: Tinies,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Place:
    return Place(tmp_path, tiny("bert", "SequenceClassification"), capsys)


def test_every_verb_that_writes_a_file(place: Place) -> None:
    with_export = all(find_spec(name) for name in ("onnx", "onnxscript"))
    recipe = EVERY + EXPORT.lstrip("\n") * with_export
    code, first = place.run(recipe, place.subject.folder)
    assert code == 0
    times = {path: path.stat().st_mtime_ns for path in place.out.rglob("*") if path.is_file()}
    code, second = place.run(recipe, place.subject.folder)
    assert code == 0
    notes = {place.out / "steps.json", place.out / "results.json"}
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path not in notes)
    for before, again in list(zip(first["steps"], second["steps"], strict=True))[1:]:
        assert again == before | {"finished_before": True}
    assert second["steps"][1]["texts"] == len(TEXTS)  # what the run that made it said of it


def test_what_has_changed_is_refused_and_said(place: Place) -> None:
    assert place.run(ONE)[0] == 0
    code, document = place.run(ONE, k=2)
    assert code == 2
    assert "p.jsonl: exists, and was made of something else (top_k)" in document["error"]
    place.rows.write_text("\n".join(TEXTS[:2]))
    code, document = place.run(ONE)
    assert code == 2 and f"({place.rows} was changed)" in document["error"]
    code, document = place.run(ONE.replace("threads: 1", "overwrite: true"))
    assert code == 0 and place.lines == [1, 2]
    assert place.run(ONE)[1]["steps"][0]["finished_before"] is True
    (place.out / "p.jsonl").unlink()  # what is gone is made again
    assert place.run(ONE)[0] == 0 and place.lines == [1, 2]
    (place.out / "p.jsonl").write_text("edited\n")
    code, document = place.run(ONE)
    assert code == 2 and "exists; choose another --out or pass --overwrite" in document["error"]


def test_what_the_recipe_did_not_make_is_left_alone(place: Place) -> None:
    place.out.mkdir()
    (place.out / "p.jsonl").write_text("mine\n")
    for _ in range(2):
        code, document = place.run(ONE)
        assert code == 2 and "exists; choose another --out" in document["error"]
    assert (place.out / "p.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("made", [False, True], ids=["before it was made", "when it was made"])
def test_a_killed_step(place: Place, monkeypatch: pytest.MonkeyPatch, made: bool) -> None:
    honest, answered = Model.attempt, 0

    def attempt(self: Model, inputs: Any, **options: Any) -> Any:
        nonlocal answered
        if answered == 2 and not made:
            raise KeyboardInterrupt
        answered += len(inputs)
        return honest(self, inputs, **options)

    monkeypatch.setattr(predicting, "_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Model, "attempt", attempt)
        if made:
            patch.setattr("prunella.finished._digest", interrupted_when_made(place))
        assert place.run(ONE)[0] == 130
    assert (place.out / "p.jsonl").exists() == made
    code, document = place.run(ONE)
    assert code == 0 and place.lines == [1, 2, 3, 4]
    (step,) = document["steps"]
    assert step.get("finished_before") is (True if made else None)
    assert made or (step["earlier"], step["texts"]) == (2, 2)


def interrupted_when_made(place: Place) -> Callable[[Path], str]:
    from prunella import finished

    honest = finished._digest

    def digest(path: Path) -> str:
        if path == place.out / "p.jsonl":
            raise KeyboardInterrupt
        return honest(path)

    return digest


def test_a_refused_step_leaves_no_note(place: Place) -> None:
    rows = place.folder / "rows.jsonl"
    rows.write_text('{"text": 3}\n')
    assert place.run(ONE, rows=rows)[0] == 2
    (place.out / "p.jsonl").write_text("made by hand\n")
    code, document = place.run(ONE, rows=rows)
    assert code == 2 and "exists; choose another --out" in document["error"]
