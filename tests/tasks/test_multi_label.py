"""Labels that do not exclude each other, from lists, flags and columns of flags."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tasks.letters import reading, table

from prunella.errors import InputError
from prunella.tasks import Columns, Deciding
from prunella.tasks.multi_label import MultiLabel
from prunella.tasks.texts import TextRows

KIND = MultiLabel()
USUAL = Columns()


def read(names: list[str] | None = None, columns: Columns = USUAL, **given: Any) -> TextRows:
    n = len(next(iter(given.values())))
    return KIND.read(table(text=["a b"] * n, **given), columns, names, "f")


@pytest.mark.parametrize(
    ("given", "names", "labels"),
    [
        ({"labels": [["x", "y"], [], ["y"]]}, ["x", "y"], [[1, 1], [0, 0], [0, 1]]),
        ({"labels": [[3, 1], [3]]}, ["1", "3"], [[1, 1], [0, 1]]),
        ({"labels": [[0, 1, 1], [0, 0, 0]]}, ["0", "1", "2"], [[0, 1, 1], [0, 0, 0]]),
        ({"labels": [[1, 0], [0, 1]]}, ["0", "1"], [[1, 0], [0, 1]]),  # flags, not ids
        ({"label": [["x", "x"], ["y"]]}, ["x", "y"], [[1, 0], [0, 1]]),
    ],
)
def test_lists(given: Any, names: list[str], labels: list[list[int]]) -> None:
    assert KIND.fits(table(text=["a"] * len(labels), **given), Columns())
    rows = read(**given)
    assert (rows.names, rows.labels.tolist()) == (names, labels)


def test_a_column_for_each_label() -> None:
    columns = Columns(label="rude,threat")
    given = {"rude": [1, 0, 1], "threat": ["0", "1", "1"]}
    assert KIND.fits(table(text=["a"] * 3, **given), columns)
    rows = read(columns=columns, **given)
    assert (rows.names, rows.labels.tolist()) == (["rude", "threat"], [[1, 0], [0, 1], [1, 1]])
    again = read(rows.names, **given)  # the model's labels are columns
    assert again.labels.tolist() == rows.labels.tolist()
    turned = read(["rude", "threat"], Columns(label="threat,rude"), **given)
    assert (turned.names, turned.labels.tolist()) == (rows.names, rows.labels.tolist())
    with pytest.raises(InputError, match="labels are rude, threat, .* head rude, kind; they must"):
        read(["rude", "kind"], columns, **given)
    with pytest.raises(InputError, match=r"column 'rude': .* holds 0 or 1; found 2 in row 1"):
        read(columns=columns, rude=[2], threat=[0])


def test_ids_of_names_that_come_with_the_data() -> None:
    features = datasets.Features(
        text=datasets.Value("string"),
        labels=datasets.List(datasets.ClassLabel(names=["joy", "fear", "rage"])),
    )
    rows = {"text": ["a", "b"], "labels": [[2, 0], []]}
    found = KIND.read(datasets.Dataset.from_dict(rows, features=features), Columns(), None, "f")
    assert (found.names, found.labels.tolist()) == (["joy", "fear", "rage"], [[1, 0, 1], [0] * 3])


def own(names: list[str], labels: list[list[int]]) -> datasets.Dataset:
    """Rows whose numbers have names of their own."""
    features = datasets.Features(
        text=datasets.Value("string"), labels=datasets.List(datasets.ClassLabel(names=names))
    )
    rows = {"text": ["a"] * len(labels), "labels": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def test_names_of_the_data_come_before_ids_of_the_head() -> None:
    made = own(["joy", "fear", "rage"], [[2, 0], [], [1]])
    rows = KIND.read(made, Columns(), ["Rage", "Joy", "Fear"], "f")
    assert rows.names == ["Rage", "Joy", "Fear"]
    assert rows.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="unknown label 'rage'"):
        KIND.read(made, Columns(), ["joy", "fear"], "f")
    # None of its names is known: then its numbers are the head's ids.
    rows = KIND.read(made, Columns(), ["0", "1", "2"], "f")
    assert rows.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_two_ids_a_row_are_no_flags_where_there_are_more_classes() -> None:
    rows = read(["x", "y", "z"], labels=[[1, 0], [0, 1]])
    assert rows.labels.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert read(["x", "y"], labels=[[1, 0], [0, 1]]).labels.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(InputError, match="2 flags a row for 3 labels"):
        read(["x", "y", "z"], labels=[[1, 0], [1, 1]])


def test_names_that_transformers_made_up() -> None:
    rows = read(["0", "1"], labels=[["LABEL_1"], ["LABEL_0", "1"]])
    assert rows.labels.tolist() == [[0, 1], [1, 1]]


def test_labels_of_training_hold() -> None:
    rows = read(["x", "y", "z"], labels=[["y"], ["z", "x"]])
    assert rows.labels.tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(InputError, match=r"unknown label 'w'; the 2 known.*'x', 'y'"):
        read(["x", "y"], labels=[["x"], ["w"]])


def test_a_number_is_a_place_only_among_names_that_are_no_numbers() -> None:
    assert read(["joy", "fear", "rage"], labels=[[2], []]).labels.tolist() == [[0, 0, 1], [0] * 3]
    # The third label of training is 3: 2 was never seen, and is not another way to write it.
    with pytest.raises(InputError, match=r"unknown label '2'; the 4 known.*'0', '1', '3', '4'"):
        read(["0", "1", "3", "4"], labels=[[0], [2], [3]])
    with pytest.raises(InputError, match="unknown label '3'"):
        read(["joy", "fear", "rage"], labels=[[3], []])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "y"], "a list of labels for each row.*in rows 1, 2"),
        ([[], []], "0 different labels"),
        ([[f"l{i}", f"m{i}"] for i in range(60)], "120 different labels in 60 rows"),
    ],
)
def test_what_does_not_fit(labels: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(labels=labels)


def test_losses_by_hand() -> None:
    batch = {"labels": torch.tensor([[1, 0], [1, 1]])}
    even = torch.zeros(2, 2)
    assert KIND.loss(even, batch, None).item() == pytest.approx(np.log(2))
    sure = torch.tensor([[30.0, -30], [30, 30]])
    assert KIND.loss(sure, batch, None).item() == pytest.approx(0, abs=1e-6)
    assert KIND.distillation(even, even, batch, 2.0).item() == pytest.approx(0, abs=1e-6)
    expected = pytest.approx(4 * np.log(2), rel=1e-4)
    assert KIND.distillation(even, 9 * sure, batch, 2.0).item() == expected


def test_rare_labels_weigh_more() -> None:
    rows = read(labels=[["x"], ["x"], ["x", "y"], []])
    weights = KIND.class_weights(KIND.encode(rows, reading()), 2)
    assert weights.tolist() == pytest.approx([1 / 3, 3])


def test_the_threshold_decides() -> None:
    rows = read(labels=[["x"], ["y"]])
    encoded = KIND.encode(rows, reading())
    logits = np.array([[2.0, -2.0], [0.1, 1.0]], np.float32)
    found = KIND.decode(logits, encoded, rows, reading(), Deciding())
    assert found.values.tolist() == [[1, 0], [1, 1]]
    assert found.details[1]["prediction"] == ["x", "y"]
    strict = KIND.decode(logits, encoded, rows, reading(), Deciding(threshold=0.8))
    assert strict.values.tolist() == [[1, 0], [0, 0]]
