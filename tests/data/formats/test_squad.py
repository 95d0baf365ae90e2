"""SQuAD's own JSON: one row a question; a broken file names the question."""

import json
from pathlib import Path
from typing import Any

import pytest

from prunella.data.readers import read_table
from prunella.errors import InputError

CONTEXT = "The dog sat. The cat ran."
V1 = {
    "version": "1.1",
    "data": [
        {
            "title": "Pets",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who sat?",
                            "answers": [
                                {"text": "The dog", "answer_start": 0},
                                {"text": "dog", "answer_start": 4},
                            ],
                        },
                        {
                            "question": "Who ran?",
                            "answers": [{"text": "cat", "answer_start": 17}],
                        },
                    ],
                }
            ],
        },
        {"paragraphs": []},
    ],
}


def _read(folder: Path, document: Any) -> list[dict[str, Any]]:
    path = folder / "squad.json"
    path.write_text(json.dumps(document, indent=1))
    return read_table(str(path)).to_list()


def test_version_1(tmp_path: Path) -> None:
    first, second = _read(tmp_path, V1)
    assert first == {
        "id": "q1",
        "title": "Pets",
        "context": CONTEXT,
        "question": "Who sat?",
        "answers": {"text": ["The dog", "dog"], "answer_start": [0, 4]},
    }
    assert second["id"] == "2"
    start = second["answers"]["answer_start"][0]
    assert CONTEXT[start : start + 3] == "cat"
    # Without "version" a list under "data" could also be a column.
    assert _read(tmp_path, {"data": V1["data"]}) == [first, second]


def test_version_2(tmp_path: Path) -> None:
    questions = [
        {"id": "a", "question": "Who flew?", "is_impossible": True, "answers": []},
        {"id": "b", "question": "Who hid?", "is_impossible": True},
        {"id": "c", "question": "Who sat?", "answers": [{"text": "dog", "answer_start": 4}]},
    ]
    found = _read(tmp_path, _with(questions))
    assert [row["is_impossible"] for row in found] == [True, True, False]
    assert [row["answers"]["text"] for row in found] == [[], [], ["dog"]]
    only = _read(tmp_path, _with(questions[:2]))
    assert [row["answers"] for row in only] == [{"text": [], "answer_start": []}] * 2


def test_other_json_is_no_squad(tmp_path: Path) -> None:
    assert _read(tmp_path, {"data": ["a", "b"]}) == [{"data": "a"}, {"data": "b"}]
    assert _read(tmp_path, {"data": []} | {"x": 1}) == [{"data": [], "x": 1}]


def _with(questions: Any) -> Any:
    return {"data": [{"title": "T", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}


FINE = {"question": "q", "answers": []}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            _with([FINE, {"question": "q"}]),
            r"article 1 \(T\), paragraph 1, question 2: no 'answers'",
        ),
        (_with([{"question": "q", "is_impossible": False}]), "question 1: no 'answers'"),
        (_with([{"answers": []}]), "question 1: no 'question'"),
        (_with(["q"]), "question 1: expected an object, found str"),
        (_with(5), r"paragraph 1: 'qas' must be a list, found int"),
        (_with([{**FINE, "answers": ["x"]}]), "answers: expected an object, found str"),
        (_with([{**FINE, "answers": [{"text": "x"}]}]), "answers: no 'answer_start'"),
        (
            _with([{**FINE, "answers": [{"text": "x", "answer_start": "1"}]}]),
            "'answer_start' must be a whole number, found str",
        ),
        (_with([{**FINE, "is_impossible": "no"}]), "must be true or false, found str"),
        (_with([{**FINE, "question": "\ud800"}]), "half of a surrogate pair"),
        (_with([{**FINE, "answers": [{"text": "x", "answer_start": 9**99}]}]), "beyond all texts"),
        ({"data": [{"paragraphs": 5}]}, "article 1: 'paragraphs' must be a list, found int"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1: no 'context'"),
        ({"data": [{"title": "T", "paragraphs": []}]}, "has no rows"),
    ],
)
def test_broken_documents(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _read(tmp_path, document)
    assert "squad.json" in str(caught.value)
