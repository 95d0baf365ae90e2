"""Classes and scores of texts: labels become ids or numbers, and what does not fit is named."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from prunella.errors import InputError
from prunella.tasks import Columns, load_rows


@dataclass
class Loaded:
    kind: str
    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray
    names: list[str]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "t.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def load(source: str, kind: str = "auto", label_names: list[str] | None = None) -> Loaded:
    found, rows = load_rows(source, Columns(), kind=kind, names=label_names)
    got: Any = rows
    return Loaded(found.name, got.texts, got.pairs, got.labels, got.names)


def labelled(folder: Path, labels: list[Any], **settings: Any) -> Loaded:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    return load(write(folder, rows), **settings)


def test_integer_labels_with_gaps(tmp_path: Path) -> None:
    data = labelled(tmp_path, [10, 2, 10, 4])
    assert data.kind == "classification"
    assert data.names == ["2", "4", "10"]
    assert data.labels.tolist() == [2, 0, 2, 1]
    assert data.labels.dtype == np.int64
    assert (data.texts[2], data.pairs) == ("text 2", None)


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
    assert (data.kind, data.names, data.labels.tolist()) == ("classification", names, ids)


def test_fractions_mean_regression(tmp_path: Path) -> None:
    data = labelled(tmp_path, [5.0, 3.8, 0])
    assert (data.kind, data.names, data.labels.dtype) == ("regression", [], np.float32)
    np.testing.assert_array_equal(data.labels, np.array([5.0, 3.8, 0.0], dtype=np.float32))


def test_a_few_labels_that_are_no_scores_do_not_make_classes_of_the_others(tmp_path: Path) -> None:
    scores = [i / 4 for i in range(40)]
    for odd in ("n/a", "1e400"):
        with pytest.raises(InputError, match=rf"'{odd}' in row 8 is no number, the other labels"):
            labelled(tmp_path, [*scores[:7], odd, *scores[8:]])
    few = ["3.10", "3.9", "unknown"] * 20  # names that look like numbers are few
    assert labelled(tmp_path, [*few, "3.11"]).kind == "classification"


@pytest.mark.parametrize("few", [False, True])
def test_decimal_commas_are_no_names_of_classes(tmp_path: Path, few: bool) -> None:
    scores = [f"{i % (3 if few else 26) / 5:.1f}".replace(".", ",") for i in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("text;label\n" + "".join(f"text {i};{s}\n" for i, s in enumerate(scores)))
    with pytest.raises(
        InputError, match="column 'label': '0,0' in rows 1, .* with a decimal comma"
    ):
        load(str(path))
    with pytest.raises(InputError, match="must be a finite number; found '0,0' .* write a point"):
        load(str(path), kind="regression")
    if not few:
        with pytest.raises(InputError, match="'n/a' in row 61 is no number, the other labels"):
            labelled(tmp_path, [*scores, "n/a"])


def test_classes_may_have_commas(tmp_path: Path) -> None:
    for labels in (["1,2,3", "4"], ["1,000", "2,000"], ["a,b", "1,5"]):
        assert labelled(tmp_path, labels).names == sorted(labels)


def test_lists_that_were_written_as_text_are_no_classes(tmp_path: Path) -> None:
    """As pandas writes a column of lists to csv, and numpy's arrays."""
    for cells in (
        ["['joy', 'anger']", "['joy']", "[]", "[]"],
        ["[3]", "[3]", "[0, 2]"],
        ["[0 1]", "[1. 0.]"],
    ):
        path = tmp_path / "t.csv"
        path.write_text("text,labels\n" + "".join(f't,"{cell}"\n' for cell in cells * 9))
        for kind in ("auto", "classification", "multi-label", "regression"):
            with pytest.raises(
                InputError, match=r"'labels': holds lists that were written as text"
            ):
                load(str(path), kind=kind)
    assert labelled(tmp_path, ["[1]", "[2]", "[PER]"] * 3).names == ["[1]", "[2]", "[PER]"]


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
    dev = labelled(tmp_path, ["b", "b"], kind=train.kind, label_names=train.names)
    assert dev.labels.tolist() == [1, 1]
    assert dev.names == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"unknown label 'd', 'e'; the 3 classes.*'a', 'b', 'c'"):
        labelled(tmp_path, ["a", "e", "d"], label_names=train.names)


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


