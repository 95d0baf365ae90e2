"""Columns are found by their usual names, and what does not fit is named."""

import datasets
import pytest

from prunella.data.tasks import Columns, Usual, find_columns, first_value, names_of, several
from prunella.errors import InputError


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


def test_a_kind_brings_usual_names_of_its_own() -> None:
    usual = Usual((("question", "context"), ("words", None)), ("answers", "tags"))
    columns = ["question", "context", "words", "tags"]
    assert find_columns(columns, None, None, None, "f", usual) == ("question", "context", "tags")
    assert find_columns(columns, "words", None, None, "f", usual) == ("words", None, "tags")
    with pytest.raises(InputError, match="cannot tell which column holds the label"):
        find_columns(["words"], None, None, None, "f", usual)


def test_several_columns_between_commas() -> None:
    assert several(["a", "b", "c"], "label", "a, c", "f") == ["a", "c"]
    assert several(["a,b", "c"], "label", "a,b", "f") == ["a,b"]
    with pytest.raises(InputError, match=r"no column 'toxik' \(label\).*did you mean 'toxic'"):
        several(["toxic", "threat"], "label", "toxik,threat", "f")
    with pytest.raises(InputError, match="names a column twice"):
        several(["a", "b"], "label", "a,a", "f")


def test_names_and_first_values_of_columns() -> None:
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
        tags=datasets.List(datasets.ClassLabel(names=["O", "B"])),
    )
    rows = {"text": [None, "b"], "label": [0, 1], "tags": [[1], [0]]}
    table = datasets.Dataset.from_dict(rows, features=features)
    assert [names_of(table, c) for c in ("text", "label", "tags")] == [
        None,
        ["no", "yes"],
        ["O", "B"],
    ]
    assert first_value(table, None, ("text", "other")) == "b"
    assert first_value(table, "tags", ("text",)) == [1]
    assert first_value(table, None, ("text", "label")) is None  # which one is not told
    assert first_value(table, "gone", ()) is None


def test_columns_that_nobody_names() -> None:
    assert Columns() == Columns(None, None, None, None)
