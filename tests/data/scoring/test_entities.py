"""Entities by hand, in every tagging scheme."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.metrics import metrics
from prunella.data.scoring.entities import Span, entity_figures, spans_of
from prunella.errors import InputError


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("O O", []),
        ("B-X I-X O B-Y", [(0, 1, "X"), (3, 3, "Y")]),
        ("B-X B-X I-X", [(0, 0, "X"), (1, 2, "X")]),
        ("B-X I-Y I-Y", [(0, 0, "X"), (1, 2, "Y")]),  # another type begins
        ("O I-X I-X O I-X", [(1, 2, "X"), (4, 4, "X")]),  # IOB1, or malformed IOB2
        ("I-X B-X I-X", [(0, 0, "X"), (1, 2, "X")]),  # IOB1: B- parts neighbours
        ("B-X I-X E-X S-X S-Y O", [(0, 2, "X"), (3, 3, "X"), (4, 4, "Y")]),  # IOBES
        ("B-X L-X U-X I-X", [(0, 1, "X"), (2, 2, "X"), (3, 3, "X")]),  # BILOU; I- behind an end
        ("B-X E-Y E-Y", [(0, 0, "X"), (1, 1, "Y"), (2, 2, "Y")]),
        ("B-cell-line I-cell-line", [(0, 1, "cell-line")]),
        ("B I O B", [(0, 1, ""), (3, 3, "")]),  # one type without a name
        ("PER PER O LOC", [(0, 1, "PER"), (3, 3, "LOC")]),  # no prefixes
    ],
)
def test_spans(tags: str, spans: list[Span]) -> None:
    assert spans_of(tags.split()) == spans


def test_entities_by_hand() -> None:
    gold = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"], ["O"]]
    found = [["B-X", "I-X", "O", "B-X"], ["B-X", "I-X"], ["O"]]
    # one of three found: the type of one is wrong, the first word of another
    values = metrics("token-classification", gold, found)
    assert values == pytest.approx(
        {
            "f1": 1 / 3,
            "precision": 1 / 3,
            "recall": 1 / 3,
            "accuracy": 4 / 7,
        }
    )
    assert entity_figures(gold, found) == {
        "X": {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "entities": 2, "predicted": 3},
        "Y": {"precision": 0, "recall": 0, "f1": 0, "entities": 1, "predicted": 0},
    }


def test_the_scheme_of_predictions_may_differ() -> None:
    gold = [["B-X", "I-X", "O", "B-X", "B-X"]]
    for found in (["I-X", "I-X", "O", "I-X", "B-X"], ["B-X", "E-X", "O", "S-X", "S-X"]):
        assert metrics("token-classification", gold, [found])["f1"] == 1


def test_nothing_to_find() -> None:
    none, some = [["O", "O"]], [["O", "B-X"]]
    assert metrics("token-classification", none, none)["f1"] == 0
    assert metrics("token-classification", none, none)["accuracy"] == 1
    assert metrics("token-classification", none, some)["precision"] == 0
    assert entity_figures(none, none) == {}


def test_parts_of_speech_count_word_by_word() -> None:
    gold, found = [["DT", "NN", "NN", "VB"]], [["DT", "NN", "JJ", "VB"]]
    values = metrics("token-classification", gold, found)
    assert values["f1"] == values["accuracy"] == 0.75


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="no examples"):
        metrics("token-classification", [], [])
    with pytest.raises(ValueError, match="2 sentences, but predictions for 1"):
        metrics("token-classification", [["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match="sentence 1 has 1 tags, its prediction 2"):
        metrics("token-classification", [["O"], ["O"]], [["O"], ["O", "O"]])


SCHEMES = {  # prefixes of: the only word, the first, one inside, the last
    "IOB2": "BBII",
    "IOBES": "SBIE",
    "BILOU": "UBIL",
    "BMES": "SBME",
}


def _tags(lengths: Sequence[tuple[int, int, str]], scheme: str) -> tuple[list[str], list[Span]]:
    tags: list[str] = []
    spans: list[Span] = []
    alone, first, inside, last = scheme
    for gap, length, kind in lengths:
        tags += ["O"] * gap
        spans.append((len(tags), len(tags) + length - 1, kind))
        letters = alone if length == 1 else first + inside * (length - 2) + last
        tags += [f"{letter}-{kind}" for letter in letters]
    return tags, spans


ENTITIES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from("XY")))


@given(ENTITIES, st.sampled_from(sorted(SCHEMES)))
def test_every_scheme_gives_back_its_entities(
    entities: list[tuple[int, int, str]], scheme: str
) -> None:
    tags, spans = _tags(entities, SCHEMES[scheme])
    assert spans_of(tags) == spans


@given(ENTITIES)
def test_iob1_gives_back_its_entities(entities: list[tuple[int, int, str]]) -> None:
    tags, spans = _tags(entities, SCHEMES["IOB2"])
    starts = {first: kind for first, _, kind in spans}
    touching = {i for i, kind in starts.items() if i and tags[i - 1][2:] == kind}
    iob1 = [tag if i in touching else tag.replace("B-", "I-") for i, tag in enumerate(tags)]
    assert spans_of(iob1) == spans
