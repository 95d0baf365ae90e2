"""Words, tags and windows, where the answer is known without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers

from prunella.engine.entities import EntityTask, joined
from prunella.engine.inputs import Example
from prunella.engine.options import EntityOptions
from prunella.engine.tokens import TextEncoder, Window

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]


def encoder() -> TextEncoder:
    """Words of letters a to f, a token each."""
    vocabulary = {"[UNK]": 0} | {letter: i for i, letter in enumerate("abcdef", start=1)}
    vocabulary |= {f"##{letter}": i for i, letter in enumerate("abcdef", start=7)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextEncoder(tokenizer, 512, token_types=False)


def entities(text: str, tags: str, how: str = "first", **weights: float) -> list[Any]:
    """Entities where each token's tag is certain, given by its place in LABELS."""
    task = EntityTask(LABELS)
    (encoding,) = encoder().encode([text])
    logits = np.full((len(encoding), len(LABELS)), -20, np.float32)
    for token, tag in enumerate(tags):
        logits[token, int(tag)] = 20 * weights.get(f"t{token}", 1.0)
    options = EntityOptions(aggregation=how)  # type: ignore[arg-type]
    (window,) = task.windows([encoding], encoder(), options)
    part = task.reduce(window, logits, options)
    found = task.finish(Example(text), [encoding], [window], [part], options)
    return [(e.label, e.text, e.start, e.end) for e in found]


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        ("a b c", "000", []),
        ("a b c", "120", [("PER", "a b", 0, 3)]),
        ("a b c", "112", [("PER", "a", 0, 1), ("PER", "b c", 2, 5)]),
        ("a b c", "134", [("PER", "a", 0, 1), ("LOC", "b c", 2, 5)]),
        ("a b c", "222", [("PER", "a b c", 0, 5)]),  # begins without a B-
        ("a b c", "102", [("PER", "a", 0, 1), ("PER", "c", 4, 5)]),
        ("a b c", "505", [("MISC", "a", 0, 1), ("MISC", "c", 4, 5)]),
        ("abc, d", "10003", [("PER", "abc", 0, 3), ("LOC", "d", 5, 6)]),
        ("  abc", "100", [("PER", "abc", 2, 5)]),
    ],
)
def test_grouping(text: str, tags: str, expected: list[Any]) -> None:
    assert entities(text, tags) == expected


def test_how_a_word_gets_its_tag() -> None:
    text, tags = "abc d", "1330"
    assert entities(text, tags) == [("PER", "abc", 0, 3)]
    assert entities(text, tags, "average") == [("LOC", "abc", 0, 3)]
    assert entities(text, tags, "max", t0=-0.9) == [("LOC", "abc", 0, 3)]
    assert entities(text, tags, "simple") == [
        ("PER", "a", 0, 1),
        ("LOC", "b", 1, 2),
        ("LOC", "c", 2, 3),
    ]


@given(tokens=st.integers(0, 60), limit=st.integers(2, 20), stride=st.integers(0, 12))
def test_each_token_is_taken_from_where_it_has_most_around_it(
    tokens: int, limit: int, stride: int
) -> None:
    texts = encoder()
    (encoding,) = texts.encode([" ".join("a" * tokens)])
    windows = texts.sliding(encoding, limit, stride)
    # What a token's output says: from which window, and how many tokens stand around it there.
    parts = [np.array([[n, i] for i in range(w.begin, w.end)]) for n, w in enumerate(windows)]
    found = joined(windows, [p.reshape(-1, 2).astype(np.float32) for p in parts])
    assert found[:, 1].tolist() == list(range(tokens))
    for number, token in found.astype(int):
        chosen = around(windows[number], token, tokens)
        assert chosen == max(around(w, token, tokens) for w in windows if w.begin <= token < w.end)


def around(window: Window, token: int, tokens: int) -> float:
    """Tokens on the poorer side; where the text itself ends there is nothing to miss."""
    left = token - window.begin if window.begin else np.inf
    right = window.end - 1 - token if window.end < tokens else np.inf
    return min(left, right)


def test_words_of_an_encoding_without_tokens() -> None:
    found: Encoding = encoder().encode([""])[0]
    assert len(found) == 0 and entities("", "") == []