def test_made_up_names_are_the_numbers_in_them(tmp_path: Path) -> None:
    made_up = ["LABEL_1", "LABEL_0"]
    assert labelled(tmp_path, made_up).names == ["LABEL_0", "LABEL_1"]
    # A head that was trained on them says that its classes have no names.
    assert labelled(tmp_path, made_up, label_names=["0", "1"]).labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="unknown label 'LABEL_2'"):
        labelled(tmp_path, ["LABEL_2"], label_names=["0", "1"])
    with pytest.raises(InputError, match="unknown label 'LABEL_0', 'LABEL_1'"):
        labelled(tmp_path, made_up, label_names=["1", "0"])


def own_names(folder: Path, names: list[str], labels: list[int]) -> str:
    """A table whose numbers have names of their own."""
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    rows = {"text": ["a"] * len(labels), "label": labels}
    path = str(folder / "t.parquet")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_class_names_come_with_the_data(tmp_path: Path) -> None:
    data = load(own_names(tmp_path, ["no", "maybe", "yes"], [2, 0]))
    assert (data.names, data.labels.tolist()) == (["no", "maybe", "yes"], [2, 0])
    numbers = load(own_names(tmp_path, ["1", "2", "3"], [2, 0]))
    assert (numbers.names, numbers.labels.tolist()) == (["1", "2", "3"], [2, 0])


@pytest.mark.parametrize(
    ("known", "ids"),
    [
        (["no", "maybe", "yes"], [2, 0, 1]),
        (["yes", "no", "maybe"], [0, 1, 2]),
        (["YES", "NO", "MAYBE", "NEVER"], [0, 1, 2]),
        (["a", "b", "c"], [2, 0, 1]),  # other names altogether: the numbers are the head's ids
        (["0", "1", "2"], [2, 0, 1]),
    ],
)
def test_names_of_the_data_come_before_ids_of_the_head(
    tmp_path: Path, known: list[str], ids: list[int]
) -> None:
    source = own_names(tmp_path, ["no", "maybe", "yes"], [2, 0, 1])
    data = load(source, label_names=known)
    assert (data.names, data.labels.tolist()) == (known, ids)


def test_a_name_of_the_data_that_the_head_lacks(tmp_path: Path) -> None:
    names = ["no", "maybe", "yes"]
    with pytest.raises(InputError, match="unknown label 'maybe'; the 2 classes"):
        load(own_names(tmp_path, names, [2, 0, 1]), label_names=["yes", "no"])
    assert load(own_names(tmp_path, names, [2, 0]), label_names=["yes", "no"]).labels[0] == 0
    with pytest.raises(InputError, match="unknown label '-1'"):
        load(own_names(tmp_path, names, [-1, 0]), label_names=["yes", "no"])


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0, None, 1, None], {}, "column 'label': no label in rows 2, 4;"),
        (["a", "", "b"], {}, "no label in row 2;"),
        ([0.5, float("nan")], {}, "no label in row 2;"),
        ([1, 1], {}, "every label is 1; two classes"),
        ([-1, -1], {}, "-1 usually means that labels are withheld"),
        ([-1.0, -1.0], {"kind": "regression"}, "every label is -1, .* labels are withheld"),
        ([[0, 1], [1]], {"kind": "classification"}, "row 1 holds a list"),
        (["good", "bad", "bad "], {}, "'bad' and 'bad ' differ in spaces alone"),
        ([f"name {i}" for i in range(60)], {}, "60 different labels in 60 rows"),
        ([0.5, 1], {"kind": "classification"}, "set `kind: regression`"),
        ([0.5, 1], {"label_names": ["a", "b"]}, "classes .'a', 'b'. were"),
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
    assert data.names == []


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


def test_a_second_text_may_be_empty(tmp_path: Path) -> None:
    """As in QQP; the first text may not, and second texts that all are look like a mistake."""

    def rows(seconds: list[str | None], first: str = "a") -> str:
        both = [{"premise": first, "hypothesis": second} for second in seconds]
        return write(tmp_path, [{**row, "label": i % 2} for i, row in enumerate(both)])

    assert load(rows(["b", "", None, " "])).pairs == ["b", "", "", ""]
    with pytest.raises(InputError, match="column 'hypothesis': no text in rows 1, 2;"):
        load(rows(["", None]))
    with pytest.raises(InputError, match="column 'premise': no text in row"):
        load(rows(["b", "c"], first=""))


def test_labels_cannot_be_changed_in_place(tmp_path: Path) -> None:
    data = labelled(tmp_path, [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1
