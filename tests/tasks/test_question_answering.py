"""Questions: answers are found in the context, windows that lack them point at nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.letters import CLS, SEP, A, B, C, D, E, F, reading, table

from prunella.data.task_batches import collate
from prunella.errors import InputError
from prunella.tasks import Columns, Deciding, Predictions
from prunella.tasks.question_answering import QuestionAnswering, QuestionRows

KIND = QuestionAnswering()


def read(answers: list[Any], context: str = "a b c d e f", **more: Any) -> QuestionRows:
    n = len(answers)
    given = {"question": ["g h"] * n, "context": [context] * n, "answers": answers, **more}
    return KIND.read(table(**given), Columns(), None, "f")


def one(text: str, start: int) -> dict[str, Any]:
    return {"text": [text], "answer_start": [start]}


def pointing(encoded: Any) -> np.ndarray:
    """Logits that say exactly what the labels say."""
    logits = np.zeros((int(encoded.output_offsets[-1]), 2), np.float32)
    for begin, (start, end) in zip(encoded.output_offsets, encoded.labels, strict=False):
        logits[begin + start, 0] = logits[begin + end, 1] = 9
    return logits


def test_a_question_by_hand() -> None:
    rows = read([one("c d", 4)])
    encoded = KIND.encode(rows, reading())
    assert encoded.ids.tolist()[4:] == [A, B, C, D, E, F, SEP]
    assert (encoded.ids[0], encoded.ids[3]) == (CLS, SEP)
    assert encoded.watched is not None
    assert np.flatnonzero(encoded.watched).tolist() == [0, 4, 5, 6, 7, 8, 9]
    assert encoded.labels.tolist() == [[3, 4]]  # of the first token and the context
    answers = KIND.decode(pointing(encoded), encoded, rows, reading(), Deciding())
    assert answers.values == ["c d"]
    assert answers.details[0]["candidates"][0]["start"] == 4


def test_windows_without_the_answer_point_at_their_first_token() -> None:
    rows = read([one("e", 8)])
    encoded = KIND.encode(rows, reading(max_length=8, stride=1))  # three tokens of context
    assert encoded.examples is not None
    assert encoded.examples.tolist() == [0, 0, 0]
    # a b c, c d e, e f: the windows share a token each
    assert encoded.labels.tolist() == [[0, 0], [3, 3], [1, 1]]
    values = KIND.decode(pointing(encoded), encoded, rows, reading(8, 1), Deciding()).values
    assert values == ["e"]


@given(
    begin=st.integers(0, 19),
    length=st.integers(1, 3),
    max_length=st.integers(8, 20),
    stride=st.integers(0, 9),
)
@settings(max_examples=60)
def test_the_answer_is_found_again_in_some_window(
    begin: int, length: int, max_length: int, stride: int
) -> None:
    words = [str("abcdefgh"[(i * i + i // 3) % 8]) for i in range(20)]
    answer = " ".join(words[begin : begin + length])
    rows = read([one(answer, 2 * begin)], " ".join(words))
    how = reading(max_length, stride)
    encoded = KIND.encode(rows, how)
    found = KIND.decode(pointing(encoded), encoded, rows, how, Deciding()).values
    lost = encoded.counts["answers_in_no_window"]
    assert lost == int((encoded.labels == 0).all())
    assert found == [answer] or lost


def test_no_answer_is_said_where_it_may_be() -> None:
    rows = read([{"text": [], "answer_start": []}, one("b", 2)])
    assert KIND.traits(rows) == {"no_answer": True}
    assert KIND.traits(read([one("b", 2)])) == {"no_answer": False}
    encoded = KIND.encode(rows, reading())
    assert encoded.labels.tolist() == [[0, 0], [2, 2]]

    def decoded(deciding: Deciding) -> Predictions:
        return KIND.decode(pointing(encoded), encoded, rows, reading(), deciding)

    def values(deciding: Deciding) -> list[str]:
        return decoded(deciding).values

    further = decoded(Deciding(no_answer=True, threshold=100.0)).further
    assert further["best_f1"] == further["best_exact"] == 1.0
    assert values(Deciding(no_answer=True, threshold=further["best_f1_threshold"])) == ["", "b"]
    assert not decoded(Deciding(no_answer=False)).further
    assert values(Deciding(no_answer=True)) == ["", "b"]
    assert values(Deciding(no_answer=True, threshold=100.0))[0] != ""
    assert "" not in values(Deciding(no_answer=False))
    assert rows.gold == [[], ["b"]]


def test_long_answers_are_not_given() -> None:
    rows = read([one("b c d", 2)])
    encoded = KIND.encode(rows, reading())
    deciding = Deciding(max_answer_length=2)
    (answer,) = KIND.decode(pointing(encoded), encoded, rows, reading(), deciding).values
    assert len(answer.split()) <= 2


@pytest.mark.parametrize(
    ("answer", "span", "moved"),
    [
        (one("c", 4), (4, 5), 0),
        (one("c", 3), (4, 5), 1),
        (one(" c ", 3), (3, 6), 0),
        (one("c ", 0), (4, 6), 1),
        ([{"text": "d", "answer_start": 6}], (6, 7), 0),
        ({"text": ["e", "f"], "answer_start": [8, 10]}, (8, 9), 0),
        (["f"], (10, 11), 0),
        ("b", (2, 3), 0),
    ],
)
def test_answers_of_every_form(answer: Any, span: tuple[int, int], moved: int) -> None:
    rows = read([answer])
    found = rows.spans[0]
    assert found is not None
    assert "a b c d e f"[found[0] : found[1]].strip() == "a b c d e f"[span[0] : span[1]].strip()
    assert rows.counts["answers_moved"] == moved


def test_the_nearest_occurrence_is_taken() -> None:
    rows = read([one("a", 9), one("a", 1), one("a", 4)], "a b a b a b")
    assert rows.spans == [(8, 9), (0, 1), (4, 5)]


def test_impossible_questions_have_no_answer() -> None:
    rows = read([one("b", 2), one("b", 2)], is_impossible=[True, False], id=["x", "y"])
    assert (rows.gold, rows.spans, rows.ids) == ([[], ["b"]], [None, (2, 3)], ["x", "y"])


@pytest.mark.parametrize("flags", [["True", "False"], ["1", "0"], [1, 0], ["true", None]])
def test_impossible_is_read_from_text_too(flags: list[Any]) -> None:
    rows = read([one("b", 2), one("b", 2)], is_impossible=flags)
    assert rows.gold == [[], ["b"]]


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(InputError, match="'is_impossible': true or false .* found 'no' in row 2"):
        read([one("b", 2), one("b", 2)], is_impossible=["False", "no"])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([one("zzz", 0), one("b", 2)], "no answer is in its context in row 1.*'zzz'"),
        ([{"text": [1], "answer_start": [0]}], "row 1 needs answers like"),
    ],
)
def test_answers_that_do_not_fit(answers: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(answers)


def test_one_accepted_answer_in_the_context_is_enough() -> None:
    several = {"text": ["zzz", "b"], "answer_start": [0, 2]}
    rows = read([several, one("b", 2)])
    assert rows.gold == [["zzz", "b"], ["b"]]
    assert (rows.spans, rows.counts) == ([(2, 3), (2, 3)], {"answers_moved": 0})


def test_long_questions_leave_half_of_the_room() -> None:
    given = {"question": ["g " * 40], "context": ["a b c"], "answers": [one("b", 2)]}
    rows = KIND.read(table(**given), Columns(), None, "f")
    encoded = KIND.encode(rows, reading(max_length=15))
    assert encoded.counts["questions_cut"] == 1
    assert encoded.lengths.tolist() == [3 + 6 + 3]


def test_loss_and_distillation_are_over_the_context() -> None:
    rows = read([one("c", 4), one("b", 2)], "a b c d")
    other = read([one("b", 2)], "a b")
    encoded = KIND.encode(rows, reading())
    batch = collate(encoded, np.array([1, 0]), 0)
    certain = torch.full((10, 2), -30.0)
    certain[2] = certain[5 + 3] = 30  # "b" of the first, "c" of the second
    assert KIND.loss(certain, batch, None).item() == pytest.approx(0, abs=1e-6)
    even = torch.zeros(10, 2)
    assert KIND.loss(even, batch, None).item() == pytest.approx(np.log(5))
    assert KIND.distillation(even, even + 3, batch, 2.0).item() == pytest.approx(0, abs=1e-6)
    expected = 4 * (np.log(5))  # a certain teacher, an even student, T = 2
    assert KIND.distillation(even, certain, batch, 2.0).item() == pytest.approx(expected, rel=1e-4)
    assert KIND.encode(other, reading()).labels.tolist() == [[2, 2]]


def test_what_looks_like_it() -> None:
    given = {"question": ["a"], "context": ["b"]}
    assert KIND.fits(table(**given, answers=[one("b", 0)]), Columns())
    assert KIND.fits(table(q=["a"], c=["b"], a=[["b"]]), Columns("q", "c", "a"))
    assert not KIND.fits(table(**given, label=["b"]), Columns())
