import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from prunella.data import words
from prunella.data.encoding import plain_encoder
from prunella.data.words import WordEncoder, spaces_separate

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *"abcdez,.()\"'-[]é中ß", "##a", "##b", "##s", "##é", "ab", "ca", "the", "i"]


def encoder(**normalizer: Any) -> Tokenizer:
    """A WordPiece tokenizer of a few pieces, special tokens read as text."""
    made = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**normalizer)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    made.encode_special_tokens = True
    return made


def directly(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def by_words(made: WordEncoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = made.encode(texts)
    assert ids.dtype == np.uint16
    assert len(lengths) == len(texts)
    assert lengths.sum() == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []


NASTY = st.text(
    st.sampled_from("abcdeziA BS,.()\"'-[]é中ß\t\u00a0\u0301\u200b\x1c\x00İΣ🙂M#"), max_size=40
)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"lowercase": True},
        {"lowercase": False, "strip_accents": False},
        {"lowercase": True, "clean_text": False, "handle_chinese_chars": False},
    ],
)
@given(st.lists(NASTY | st.text(max_size=20), max_size=4))
def test_the_same_ids_whatever_the_text(normalizer: dict[str, Any], texts: list[str]) -> None:
    tokenizer = encoder(**normalizer)
    assert by_words(WordEncoder(tokenizer, np.dtype(np.uint16)), texts) == directly(
        tokenizer, texts
    )


@pytest.mark.parametrize("kept", [1, 3, 1000])
def test_a_table_that_begins_anew_forgets_no_text(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(words, "WORDS_KEPT", kept)
    tokenizer = encoder()
    made = WordEncoder(tokenizer, np.dtype(np.uint16))
    for texts in (["ab a", "", "b,  ca."], ["the [MASK]"], ["ab the c", "zz ab"], [" "]) * 2:
        assert by_words(made, texts) == directly(tokenizer, texts)


def test_known_ids() -> None:
    made = WordEncoder(encoder(), np.dtype(np.uint16))
    expected = [PIECES.index(piece) for piece in ("the", "ca", "##b", "##s", ",", "[UNK]")]
    assert by_words(made, ["The cabs, xylo"]) == [expected]
    assert by_words(made, []) == []


def test_for_which_tokenizers_it_is_right(tiny_tokenizer: Any) -> None:
    assert spaces_separate(encoder())
    assert spaces_separate(plain_encoder(tiny_tokenizer))
    other = encoder()
    other.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert not spaces_separate(other)
    other = encoder()
    other.normalizer = normalizers.Replace("a b", "c")
    assert not spaces_separate(other)
    other = encoder()
    other.add_tokens([AddedToken("New York")])
    assert not spaces_separate(other)
    bpe = Tokenizer(models.BPE())
    assert not spaces_separate(bpe)
    assert json.loads(bpe.to_str())["normalizer"] is None


def test_threads_decide_how_never_what(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from prunella.data.corpus import tokenize_corpus

    text = tmp_path / "a.txt"
    text.write_text("The engine hides, in the attic.\n\nNobody's \u200b café [SEP]\n" * 50)
    found = [
        tokenize_corpus([str(text)], tiny_tokenizer, tmp_path / str(n), processes=n)
        for n in (1, 2, 8)
    ]
    assert all(np.array_equal(found[0].tokens, other.tokens) for other in found)
    assert all(np.array_equal(found[0].documents, other.documents) for other in found)
