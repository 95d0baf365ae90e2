"""SQuAD's rules: what is normalised, what counts, with and without unanswerable questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.metrics import metrics
from prunella.data.scoring.answers import best_threshold, normalize_answer
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


def test_the_best_threshold_by_hand() -> None:
    gold = [["dog"], [], ["blue cat"], []]
    texts = ["dog", "x", "cat", "y"]
    # Answering the two questions with the lowest margins: 1 + 2/3, and silence is right once.
    # Answering the third as well adds nothing; the fourth would cost what silence earns.
    found = best_threshold(gold, texts, [-3.0, 2.0, -1.0, 1.0])
    assert found == pytest.approx(
        {"best_f1": (1 + 2 / 3 + 2) / 4, "best_exact": 3 / 4, "best_f1_threshold": -1.0}
    )
    # Silence throughout is best where no answer is right; equal margins go together.
    found = best_threshold([[], ["dog"]], ["x", "y"], [0.5, 0.5])
    assert found["best_f1"] == 1 / 2 and found["best_f1_threshold"] < 0.5
    assert best_threshold([[], ["dog"]], ["x", "dog"], [0.5, 0.5])["best_f1"] == 1 / 2


_WORDS = st.sampled_from(["", "dog", "blue cat", "red dog"])


@given(
    st.lists(
        st.tuples(st.lists(_WORDS, max_size=2), _WORDS.filter(bool), st.integers(-3, 3)), min_size=1
    )
)
def test_no_threshold_is_better(rows: list[tuple[list[str], str, int]]) -> None:
    gold, texts, margins = ([row[i] for row in rows] for i in range(3))
    gold.append([])  # by the rules of version 2
    texts.append("dog")
    margins.append(0)
    found = best_threshold(gold, texts, margins)
    scores = []
    for threshold in [found["best_f1_threshold"], *range(-4, 4)]:
        said = [t if m <= threshold else "" for t, m in zip(texts, margins, strict=True)]
        scores.append(_score(gold, said))
    assert found["best_f1"] == pytest.approx(scores[0]["f1"])
    assert found["best_f1"] == pytest.approx(max(score["f1"] for score in scores))
    assert found["best_exact"] == pytest.approx(max(score["exact"] for score in scores))


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="no examples"):
        _score([], [])
    with pytest.raises(ValueError, match="1 questions, but predictions for 2"):
        _score([["a"]], ["a", "b"])
