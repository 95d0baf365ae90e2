"""The runner on tiny models: what it writes, passes over, waits for and survives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.experiments.__main__ import main
from benchmarks.experiments.cell import CellRun, Place
from benchmarks.experiments.matrix import Matrix, load_matrix
from benchmarks.experiments.records import Mode, all_records
from benchmarks.experiments.runner import Runner
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError

QUICK = {"steps": 2, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-3}
MATRIX: dict[str, Any] = {
    "about": "x",
    "weights": ["fp32", "int8"],
    "seeds": [0],
    "transfer": QUICK,
    "quantize": QUICK,
    "tasks": {"single": None},
    "models": {
        "dense": {"title": "dense", "family": "dense", "start": "start"},
        "gmp": {
            "title": "gmp",
            "family": "gmp",
            "start": "start",
            "teacher": "dense",
            "sparsity": 0.5,
            "transfer": {"prune": {"sparsity": 0.5, "growth_end": 1, "freeze": 1}},
        },
    },
}


@pytest.fixture
def matrix(tmp_path: Path) -> Callable[..., Matrix]:
    """Writes and reads the matrix, `changes` made to the settings of gmp's transfer."""

    def read(**changes: Any) -> Matrix:
        document = json.loads(json.dumps(MATRIX))
        document["models"]["gmp"]["transfer"].update(changes)
        single = {"title": "Single", "train": "single-train.jsonl"}
        single |= {"reported": "single-validation.jsonl", "settings": {"max_length": 24}}
        written = {"m": document, "tasks": {"single": single}}
        for name, content in written.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return load_matrix("m", tmp_path)

    return read


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Callable[..., Path], task_files: dict) -> Place:
    models = {"start": str(tiny_checkpoint("bert", "base"))}
    data = task_files["single"]["train"].parent
    return Place(models, data, tmp_path / "work", tmp_path / "results", 1, Mode())


def run(
    matrix: Matrix, place: Place, only: str = "*", forms: Any = ("fp32", "int8")
) -> tuple[list[str], Runner]:
    said: list[str] = []
    runner = Runner(matrix, place, forms, say=said.append, wait=0.02)
    runner.run(matrix.cells([0], [only]))
    return said, runner


def results(place: Place) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in all_records(place.results / "experiments")}


def test_a_matrix_is_run_once_and_again_where_it_changed(
    matrix: Callable[..., Matrix], place: Place
) -> None:
    said, runner = run(matrix(), place)
    found = results(place)
    assert not runner.failures and len(said) == 5
    assert list(found) == ["m/dense/single/0/fp32", "m/dense/single/0/int8",
                           "m/gmp/single/0/fp32", "m/gmp/single/0/int8"]  # fmt: skip
    sparse = found["m/gmp/single/0/int8"]
    sizes = sparse["sizes"]
    assert sizes["encoder_nonzeros"] == pytest.approx(0.5 * sizes["encoder_weights"], rel=0.02)
    assert (sparse["teacher"], sparse["examples"], sparse["steps"]) == ("dense", 48, 4)
    assert sparse["settings"] == {
        "transfer": {"prune": {"sparsity": 0.5, "growth_end": 1, "freeze": 1}}
    }
    assert sparse["main"] in sparse["metrics"] and sparse["tokens"] > 0
    assert sparse["command"].startswith("python -m benchmarks.experiments m --only gmp/single/0 ")
    text = json.dumps(list(found.values()))
    assert str(place.data) not in text and str(place.work) not in text
    # The teacher of others stays, all else is gone.
    kept = [path.parent.name for path in place.work.rglob("model.safetensors")]
    assert kept == ["fp32"] and not list(place.work.rglob("*.prn"))

    assert run(matrix(), place)[0] == ["2 cells, 0 of them to run"]
    said, _ = run(matrix(labels=0.25), place, forms=["fp32"])  # another setting of gmp alone
    assert said[0] == "2 cells, 1 of them to run" and len(said) == 2
    after = results(place)
    assert after["m/dense/single/0/fp32"] == found["m/dense/single/0/fp32"]
    assert after["m/gmp/single/0/fp32"]["run_hash"] != found["m/gmp/single/0/fp32"]["run_hash"]


