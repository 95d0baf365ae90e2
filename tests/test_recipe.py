"""Recipes: what is read, what is refused before anything runs, and how they resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prunella
from prunella.cli import main
from prunella.errors import InputError
from prunella.recipe import load_recipe, run_recipe
from prunella.settings import PruneSettings, TransferSettings

ROOT = Path(__file__).parent.parent
SHIPPED = [*ROOT.glob("recipes/*.yaml"), *Path(prunella.__file__).parent.rglob("*recipe*.yaml")]
GOOD = """
name: tiny
about: Two steps.
out: runs/tiny
vars: {base: some/model, sparsity: 0.8, steps: 12}
steps:
  - prune:
      model: ${base}
      text: ["${out}/*.txt"]
      out: ${out}/sparse
      sparsity: ${sparsity}
      steps: ${steps}
      distillation: {hidden: 1.0}
  - transfer: {model: "${out}/sparse", train: rows.csv, out: "${out}/task-${sparsity}"}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Write = Callable[[str | bytes], Path]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_parse(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.steps
    assert recipe.about
    made = {getattr(step.settings, "out", None) for step in recipe.steps}
    assert len(made - {None}) == sum(hasattr(step.settings, "out") for step in recipe.steps)


def test_there_are_recipes() -> None:
    assert len(SHIPPED) >= 2


def test_variables_are_filled_in(write: Write) -> None:
    recipe = load_recipe(write(GOOD))
    first, second = recipe.steps
    assert (first.number, first.verb.name, second.verb.name) == (1, "prune", "transfer")
    assert isinstance(first.settings, PruneSettings)
    assert isinstance(second.settings, TransferSettings)
    assert first.settings.model == "some/model"
    assert first.settings.text == ("runs/tiny/*.txt",)
    assert (first.settings.sparsity, first.settings.steps) == (0.8, 12)  # numbers stay numbers
    assert first.settings.distillation.hidden == 1.0
    assert second.settings.out == "runs/tiny/task-0.8"


def test_variables_and_folder_are_overridden(write: Write) -> None:
    recipe = load_recipe(write(GOOD), out="elsewhere", values={"sparsity": "0.5", "steps": "3"})
    first, second = recipe.steps
    assert isinstance(first.settings, PruneSettings)
    assert isinstance(second.settings, TransferSettings)
    assert (first.settings.sparsity, first.settings.steps) == (0.5, 3)
    assert second.settings.model == "elsewhere/sparse"
    assert second.settings.out == "elsewhere/task-0.5"
    assert recipe.out == Path("elsewhere")


def refused(path: Path, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, **given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ("abuot: x", "about: Two steps.", ("unknown setting 'abuot'", "did you mean 'about'?")),
        ("- prnue:", "- prune:", ("step 1", "no verb 'prnue'", "did you mean 'prune'?")),
        ("sparsty: 1", "sparsity: ${sparsity}", ("step 1 (prune)", "did you mean 'sparsity'?")),
        ("{hiden: 1.0}", "{hidden: 1.0}", ("'distillation.hiden'", "did you mean 'hidden'?")),
        ("sparsity: 1.0", "sparsity: ${sparsity}", ("step 1 (prune): sparsity = 1.0",)),
        ("steps: ${stpes}", "steps: ${steps}", ("no variable 'stpes'", "did you mean 'steps'?")),
        ("trian: r", "train: rows.csv", ("step 2 (transfer)", "did you mean 'train'?")),
        ("model: [1]", "model: ${base}", ("step 1 (prune): model = [1]", "valid string")),
        ("name: {}", "name: tiny", ("name = {}",)),
        ("name: [", "name: tiny", ("not valid YAML", "line")),
        ("name: *x", "name: tiny", ("not valid YAML",)),
    ],
)
def test_wrong_recipes(write: Write, wrong: str, right: str, words: tuple[str, ...]) -> None:
    assert right in GOOD
    path = write(GOOD.replace(right, wrong))
    message = refused(path)
    assert message.startswith(str(path))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is a mapping"),
        ("- prune", "is a mapping"),
        (b"name: \xff\n", "not UTF-8 text (byte 6)"),
        ("name: x\nout: y\nsteps: []\n", "has no steps"),
        ("name: x\nout: y\nsteps: [{prune: {}, pack: {}}]\n", "expected one verb"),
        ("name: x\nout: y\nsteps: [{}]\n", "found nothing"),
        ("name: x\nout: y\nsteps: [prune]\n", "steps"),
        ("name: x\nout: y\nsteps: [{pack: null}]\n", "steps"),
        ("name: x\nsteps: [{pack: {model: a, out: b}}]\n", "'out' is missing"),
        ("name: x\nout: y\nvars: {a: [1]}\nsteps: [{pack: {model: a, out: b}}]\n", "vars"),
    ],
)
def test_what_is_no_recipe(write: Write, content: str | bytes, words: str) -> None:
    assert words in refused(write(content))


