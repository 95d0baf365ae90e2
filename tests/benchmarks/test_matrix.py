"""Matrices: every shipped cell has valid settings, and what makes two cells the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.experiments.matrix import Cell, Matrix, joined, load_matrix, names
from prunella.errors import InputError
from prunella.settings import QuantizeSettings
from prunella.validation import parse_settings
from prunella.verbs import VERBS

TASKS = {"rte": {"title": "RTE", "train": "train.jsonl", "reported": "dev.jsonl"}}
TASKS["sst2"] = {**TASKS["rte"], "title": "SST-2"}
BASE = {
    "about": "x",
    "transfer": {"epochs": 3, "learning_rate": 1e-4},
    "tasks": {"rte": {"transfer": {"epochs": 9}}, "sst2": None},
    "models": {
        "dense": {"title": "dense", "family": "dense", "start": "dense"},
        "sparse": {
            "title": "sparse",
            "family": "sparse",
            "start": "sparse",
            "teacher": "dense",
            "transfer": {"learning_rate": 1e-3, "distillation": {"logits": 0.5}},
            "tasks": {"rte": {"transfer": {"distillation": {"hidden": 1.0}}}},
        },
    },
}


def written(folder: Path, matrix: dict | None = None, **others: dict) -> Path:
    documents = {"tasks": TASKS, "base": matrix or BASE, **others}
    for name, document in documents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def cell(matrix: Matrix, name: str) -> Cell:
    model, task, seed = name.split("/")
    return matrix.cell(model, task, int(seed))


@pytest.mark.parametrize("name", names())
def test_every_cell_of_the_shipped_matrices_has_valid_settings(name: str) -> None:
    matrix = load_matrix(name)
    paths = {"model": "m", "out": "o", "train": "t"}
    for each in matrix.cells([0]):
        teacher = matrix.teacher_of(each)
        more = {**paths, "teacher": "t"} if teacher else paths
        stage = each.entry.stage
        parse_settings(VERBS[stage].settings, {**each.stages[stage], **more}, each.name)
        if "int8" in matrix.weights:
            parse_settings(QuantizeSettings, {**each.stages["quantize"], **more}, each.name)
        assert teacher is None or teacher.entry.teacher is None, "teachers are not taught"


def test_levels_make_a_model_each(tmp_path: Path) -> None:
    at = {"title": "X", "family": "frozen", "start": "dense", "teacher": "dense"}
    models = {
        "dense": BASE["models"]["dense"],
        "x": {**at, "stage": "mask", "levels": "mask.kept", "mask": {"method": "abp"}},
        "y": {**at, "levels": "transfer.prune.sparsity", "transfer": {"prune": {"score": "l0"}}},
    }
    layered = {**BASE, "kept": [0.5, 0.001], "mask": {"epochs": 2}, "models": models}
    matrix = load_matrix("base", written(tmp_path, layered))
    assert list(matrix.models) == ["dense", "x-50", "x-0.1", "y-50", "y-0.1"]
    masked = cell(matrix, "x-0.1/sst2/0")
    assert masked.stages["mask"] == {"epochs": 2, "method": "abp", "kept": 0.001}
    assert (masked.entry.method, masked.entry.sparsity) == ("X", 0.999)
    assert masked.entry.title == "X, 0.1 % kept"
    pruned = cell(matrix, "y-0.1/sst2/0")
    assert pruned.stages["transfer"]["prune"] == {"score": "l0", "sparsity": 0.999}
    hashes = {c.settings_hash("fp32") for c in matrix.cells([0])}
    assert len(hashes) == len(matrix.cells([0]))


def test_the_first_seed_of_every_cell_comes_first(tmp_path: Path) -> None:
    cells = load_matrix("base", written(tmp_path)).cells([0, 1])
    assert [c.name for c in cells[:4]] == [
        "dense/rte/0",
        "sparse/rte/0",
        "dense/sst2/0",
        "sparse/sst2/0",
    ]
    assert {c.seed for c in cells[4:]} == {1}


def test_later_layers_win_and_groups_are_joined(tmp_path: Path) -> None:
    matrix = load_matrix("base", written(tmp_path))
    assert cell(matrix, "sparse/rte/0").stages["transfer"] == {
        "epochs": 9,
        "learning_rate": 1e-3,
        "distillation": {"logits": 0.5, "hidden": 1.0},
    }
    assert cell(matrix, "dense/sst2/0").layers["transfer"] == {}
    assert joined({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {
        "a": {"b": 3, "c": 2},
        "d": 4,
    }


def test_changes_win_over_the_files_but_not_in_the_teacher(tmp_path: Path) -> None:
    matrix = load_matrix("base", written(tmp_path))
    changed = matrix.cell("sparse", "rte", 0, {"transfer": {"epochs": 1}})
    teacher = matrix.teacher_of(changed)
    assert changed.stages["transfer"]["epochs"] == 1
    assert teacher and teacher.stages["transfer"]["epochs"] == 9


def test_a_cell_is_another_one_when_its_settings_or_its_teachers_change(tmp_path: Path) -> None:
    hashes = []
    for changes in ({}, {"epochs": 4}, {"title": "new"}, {"teacher": 1}):
        matrix = yaml.safe_load(yaml.safe_dump(BASE))
        if "epochs" in changes:
            matrix["transfer"]["epochs"] = 4
        if "title" in changes:
            matrix["models"]["sparse"]["title"] = "new"
        if "teacher" in changes:
            matrix["models"]["dense"]["transfer"] = {"dropout": 0.0}
        read = load_matrix("base", written(tmp_path, matrix))
        hashes.append(
            [cell(read, name).settings_hash("fp32") for name in ("sparse/sst2/0", "sparse/rte/0")]
        )
    first, epochs, title, teacher = hashes
    assert epochs[0] != first[0] and epochs[1] == first[1]  # rte has its own number of epochs
    assert title == first
    assert teacher[0] != first[0] and teacher[1] != first[1]


def test_an_extension_shares_the_cells_of_its_base(tmp_path: Path) -> None:
    small = {"title": "small", "family": "fewer-layers", "start": "small", "teacher": "dense"}
    more = {"about": "y", "extends": "base", "tasks": {"rte": None}, "models": {"small": small}}
    folder = written(tmp_path, more=more)
    base, extended = load_matrix("base", folder), load_matrix("more", folder)
    assert list(extended.models) == ["dense", "sparse", "small"] and list(extended.tasks) == ["rte"]
    ours, theirs = cell(extended, "sparse/rte/0"), cell(base, "sparse/rte/0")
    assert (ours.matrix, ours.settings_hash("fp32")) == ("base", theirs.settings_hash("fp32"))
    assert cell(extended, "small/rte/0").matrix == "more"
    assert cell(extended, "small/rte/0").stages["transfer"]["epochs"] == 9


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("sparse", 4), ("sparse/rte", 2), ("*/rte/1", 2), ("s*/sst2/0", 1)],
)
def test_patterns_choose_cells(tmp_path: Path, pattern: str, found: int) -> None:
    assert len(load_matrix("base", written(tmp_path)).cells([0, 1], [pattern])) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["models"]["sparse"].update(teacher="dens"), "no teacher 'dens'; did you mean 'dense'"),
        (lambda m: m["tasks"].update(rtee=None), "no task 'rtee'; did you mean 'rte'"),
        (lambda m: m["models"]["dense"].update(famly="x"), "unknown setting .*famly"),
        (lambda m: m.update(extends="bas"), "no matrix 'bas'; did you mean 'base'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, change, message: str) -> None:
    matrix = yaml.safe_load(yaml.safe_dump(BASE))
    change(matrix)
    with pytest.raises(InputError, match=message):
        load_matrix("base", written(tmp_path, matrix))


def test_an_extension_with_stage_settings_of_its_own_is_refused(tmp_path: Path) -> None:
    more = {**BASE, "extends": "base"}
    with pytest.raises(InputError, match="the settings of stages and tasks stand there"):
        load_matrix("more", written(tmp_path, more=more))
    with pytest.raises(InputError, match="no matrix 'none'"):
        load_matrix("none", tmp_path)
    with pytest.raises(InputError, match=r"--only spare: matches no cell .* models dense, sparse"):
        load_matrix("base", tmp_path).cells([0], ["spare"])


def test_longer_training_differs_from_plain_transfer_in_what_it_says() -> None:
    """Its file repeats settings of the matrix that it extends."""
    matrix = load_matrix("longer")
    for task in matrix.tasks:
        plain = matrix.cell("sparse-90", task, 0).stages
        longer = matrix.cell("longer-sparse-90", task, 0).stages
        epochs = {"epochs": longer["transfer"]["epochs"]}
        assert longer == {**plain, "transfer": {**plain["transfer"], **epochs}}
        for model in ("sparse-90-long", "sparse-90-longer"):
            assert matrix.cell(model, task, 0).stages == plain
        taught = matrix.cell("taught-sparse-90", task, 0).stages
        on_long_text = matrix.cell("taught-sparse-90-long", task, 0).stages
        assert on_long_text == {**taught, "adapt": {**taught["adapt"], "length": 384}}