def test_what_another_matrix_has_run_is_taken_over(
    matrix: Callable[..., Matrix], place: Place, tmp_path: Path
) -> None:
    run(matrix(), place, "dense", ["fp32"])
    (tmp_path / "other.yaml").write_text(
        (tmp_path / "m.yaml").read_text(encoding="utf-8").replace("title: gmp", "title: Else"),
        encoding="utf-8",
    )
    other = load_matrix("other", tmp_path)
    said, _ = run(other, place, "dense", ["fp32"])
    assert said == ["dense/single/0 fp32: taken over from m/dense/single/0/fp32",
                    "1 cells, 0 of them to run"]  # fmt: skip
    first, second = results(place).values()
    assert (second["name"], second["run_as"]) == ("other/dense/single/0/fp32", first["name"])
    cell = CellRun(other, other.cell("dense", "single", 0), place)
    assert cell.taken_over(second, "fp32")["run_as"] == first["name"]
    assert second["metrics"] == first["metrics"]
    assert second["command"].startswith("python -m benchmarks.experiments other --only dense/")


def test_tuning_scores_rows_of_train_and_keeps_its_results_apart(
    matrix: Callable[..., Matrix], place: Place
) -> None:
    read = matrix()
    mode = Mode("short", ("transfer.steps=1",))
    runner = Runner(read, replace(place, mode=mode), ["fp32"], keep=True, say=lambda line: None)
    runner.run(read.cells([0], ["dense"], {"transfer": {"steps": 1}}))
    assert not runner.failures and not results(place)
    (record,) = all_records(place.results / "tuning")
    assert record["tried"] == {"label": "short", "changes": ["transfer.steps=1"]}
    assert record["rows"]["scored"] == "single-train-held-out.jsonl"
    assert record["steps"] == 1 and record["settings"]["transfer"]["steps"] == 1
    held_out = (place.work / "rows" / "single-train-held-out.jsonl").read_text(encoding="utf-8")
    assert record["examples"] == len(held_out.splitlines()) < 96
    assert record["command"].endswith("--tune short --set transfer.steps=1")


