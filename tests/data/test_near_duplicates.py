"""Near-duplicate paragraphs: hand-made pairs, the promised probabilities, bounded memory."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data import near_duplicates
from prunella.data.near_duplicates import BANDS, LEAST_WORDS, ROWS, SeenParagraphs, band_keys

ABSTRACT = (
    "Chronic obstructive pulmonary disease is a leading cause of death, and its treatment with "
    "inhaled corticosteroids is disputed. We searched four databases for randomised trials of at "
    "least twelve weeks, and two reviewers extracted data on exacerbations, lung function, quality "
    "of life and adverse events. Nineteen trials with 9,450 patients were included. Treatment "
    "reduced exacerbations by a quarter but did not slow the decline of lung function."
)


def unseen(*texts: str) -> list[bool]:
    return SeenParagraphs().unseen(texts).tolist()


@pytest.mark.parametrize(
    "again",
    [
        ABSTRACT,
        ABSTRACT.upper(),
        f"  {ABSTRACT.replace(' ', '   ')}\t",
        ABSTRACT.replace(", ", " - ").replace(".", " (!)"),
        f"“{ABSTRACT}” – …",
        ABSTRACT.replace("twelve", "eight"),
        ABSTRACT.replace("9,450", "8,710"),
        f"Background: {ABSTRACT}",
        f"{ABSTRACT} Copyright 2011 by the authors.",
        ABSTRACT.removesuffix(" but did not slow the decline of lung function."),
    ],
)
def test_the_same_again(again: str) -> None:
    assert unseen(ABSTRACT, again) == [True, False]
    assert unseen(again, ABSTRACT) == [True, False]


@pytest.mark.parametrize(
    "other",
    [
        "Chronic obstructive pulmonary disease is a leading cause of death in most countries.",
        " ".join(sorted(ABSTRACT.split())),
        " ".join(reversed(ABSTRACT.split())),
        ABSTRACT[: len(ABSTRACT) // 2],  # a half is a text of its own
        ABSTRACT.replace(" of ", " with ").replace(" and ", " or ").replace(" the ", " its "),
    ],
)
def test_other_paragraphs_are_kept(other: str) -> None:
    assert unseen(ABSTRACT, other, ABSTRACT) == [True, True, False]


def test_sentences_of_one_pattern_are_no_duplicates() -> None:
    towns = ["Ashby", "Barton", "Corby", "Derwent", "Elton", "Fenwick"]
    texts = [
        f"{town} had {1_000 * number:,} people at the census of {1800 + number}, most of them "
        f"employed in its {trade}."
        for number, (town, trade) in enumerate(
            zip(towns, ["mills", "mines", "port", "fields", "shops", "yards"], strict=True), start=3
        )
    ]
    assert all(unseen(*texts))


def test_short_paragraphs_are_always_kept() -> None:
    words = [f"word{number}" for number in range(LEAST_WORDS)]
    short, enough = " ".join(words[:-1]), " ".join(words)
    assert unseen("References", "References", short, short, "", "", "!?") == [True] * 7
    assert unseen(enough, enough) == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "Ткань печени исследовали под микроскопом после окраски гематоксилином и эозином утром.",
        "La souris naïve a été observée près de l'étang, où elle dormait déjà depuis longtemps.",
        "慢性閉塞性肺疾患は世界における主要な死亡原因の一つである。",
        "βeta-Carotene ½ μg/ml was given to the naïve group of mice and to no other group",
    ],
)
def test_other_scripts(text: str) -> None:
    changed = text.upper().replace("  ", " ") + " …"
    assert unseen(text, changed, text[::-1]) == [True, False, True]


def test_compatible_characters_count_as_the_same() -> None:
    text = "The ﬁrst eﬀect of ½ dose was ﬁne and did not ﬂatten the response"
    assert unseen(text, text.replace("ﬁ", "fi").replace("ﬀ", "ff").replace("ﬂ", "fl")) == [
        True,
        False,
    ]


def test_only_kept_paragraphs_count() -> None:
    """A chain of small changes: what is compared with is in the corpus, not what was dropped."""
    words = [f"w{number}" for number in range(40)]
    chain = [" ".join(["new"] * step + words[step:]) for step in (0, 1, 2)]
    seen = SeenParagraphs()
    assert seen.unseen(chain[:2]).tolist() == [True, False]
    before = seen._tags.copy()
    assert seen.unseen(chain[1:2]).tolist() == [False]
    assert np.array_equal(seen._tags, before)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_pairs_are_found_as_often_as_promised(share: float) -> None:
    random.seed(share)
    pairs, length = 400, 120
    common = round(2 * share / (1 + share) * (length - 2))  # shingles that both have
    texts: list[str] = []
    for _ in range(pairs):
        start = random.choices(range(10**6), k=common + 2)
        for _ in range(2):
            rest = random.choices(range(10**6), k=length - 2 - common)
            texts.append(" ".join(map(str, start + rest)))
    _, keys = band_keys(texts)
    found = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    expected = 1 - (1 - share**ROWS) ** BANDS
    assert found == pytest.approx(
        expected, abs=3 * (expected * (1 - expected) / pairs) ** 0.5 + 0.01
    )


@given(st.lists(st.text("ab \n.é漢", max_size=60), max_size=12), st.data())
def test_how_the_text_is_handed_over_does_not_matter(texts: list[str], data: st.DataObject) -> None:
    whole = SeenParagraphs().unseen(texts).tolist()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3)))
    seen, parts = SeenParagraphs(), []
    for start, end in pairwise([0, *cuts, len(texts)]):
        parts += seen.unseen(texts[start:end]).tolist()
    assert parts == whole
    rows, keys = band_keys(texts)
    alone = [band_keys([texts[row]])[1][0].tolist() for row in rows]
    assert keys.tolist() == alone  # neighbours play no part
    normal = [" ".join(texts[row].replace(".", " ").split()) for row in rows]
    for place, text in enumerate(normal):
        same = [other for other in range(place) if normal[other] == text]
        assert not same or not whole[rows[place]]


def test_the_tables_grow_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, (3000, BANDS), np.uint64)
    monkeypatch.setattr(near_duplicates, "_LEAST_BITS", 16)
    seen = SeenParagraphs()
    for start in range(0, 3000, 100):
        seen._remember(numbers[start : start + 100])
    small = seen._known(numbers[:, :]).mean()
    for _ in range(3):
        seen._grow()
    assert seen._tags.shape == (BANDS, 1 << 19)
    assert small == seen._known(numbers).mean() == 1
    strangers = np.random.default_rng(1).integers(0, 2**64, (20_000, BANDS), np.uint64)
    assert not seen._known(strangers).any()


def test_memory_is_bounded_and_old_paragraphs_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_MOST_BITS", 17)
    numbers = np.random.default_rng(2).integers(0, 2**64, (2 << 17, BANDS), np.uint64)
    seen = SeenParagraphs()
    for start in range(0, len(numbers), 1 << 14):
        seen._remember(numbers[start : start + (1 << 14)])
    assert seen._tags.shape == (BANDS, 1 << 17)  # for twice as many paragraphs
    first, middling = seen._known(numbers[:4000]), seen._known(numbers[1 << 17 :][:4000])
    assert first.mean() == pytest.approx(0.8, abs=0.03)
    assert middling.mean() == pytest.approx(0.999, abs=0.003)


def test_keys_do_not_change_between_versions() -> None:
    """The cache of corpora relies on it; see METHOD."""
    rows, keys = band_keys(["too short", ABSTRACT])
    assert rows.tolist() == [1]
    assert keys.shape == (1, BANDS)
    assert hex(int(keys[0, 0])) == "0x41feada43b3ee3a7"
    assert hex(int(keys[0, -1])) == "0x1e08f71e87888d38"
