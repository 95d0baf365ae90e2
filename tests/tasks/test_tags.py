"""Tags of every scheme become IOB2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.tasks.tags import inside, sorted_tags, to_iob2


@pytest.mark.parametrize(
    ("written", "iob2"),
    [
        ("B-X I-X O B-X", "B-X I-X O B-X"),
        ("I-X I-X O I-Y I-X", "B-X I-X O B-Y B-X"),  # IOB1
        ("I-X B-X I-X", "B-X B-X I-X"),  # IOB1: B- only between neighbours of one type
        ("B-X I-X E-X S-Y S-Y O", "B-X I-X I-X B-Y B-Y O"),  # IOBES
        ("B-X M-X E-X S-Y O M-X", "B-X I-X I-X B-Y O B-X"),  # BMES
        ("B-X L-X U-Y I-Y", "B-X I-X B-Y B-Y"),  # BIOLU; what follows a whole entity begins anew
        ("E-X I-X", "B-X B-X"),
        ("NN VBZ O", "NN VBZ O"),  # parts of speech
        ("", ""),
    ],
)
def test_schemes(written: str, iob2: str) -> None:
    assert to_iob2(written.split()) == iob2.split()


@given(st.lists(st.sampled_from("O B-X I-X M-X E-X S-X B-Y I-Y L-Y U-Y".split()), max_size=12))
def test_iob2_stays_as_it_is(tags: list[str]) -> None:
    once = to_iob2(tags)
    assert to_iob2(once) == once
    assert len(once) == len(tags)
    assert all(tag == "O" or tag[:2] in ("B-", "I-") for tag in once)


def test_what_goes_on_and_what_comes_first() -> None:
    assert [inside(tag) for tag in ("B-X", "I-X", "O", "NN")] == ["I-X", "I-X", "O", "NN"]
    assert sorted_tags({"I-X", "O", "B-X"}) == ["O", "B-X", "I-X"]