def test_what_a_killed_run_left_is_cleared(matrix: Callable[..., Matrix], place: Place) -> None:
    read = matrix()
    cell = CellRun(read, read.cell("dense", "single", 0), place)
    cell.fine_tuned.mkdir(parents=True)
    (cell.folder / ".fp32.prn.ab12.tmp").write_bytes(b"half of it")
    cell.clear(but_fine_tuned=True)
    assert list(cell.folder.iterdir()) == [cell.fine_tuned]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are run in no time: 80 % for all but those of `dense`, which fail."""

    def records(self: CellRun, weights: Any) -> Any:
        if self.cell.model == "dense":
            raise RuntimeError("out of paper")
        self.folder.mkdir(parents=True)
        for form in weights:
            figures = {"main": "accuracy", "metrics": {"accuracy": 0.8}, "interval": [0.7, 0.9]}
            yield form, {"name": form, "run_hash": self.digest(form), "seconds": 60.0, **figures}

    monkeypatch.setattr(CellRun, "records", records)


@pytest.mark.parametrize("held", ["gmp", "dense"])
def test_a_cell_waits_while_another_runner_is_at_it_or_at_its_teacher(
    matrix: Callable[..., Matrix], place: Place, pretended: None, held: str
) -> None:
    read = matrix()
    busy = CellRun(read, read.cell(held, "single", 0), place).lock()
    assert busy.__enter__()
    ended = threading.Event()

    def end() -> None:
        ended.set()
        busy.__exit__(None, None, None)

    timer = threading.Timer(0.2, end)
    timer.start()
    said, runner = run(read, place, "gmp")
    timer.join()
    assert ended.is_set() and not runner.failures
    assert said[1:] == [f"gmp/single/0 {form}: accuracy 80.00 (70.0 to 90.0), 1.0 min"
                        for form in ("fp32", "int8")]  # fmt: skip


def test_a_cell_that_another_runner_has_done_meanwhile_is_passed_over(
    matrix: Callable[..., Matrix], place: Place, pretended: None
) -> None:
    read = matrix()
    cell = read.cell("gmp", "single", 0)
    busy = CellRun(read, cell, place).lock()
    assert busy.__enter__()
    other = Runner(read, place, read.weights, say=lambda line: None)

    def end() -> None:
        other._run(CellRun(read, cell, place), read.weights)
        busy.__exit__(None, None, None)

    timer = threading.Timer(0.2, end)
    timer.start()
    assert run(read, place, "gmp")[0] == ["1 cells, 1 of them to run"]
    timer.join()


def test_a_cell_that_fails_does_not_end_the_others(
    matrix: Callable[..., Matrix], place: Place, pretended: None
) -> None:
    said, runner = run(matrix(), place)
    assert list(runner.failures) == ["dense/single/0"] and "out of paper" in said[1]
    assert [line.split(":")[0] for line in said[2:]] == ["gmp/single/0 fp32", "gmp/single/0 int8"]


def test_what_is_missing_is_said_before_anything_runs(
    matrix: Callable[..., Matrix], place: Place
) -> None:
    with pytest.raises(InputError, match="the checkpoint 'start', for which there is no folder"):
        run(matrix(), replace(place, models={"strat": "x"}))
    with pytest.raises(InputError, match="no such file; --data names the folder"):
        run(matrix(), replace(place, data=place.work))
    with pytest.raises(InputError, match="gmp/single/0, transfer: unknown setting 'epohcs'"):
        run(matrix(epohcs=1), place)
    assert not place.work.exists() or not list(place.work.rglob("model.safetensors"))


def test_the_command_line_explains_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("dense: nowhere\n", encoding="utf-8")
    common = [
        "prune-ofa",
        "--models",
        str(models),
        "--data",
        str(tmp_path),
        "--only",
        "dense/rte/0",
    ]
    for more, message in (
        (["--set", "transfer.epochs=1"], "--set tries settings, so it goes with --tune LABEL"),
        (["--tune", "x", "--set", "epochs=1"], "expected STAGE.KEY=VALUE; stages"),
        (["--seeds", "a"], "--seeds a: expected whole numbers"),
        (["--work", str(tmp_path)], "nowhere: no such folder"),
    ):
        assert main([*common, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_list_shows_all_cells_also_those_without_a_checkpoint(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(f"dense: {tiny_checkpoint('bert', 'base')}\n", encoding="utf-8")
    options = ["--models", str(models), "--data", str(tmp_path), "--results", str(tmp_path)]
    assert main(["prune-ofa", *options, "--only", "*/rte/0", "--list"]) == 0
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert said["dense/rte/0"].endswith(" to run: fp32, int8")
    assert "cannot be run: " in said["sparse-90/rte/0"]
    assert "no folder" in said["sparse-90/rte/0"]


def test_start_checkpoints_are_told_apart_by_their_contents(
    matrix: Callable[..., Matrix], place: Place, tiny_checkpoint: Callable[..., Path]
) -> None:
    read = matrix()
    first = CellRun(read, read.cell("gmp", "single", 0), place)
    other = replace(place, models={"start": str(tiny_checkpoint("bert", "base", seed=1))})
    second = CellRun(read, read.cell("gmp", "single", 0), other)
    assert first.digest("fp32") != second.digest("fp32") and first.folder != second.folder
    assert open_checkpoint(place.models["start"]).weights_hash


def test_a_task_is_taught_on_text_first(
    matrix: Callable[..., Matrix], place: Place, corpus_file: Path, tmp_path: Path
) -> None:
    plain = matrix().cell("gmp", "single", 0).settings_hash("fp32")
    matrix()
    document = yaml.safe_load((tmp_path / "m.yaml").read_text(encoding="utf-8"))
    document["models"]["gmp"]["adapt"] = {
        "text": [corpus_file.name],
        "mlm": 0,
        "distillation": {"hidden": 1.0},
        "length": 16,
        "batch_tokens": 64,
        "steps": 3,
        "precision": "fp32",
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    taught = load_matrix("m", tmp_path)
    assert taught.cell("gmp", "single", 0).settings_hash("fp32") != plain
    data = tmp_path / "data"
    data.mkdir()
    for file in (corpus_file, *place.data.glob("single-*.jsonl")):
        (data / file.name).write_bytes(file.read_bytes())
    run(taught, replace(place, data=data), forms=("fp32",))
    made, dense = results(place)["m/gmp/single/0/fp32"], results(place)["m/dense/single/0/fp32"]
    assert made["steps"] == dense["steps"] + 3
    assert made["settings"]["adapt"]["steps"] == 3


def test_a_task_after_another_starts_from_the_model_of_that(
    matrix: Callable[..., Matrix], place: Place, tmp_path: Path
) -> None:
    matrix()
    document = yaml.safe_load((tmp_path / "m.yaml").read_text(encoding="utf-8"))
    document["tasks"] = {"single": None, "pair": None}
    tasks = yaml.safe_load((tmp_path / "tasks.yaml").read_text(encoding="utf-8"))
    tasks["pair"] = {"title": "Pair", "train": "pair-train.jsonl", "after": "single"}
    tasks["pair"] |= {"reported": "pair-validation.jsonl", "settings": {"max_length": 48}}
    for name, content in (("after", document), ("tasks", tasks)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    read = load_matrix("after", tmp_path)
    _, runner = run(read, place, "*/pair", ["fp32"])
    assert not runner.failures and list(results(place)) == [
        "after/dense/pair/0/fp32",
        "after/gmp/pair/0/fp32",
    ]

    def made(model: str, task: str, mode: Mode) -> dict[str, Any]:
        run = CellRun(read, read.cell(model, task, 0), replace(place, mode=mode))
        return open_checkpoint(run.fine_tuned).provenance or {}

    first, second = made("dense", "single", Mode()), made("dense", "pair", Mode())
    assert second["settings"]["new_head"] and not first["settings"]["new_head"]
    assert second["parents"]["model"]["path"].endswith(
        str(CellRun(read, read.cell("dense", "single", 0), place).fine_tuned)
    )
    # What is pruned at task time is dense until then.
    assert read.before(read.cell("gmp", "pair", 0)) == read.cell("dense", "single", 0)
    # Its rows are not those that are set aside, so tuning starts from the same model.
    mode = Mode("short")
    tuning = Runner(read, replace(place, mode=mode), ["fp32"], keep=True, say=lambda line: None)
    tuning.run(read.cells([0], ["dense/pair"]))
    assert not tuning.failures
    assert made("dense", "pair", mode)["parents"] == second["parents"]
    # With other settings of the task before it is another result.
    document["tasks"]["single"] = {"transfer": {"steps": 3}}
    (tmp_path / "after.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    edited = load_matrix("after", tmp_path)
    hashes = {m.cell("dense", "pair", 0).settings_hash("fp32") for m in (read, edited)}
    assert len(hashes) == 2


def test_a_task_comes_after_one_of_the_same_matrix(
    matrix: Callable[..., Matrix], tmp_path: Path
) -> None:
    matrix()
    tasks = yaml.safe_load((tmp_path / "tasks.yaml").read_text(encoding="utf-8"))
    tasks["single"]["after"] = "pair"
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(tasks), encoding="utf-8")
    with pytest.raises(InputError, match="single: comes after 'pair', which must be a task of"):
        load_matrix("m", tmp_path)