def test_missing_file_and_unknown_override(write: Write, tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "no.yaml")
    assert "Is a directory" in refused(tmp_path)
    message = refused(write(GOOD), values={"sparsty": "0.5"})
    assert "no variable 'sparsty'; did you mean 'sparsity'?" in message
    assert "sparsity = 'much'" in refused(write(GOOD), values={"sparsity": "much"})


def test_yaml_builds_no_objects(write: Write, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    message = refused(write(f"name: !!python/object/apply:os.mkdir ['{mark}']\n"))
    assert "not valid YAML" in message
    assert not mark.exists()


def test_run_checks_everything_first(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(GOOD.replace("train:", "trian:"))
    assert main(["run", str(path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 2
    assert "did you mean 'train'?" in document["error"]
    assert main(["run", str(write(GOOD)), "--set", "sparsity"]) == 2
    assert "expected name=value" in capsys.readouterr().err


def test_dry_run_shows_the_steps(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(write(GOOD)), "--out", "there", "--set", "sparsity=0.5", "--dry-run"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [list(step) for step in document["steps"]] == [["prune"], ["transfer"]]
    assert document["steps"][0]["prune"]["sparsity"] == 0.5
    assert main(arguments) == 0
    assert "there/task-0.5" in capsys.readouterr().out


RUN = """
name: run
about: Small enough for a test.
out: unset
vars: {base: unset, text: unset, rows: unset}
steps:
  - prune:
      {model: "${base}", text: ["${text}"], out: "${out}/sparse", steps: 3, cache: "${out}/cache",
       length: 16, batch_tokens: 64, precision: fp32, threads: 1}
  - transfer:
      {model: "${out}/sparse", train: "${rows}", out: "${out}/task", steps: 4, save_every: 1,
       batch_size: 8, max_length: 24, precision: fp32, threads: 1}
  - evaluate: {model: "${out}/task", data: "${rows}", resamples: 10}
  - pack: {model: "${out}/task", out: "${out}/model.prn"}
"""


def test_an_interrupted_recipe_resumes(
    write: Write,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from prunella.training.loop import _Trainer

    trained = 0
    original = _Trainer.training_step

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal trained
        trained += 1
        if trained == 3 + 3:  # in the third step of the transfer
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(_Trainer, "training_step", step)
    values = {
        "base": str(tiny_checkpoint("bert")),
        "text": str(corpus_file),
        "rows": str(task_files["single"]["train"]),
    }
    given = [part for item in values.items() for part in ("--set", "=".join(item))]
    arguments = ["run", str(write(RUN)), "--out", str(tmp_path / "run"), *given]
    assert main([*arguments, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["exit_code"] == 130
    weights = (tmp_path / "run/sparse/model.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "run/task").exists()
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert trained == 3 + 3 + 2  # two steps of the transfer were saved, two were left
    assert (tmp_path / "run/sparse/model.safetensors").stat().st_mtime_ns == weights
    assert [step.get("finished_before") for step in document["steps"][:2]] == [True, False]
    assert document["steps"][2]["metrics"]["accuracy"] >= 0
    assert Path(document["steps"][3]["path"]).exists()
    results = run_recipe(load_recipe(write(RUN), out=str(tmp_path / "run"), values=values))
    assert all(result.finished_before for result in results[:2])
    assert main(arguments) == 0
    assert "step 4/4  pack" in capsys.readouterr().err
