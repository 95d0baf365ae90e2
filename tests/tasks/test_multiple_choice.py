"""Choices of a row meet in one batch and are compared with each other alone."""

from typing import Any

import numpy as np
import pytest
import torch
from tasks.letters import reading, table

from prunella.data.metrics import metrics
from prunella.data.task_batches import TaskBatches, collate
from prunella.errors import InputError
from prunella.tasks import Columns, Deciding
from prunella.tasks.multiple_choice import ChoiceRows, MultipleChoice

KIND = MultipleChoice()
USUAL = Columns()


def read(columns: Columns = USUAL, **given: Any) -> ChoiceRows:
    return KIND.read(table(**given), columns, None, "f")


ROWS = {"text": ["a", "b b b"], "choices": [["c", "d", "e e"], ["f", "g"]], "label": [2, 0]}


@pytest.mark.parametrize(
    ("given", "columns", "text", "choices"),
    [
        (ROWS, {}, "a", ["c", "d", "e e"]),
        (
            {"sent1": ["a"], "sent2": ["b"], "ending0": ["c"], "ending1": ["d"], "label": [1]},
            {},
            "a",
            ["b c", "b d"],
        ),
        ({"ctx": ["a"], "endings": [["c", "d"]], "label": ["1"]}, {}, "a", ["c", "d"]),
        (
            {"article": ["a"], "question": ["b"], "options": [["c", "d"]], "answer": ["B"]},
            {},
            "a",
            ["b c", "b d"],
        ),
        (
            {"question": ["a"], "choices": [{"label": ["A"], "text": ["c", "d"]}], "label": [1]},
            {},
            "a",
            ["c", "d"],
        ),
        (  # the second choice is called 1, and the data's own names come before numbers from 0
            {
                "question": ["a"],
                "choices": [{"label": ["0", "1"], "text": ["c", "d"]}],
                "answerKey": ["1"],
            },
            {},
            "a",
            ["c", "d"],
        ),
        (
            {"x": ["a"], "one": ["c"], "two": ["d"], "y": [1]},
            {"text": "x", "choices": "one, two", "label": "y"},
            "a",
            ["c", "d"],
        ),
    ],
)
def test_usual_layouts(given: Any, columns: Any, text: str, choices: list[str]) -> None:
    assert KIND.fits(table(**given), Columns(**columns))
    rows = read(Columns(**columns), **given)
    assert (rows.texts[0], rows.choices[0]) == (text, choices)
    assert rows.labels[0] == len(choices) - 1


def test_each_row_may_call_its_choices_otherwise() -> None:
    letters, numbers = {"label": ["A", "B"]}, {"label": ["1", "2"]}
    texts = {"text": ["c", "d"]}
    given = {
        "question": ["a"] * 3,
        "choices": [{**n, **texts} for n in (letters, numbers, numbers)],
    }
    rows = read(**given, answerKey=["B", "1", "2"])
    assert rows.labels.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"'A' names none .* in row 2; they are called 1, 2"):
        read(**given, answerKey=["B", "A", "2"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**ROWS, "label": [3, 0]}, "the number of a choice.*found 3 in row 1"),
        ({**ROWS, "choices": [["c"], ["f", "g"]]}, "two or more texts is needed.*row 1"),
        ({"text": ["a"], "label": [0]}, "which column holds the choices"),
    ],
)
def test_what_does_not_fit(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(**given)


def test_every_choice_is_a_sequence() -> None:
    encoded = KIND.encode(read(**ROWS), reading())
    assert encoded.examples is not None
    assert encoded.examples.tolist() == [0, 0, 0, 1, 1]
    assert encoded.labels.tolist() == [0, 0, 1, 1, 0]
    assert len(encoded) == 5


def test_choices_of_a_row_meet_in_one_batch() -> None:
    rows = {name: values * 15 for name, values in ROWS.items()}
    encoded = KIND.encode(read(**rows), reading())
    source = TaskBatches(encoded, batch_size=4, epochs=2, steps=None, seed=1, pad_id=0)
    assert source.batches_per_epoch == 8
    seen = []
    for position in range(8):
        batch = source[position]
        for example in batch["example"].unique().tolist():
            here = batch["index"][batch["example"] == example].tolist()
            assert here == np.flatnonzero(encoded.examples == example).tolist()
            seen.append(example)
    assert sorted(seen) == list(range(30))


def test_losses_by_hand() -> None:
    encoded = KIND.encode(read(**ROWS), reading())
    batch = collate(encoded, np.array([3, 4, 0, 1, 2]), 0)
    even = torch.zeros(5, 1)
    expected = (np.log(2) + np.log(3)) / 2
    assert KIND.loss(even, batch, None).item() == pytest.approx(expected)
    right = torch.tensor([[40.0], [0], [0], [0], [40]])
    assert KIND.loss(right, batch, None).item() == pytest.approx(0, abs=1e-6)
    # What all choices share says nothing.
    shifted = right + torch.tensor([[5.0], [5], [-3], [-3], [-3]])
    assert KIND.distillation(right, shifted, batch, 2.0).item() == pytest.approx(0, abs=1e-5)
    assert KIND.distillation(even, right, batch, 1.0).item() == pytest.approx(expected, rel=1e-4)


def test_the_best_choice_wins() -> None:
    rows = read(**ROWS)
    encoded = KIND.encode(rows, reading())
    logits = np.array([[1], [3], [2], [-1], [-2]], np.float32)
    found = KIND.decode(logits, encoded, rows, reading(), Deciding())
    assert found.values.tolist() == [1, 0]
    assert found.details[0] == {
        "prediction": 1,
        "label": 2,
        "choice": "d",
        "logits": [1.0, 3.0, 2.0],
    }
    figures = metrics(KIND.name, rows.gold, found.values, logits=found.logits)
    assert figures["accuracy"] == 0.5
    assert np.isfinite(figures["log_loss"])
