"""Texts as tokens: special tokens around them, what is too long cut and counted."""

from typing import Any

import numpy as np
import pytest
from tasks.letters import CLS, SEP, UNK, A, B, C, D, letters, reading

from prunella.data.task_batches import EncodedTask
from prunella.errors import InputError
from prunella.tasks.base import Reading
from prunella.tasks.texts import encode_texts


def encode(texts: list[str], pairs: list[str] | None = None, **how: Any) -> EncodedTask:
    return encode_texts(texts, pairs, np.arange(len(texts)) % 2, reading(**how))


def test_encoding_of_single_texts() -> None:
    encoded = encode(["a b", "c x d a"], max_length=5, token_types=False)
    assert encoded.ids.tolist() == [CLS, A, B, SEP, CLS, C, UNK, D, SEP]
    assert encoded.offsets.tolist() == [0, 4, 9]
    assert encoded.lengths.tolist() == [4, 5]
    assert encoded.token_types is None
    assert encoded.labels.tolist() == [0, 1]


def test_the_longer_text_of_a_pair_is_cut_first() -> None:
    encoded = encode(["a b c d", "a"], ["a b", "b"], max_length=7)
    assert encoded.ids[:7].tolist() == [CLS, A, B, SEP, A, B, SEP]
    assert encoded.ids[7:].tolist() == [CLS, A, SEP, B, SEP]
    assert encoded.token_types is not None
    assert encoded.token_types.tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]


def test_an_empty_second_text_is_a_pair_all_the_same() -> None:
    encoded = encode(["a b", "a"], ["", "b"])
    assert encoded.ids[:5].tolist() == [CLS, A, B, SEP, SEP]
    assert encoded.token_types is not None
    assert encoded.token_types[:5].tolist() == [0, 0, 0, 0, 1]
    encoder = reading().encoder()
    window = encoder.whole(encoder.encode(["a b", ""]), 32)  # as the engine serves it
    assert window.ids.tolist() == encoded.ids[:5].tolist()


def test_cut_rows_are_counted() -> None:
    assert encode(["a b c d", "a b", "a b c"], max_length=4).counts == {"rows_cut": 2}
    assert encode(["a b c", "a"], ["a b", "b"], max_length=7).counts == {"rows_cut": 1}
    assert encode(["a b"], max_length=4).counts == {"rows_cut": 0}


def test_the_tokenizer_is_left_as_it_was() -> None:
    made = letters()

    def encode(max_length: int) -> EncodedTask:
        return encode_texts(["a b c"], None, np.zeros(1, int), Reading(made, max_length))

    plain = made.backend_tokenizer.to_str()
    encode(4)
    assert made.backend_tokenizer.to_str() == plain
    made.backend_tokenizer.enable_truncation(9, stride=1, strategy="only_first")
    made.backend_tokenizer.enable_padding(length=12, pad_id=1)
    special = made.backend_tokenizer.to_str()
    assert encode(4).ids.tolist() == [CLS, A, B, SEP]
    assert made.backend_tokenizer.to_str() == special
    Reading(made, 8).encoder().encode(["a b c d e f g"])
    assert made.backend_tokenizer.to_str() == special


def test_many_texts_keep_their_order() -> None:
    texts = [" ".join("abcdefgh"[: 1 + i % 8]) for i in range(2500)]
    encoded = encode(texts, max_length=16)
    assert encoded.lengths.tolist() == [3 + i % 8 for i in range(2500)]


def test_lengths_without_room_or_beyond_the_model() -> None:
    made = letters()
    made.model_max_length = 10

    def encode(pairs: list[str] | None, max_length: int) -> EncodedTask:
        return encode_texts(["a b"], pairs, np.zeros(1, int), Reading(made, max_length))

    assert len(encode(None, 3).ids) == 3
    assert len(encode(["c d"], 5).ids) == 5
    for pairs, max_length in ((None, 2), (["b"], 4), (None, 11)):
        with pytest.raises(InputError, match=rf"max_length {max_length}: .* to 10"):
            encode(pairs, max_length)
