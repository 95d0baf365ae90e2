"""SQuAD's rules: what is normalised, what counts, with and without unanswerable questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.metrics import metrics
from prunella.data.scoring.answers import normalize_answer
from prunella.errors import InputError


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat's\u00a0hat!", "cats hat"),
        ("an a the", ""),
        ("A.N. Other", "other"),  # punctuation goes first, and leaves the article "an"
        ("Theatre; anagram", "theatre anagram"),  # articles are whole words
        ("the\tU.S.A.", "usa"),
        ("\u201cquoted\u201d \u2013 dash", "\u201cquoted\u201d \u2013 dash"),  # ASCII alone
        ("$1,000.50", "100050"),
        ("well-known", "wellknown"),
        ("ÀB", "àb"),
    ],
)
def test_normalization(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


@given(st.text())
def test_normalizing_twice_changes_little(text: str) -> None:
    once = normalize_answer(text)
    assert once == " ".join(once.split())
    assert normalize_answer(once).split() == [w for w in once.split() if normalize_answer(w)]


def _score(gold: list[list[str]], predictions: list[str]) -> dict[str, float]:
    return metrics("question-answering", gold, predictions)


def test_version_1_by_hand() -> None:
    gold = [["the blue dog", "a dog"], ["1999"], ["red red car"]]
    # exact after normalising; nothing in common; 2 of 2 predicted words among 3
    values = _score(gold, ["Dog.", "2000", "the red car"])
    assert values == pytest.approx({"f1": (1 + 0 + 4 / 5) / 3, "exact": 1 / 3})


def test_words_count_as_often_as_they_occur() -> None:
    assert _score([["red car"]], ["red red red car"])["f1"] == pytest.approx(2 * 2 / 6)


def test_no_answer_where_there_is_one_is_wrong() -> None:
    assert _score([["dog"]], [""]) == {"f1": 0, "exact": 0}


def test_version_2_by_hand() -> None:
    gold = [["the dog"], [], [], ["blue cat"]]
    values = _score(gold, ["dog", "", "dog", "cat"])
    assert values == pytest.approx(
        {
            "f1": (1 + 1 + 0 + 2 / 3) / 4,
            "exact": 2 / 4,
            "has_answer_f1": (1 + 2 / 3) / 2,
            "has_answer_exact": 1 / 2,
            "no_answer_accuracy": 1 / 2,
        }
    )
    assert _score([[], []], ["", "x"])["has_answer_f1"] == 0


def test_answers_of_which_nothing_is_left() -> None:
    # Version 1 has no special rule: exact agrees, and no word is in common.
    assert _score([["A"]], ["the"]) == {"f1": 0, "exact": 1}
    # Version 2 drops such answers, and where none remains, empty texts agree.
    assert _score([["A"], []], ["the", ""])["has_answer_f1"] == 1
    assert _score([["A", "letter"], []], ["the", ""])["has_answer_exact"] == 0


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="no examples"):
        _score([], [])
    with pytest.raises(ValueError, match="1 questions, but predictions for 2"):
        _score([["a"]], ["a", "b"])
