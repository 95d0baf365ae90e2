"""Tasks: columns are found, labels become ids or scores, and what does not fit is named."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.labels import clean, to_class_ids
from prunella.data.tasks import TaskData, find_columns, load_task
from prunella.errors import InputError


def write(folder: Path, rows: list[dict[str, Any]], name: str = "t.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def load(source: str, **settings: Any) -> TaskData:
    columns: dict[str, Any] = {"text": None, "pair": None, "label": None}
    return load_task(source, **(columns | settings))


def labelled(folder: Path, labels: list[Any], **settings: Any) -> TaskData:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    return load(write(folder, rows), **settings)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["sentence", "label"], ("sentence", None, "label")),
        (["idx", "text", "labels"], ("text", None, "labels")),
        (["sentence2", "sentence1", "score"], ("sentence1", "sentence2", "score")),
        (["question1", "question2", "label"], ("question1", "question2", "label")),
        (["question", "sentence", "label"], ("question", "sentence", "label")),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis", "label")),
        (["text", "text_pair", "label"], ("text", "text_pair", "label")),
    ],
)
def test_usual_columns_are_found(columns: list[str], expected: tuple[str, str | None, str]) -> None:
    assert find_columns(columns, None, None, None, "f") == expected


def test_settings_win_over_usual_columns() -> None:
    columns = ["sentence1", "sentence2", "text", "label", "score"]
    assert find_columns(columns, "text", None, "score", "f") == ("text", None, "score")
    found = find_columns(columns, "sentence2", "sentence1", "label", "f")
    assert found == ("sentence2", "sentence1", "label")


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (["body", "label"], (None, None, None), "Set `text`.*the columns are 'body', 'label'"),
        (["sentence", "text", "label"], (None, None, None), "could be sentence or text"),
        (
            ["sentence1", "sentence2", "premise", "hypothesis", "label"],
            (None, None, None),
            r"could be sentence1\+sentence2 or premise\+hypothesis",
        ),
        (["text", "label", "score"], (None, None, None), "could be label or score. Set `label`"),
        (["text", "stars"], (None, None, None), "holds the label: none of the usual.*'stars'"),
        (["text", "stars"], (None, None, "star"), r"no column 'star' \(label\).*mean 'stars'"),
        (["text", "label"], ("txt", None, None), r"no column 'txt' \(text\)"),
        (["text", "label"], ("text", "b", None), r"no column 'b' \(pair\)"),
        (["text", "other", "label"], (None, "other", None), "`pair: other` needs `text`"),
        (["text", "label"], ("text", "text", "label"), "different columns"),
        (["text", "label"], ("text", None, "text"), "different columns"),
    ],
)
def test_undecided_and_wrong_columns(
    columns: list[str], settings: tuple[str | None, str | None, str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_columns(columns, *settings, "f")


def test_integer_labels_with_gaps(tmp_path: Path) -> None:
    data = labelled(tmp_path, [10, 2, 10, 4])
    assert data.kind == "classification"
    assert data.label_names == ["2", "4", "10"]
    assert data.labels.tolist() == [2, 0, 2, 1]
    assert data.labels.dtype == np.int64
    assert (data.texts[2], data.pairs, len(data)) == ("text 2", None, 4)


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["yes", "no", "yes"], ["no", "yes"], [1, 0, 1]),
        ([True, False, True], ["0", "1"], [1, 0, 1]),
        ([1.0, 0.0], ["0", "1"], [1, 0]),
        (["10", "9", "10"], ["9", "10"], [1, 0, 1]),
        (["007", "7"], ["007", "7"], [0, 1]),
        (["+1", "-1"], ["+1", "-1"], [0, 1]),
        (["nan", "inf"], ["inf", "nan"], [1, 0]),
        ([1, "x"], ["1", "x"], [0, 1]),
        ([2**53 + 1, 2**53], [str(2**53), str(2**53 + 1)], [1, 0]),
    ],
)
def test_labels_become_sorted_classes(
    tmp_path: Path, labels: list[Any], names: list[str], ids: list[int]
) -> None:
    data = labelled(tmp_path, labels)
    assert (data.kind, data.label_names, data.labels.tolist()) == ("classification", names, ids)


def test_fractions_mean_regression(tmp_path: Path) -> None:
    data = labelled(tmp_path, [5.0, 3.8, 0])
    assert (data.kind, data.label_names, data.labels.dtype) == ("regression", [], np.float32)
    np.testing.assert_array_equal(data.labels, np.array([5.0, 3.8, 0.0], dtype=np.float32))


def test_regression_of_whole_numbers_must_be_asked_for(tmp_path: Path) -> None:
    assert labelled(tmp_path, [1, 2, 3]).kind == "classification"
    data = labelled(tmp_path, [1, 2, 3], kind="regression")
    assert data.labels.tolist() == [1.0, 2.0, 3.0]


def test_csv_labels_are_typed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n12,0.5\n13,1\n")
    data = load(str(tmp_path / "t.csv"))
    assert (data.kind, data.labels.tolist(), data.texts) == ("regression", [0.5, 1], ["12", "13"])


def test_names_of_training_hold_for_validation(tmp_path: Path) -> None:
    train = labelled(tmp_path, ["c", "a", "b"])
    dev = labelled(tmp_path, ["b", "b"], kind=train.kind, label_names=train.label_names)
    assert dev.labels.tolist() == [1, 1]
    assert dev.label_names == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"unknown label 'd', 'e'; the 3 classes.*'a', 'b', 'c'"):
        labelled(tmp_path, ["a", "e", "d"], label_names=train.label_names)


def test_ids_of_a_head_with_names(tmp_path: Path) -> None:
    head = ["negative", "positive"]
    assert labelled(tmp_path, [1, 0, 1], label_names=head).labels.tolist() == [1, 0, 1]
    assert labelled(tmp_path, [1], label_names=["LABEL_0", "LABEL_1"]).labels.tolist() == [1]
    with pytest.raises(InputError, match="unknown label 0, 1, 2; the 2 classes"):
        labelled(tmp_path, [0, 1, 2], label_names=head)


def test_numeric_names_are_never_read_as_ids(tmp_path: Path) -> None:
    assert labelled(tmp_path, [3, 1], label_names=["1", "2", "3"]).labels.tolist() == [2, 0]
    with pytest.raises(InputError, match="unknown label 0;"):
        labelled(tmp_path, [0, 1, 2], label_names=["1", "2", "3"])


def test_class_names_come_with_the_data(tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "maybe", "yes"])
    )
    rows = {"text": ["a", "b"], "label": [2, 0]}
    path = str(tmp_path / "t.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    data = load(path)
    assert (data.label_names, data.labels.tolist()) == (["no", "maybe", "yes"], [2, 0])


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0, None, 1, None], {}, "column 'label': no label in rows 2, 4;"),
        (["a", "", "b"], {}, "no label in row 2;"),
        ([0.5, float("nan")], {}, "no label in row 2;"),
        ([1, 1], {}, "every label is 1; two classes"),
        ([-1, -1], {}, "-1 usually means that labels are withheld"),
        ([[0, 1], [1]], {}, "row 1 holds a list"),
        ([f"name {i}" for i in range(60)], {}, "60 different labels in 60 rows"),
        ([0.5, 1], {"kind": "classification"}, "set `kind: regression`"),
        ([0.5, 1], {"label_names": ["a", "b"]}, "with fractions are no classes"),
        ([0.5, 1], {"kind": "regression", "label_names": ["a", "b"]}, "classes .'a', 'b'. were"),
        (["1.5", "x", "y"], {"kind": "regression"}, "finite number; found 'x' in rows 2, 3"),
        (["1.5", "inf"], {"kind": "regression"}, "found 'inf' in row 2"),
        ([1.5, 1e300], {"kind": "regression"}, "finite number; found .* in row 2"),
        ([0, 1], {"label_names": ["a", "a"]}, "label names must differ"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, labels: list[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        labelled(tmp_path, labels, **settings)


@pytest.mark.parametrize("names", [None, [], ["LABEL_0"]])
def test_a_regression_head_is_no_list_of_classes(tmp_path: Path, names: list[str] | None) -> None:
    data = labelled(tmp_path, [1, 2], kind="regression", label_names=names)
    assert data.label_names == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", " \t", "b", None], "column 'text': no text in rows 2, 4;"),
        ([""] * 9, "no text in rows 1, 2, 3, 4, 5 and 4 more;"),
        ([5, 6], "row 1 holds a int, not text"),
        ([["a"], ["b"]], "row 1 holds a list, not text"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, texts: list[Any], message: str) -> None:
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, rows))


def test_an_empty_second_text_is_found_too(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": h, "label": i} for i, h in enumerate(["b", ""])]
    with pytest.raises(InputError, match="column 'hypothesis': no text in row 2"):
        load(write(tmp_path, rows))


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": 0, "note": 1} for _ in range(2)]
    rows[1]["label"] = 1
    base = load(write(tmp_path, rows))
    assert base.pairs == ["b", "b"]
    other_file = load(write(tmp_path, [row | {"note": 2} for row in rows], "u.jsonl"))
    assert other_file.fingerprint == base.fingerprint
    changed = [
        [rows[0] | {"sentence1": "ab", "sentence2": "c"}, rows[1]],
        [rows[0] | {"label": 1}, rows[1] | {"label": 0}],
        [rows[0], rows[1], rows[1]],
    ]
    prints = {load(write(tmp_path, new)).fingerprint for new in changed}
    prints.add(load(write(tmp_path, rows), label_names=["x", "y"]).fingerprint)
    prints.add(load(write(tmp_path, rows), kind="regression").fingerprint)
    assert len(prints | {base.fingerprint}) == 6


def test_labels_cannot_be_changed_in_place(tmp_path: Path) -> None:
    data = labelled(tmp_path, [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1


@given(st.lists(st.integers() | st.text(min_size=1), min_size=2, max_size=20))
def test_every_label_finds_its_name_again(values: list[int | str]) -> None:
    labels = clean(values, "here")
    if len(set(labels)) < 2:
        return
    ids, names = to_class_ids(labels, None, "here")
    assert [names[i] for i in ids] == [str(label) for label in labels]
    again, _ = to_class_ids(labels, names, "here")
    np.testing.assert_array_equal(again, ids)
