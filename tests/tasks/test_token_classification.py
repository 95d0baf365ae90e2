"""Tags of words: first tokens carry them, windows share no word, unseen tags are counted."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.letters import CLS, SEP, UNK, A, B, C, reading, table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prunella.data.task_batches import collate
from prunella.errors import InputError
from prunella.tasks import Columns, Deciding, Reading
from prunella.tasks.token_classification import TaggedRows, TokenClassification

KIND = TokenClassification()
USUAL = Columns()


def read(names: list[str] | None = None, columns: Columns = USUAL, **given: Any) -> TaggedRows:
    return KIND.read(table(**given), columns, names, "f")


def watched(encoded: Any) -> list[list[int]]:
    """Positions of the watched tokens in each sequence."""
    pairs = zip(encoded.offsets, encoded.offsets[1:], strict=False)
    return [np.flatnonzero(encoded.watched[a:b]).tolist() for a, b in pairs]


def decided(rows: TaggedRows, encoded: Any, how: Any) -> list[list[str]]:
    """What comes out when every watched token says its own label."""
    labels = np.maximum(encoded.labels, 0)
    logits = np.eye(len(rows.names), dtype=np.float32)[labels]
    return KIND.decode(logits, encoded, rows, how, Deciding()).values


def test_a_sentence_by_hand() -> None:
    rows = read(tokens=[["a", "b-c", "b"]], tags=[["O", "B-X", "I-X"]])
    assert rows.names == ["O", "B-X", "I-X"]
    encoded = KIND.encode(rows, reading())
    assert encoded.ids.tolist() == [CLS, A, B, UNK, C, B, SEP]
    # The tokenizer's words "-" and "c" go on with the entity that "b" begins.
    assert watched(encoded) == [[1, 2, 3, 4, 5]]
    assert encoded.labels.tolist() == [0, 1, 2, 2, 2]
    assert decided(rows, encoded, reading()) == rows.gold


def test_sub_words_carry_no_tag(tiny_tokenizer: Any) -> None:
    how = reading()
    how = type(how)(tiny_tokenizer, 32)
    rows = read(tokens=[["umbrella", "zither", "the"]], tags=[["B-X", "O", "O"]])
    encoded = KIND.encode(rows, how)
    pieces = [len(tiny_tokenizer.tokenize(word)) for word in rows.words[0]]
    assert max(pieces) > 1
    assert watched(encoded) == [(1 + np.cumsum([0, *pieces[:-1]])).tolist()]
    assert decided(rows, encoded, how) == rows.gold


def test_words_without_tokens_are_outside_and_counted() -> None:
    words = ["a", "", "\u200b \t", "b"]
    rows = read(tokens=[words], tags=[["B-X", "I-X", "O", "B-X"]])
    encoded = KIND.encode(rows, reading())
    tokens = KIND.decode(
        np.eye(3, dtype=np.float32)[[1] * int(encoded.output_offsets[-1])],
        encoded,
        rows,
        reading(),
        Deciding(),
    )
    assert tokens.values[0][0] == tokens.values[0][-1] == "B-X"
    assert tokens.values[0][1] == "O"
    assert encoded.counts["words_without_tokens"] >= 1
    assert tokens.details[0] == {
        "tokens": words,
        "prediction": tokens.values[0],
        "label": ["B-X", "I-X", "O", "B-X"],
    }


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    max_length=st.integers(3, 12),
    stride=st.integers(0, 20),
)
@settings(max_examples=60)
def test_each_word_is_asked_once_whatever_the_windows(
    lengths: list[int], max_length: int, stride: int
) -> None:
    rng = np.random.default_rng(sum(lengths))
    words = [["abcdefgh"[k] for k in rng.integers(0, 8, n)] for n in lengths]
    tags = [["O" if w < "d" else "B-X" for w in sentence] for sentence in words]
    rows = read(["O", "B-X"], tokens=words, tags=tags)
    how = reading(max_length, stride)
    encoded = KIND.encode(rows, how)
    assert encoded.lengths.max() <= max_length
    assert encoded.watched is not None
    assert encoded.watched.sum() == sum(lengths)
    assert decided(rows, encoded, how) == rows.gold


def test_tags_that_training_never_saw_count_as_missed() -> None:
    rows = read(["O", "B-X"], tokens=[["a", "b", "c"]], tags=[["O", "B-X", "B-NEW"]])
    encoded = KIND.encode(rows, reading())
    assert encoded.labels.tolist() == [0, 1, -100]
    assert encoded.counts["unseen_tags"] == 1
    assert decided(rows, encoded, reading()) == [["O", "B-X", "O"]]
    assert rows.gold == [["O", "B-X", "B-NEW"]]


def test_tags_as_ids_with_names() -> None:
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        ner_tags=datasets.List(datasets.ClassLabel(names=["O", "B-P", "I-P"])),
    )
    made = datasets.Dataset.from_dict(
        {"tokens": [["a", "b"]], "ner_tags": [[1, 0]]}, features=features
    )
    rows = KIND.read(made, Columns(), None, "f")
    assert (rows.tags, rows.names) == ([["B-P", "O"]], ["O", "B-P", "I-P"])


def test_numbers_are_the_known_tags() -> None:
    names = ["O", "B-P", "I-P"]
    rows = read(names, tokens=[["a", "b"], ["c"]], tags=[[1, 2], [0]])
    assert (rows.tags, rows.names) == ([["B-P", "I-P"], ["O"]], names)
    assert rows.counts["unseen_tags"] == 0
    assert read(names, tokens=["a b"], tags=["1 0"]).tags == [["B-P", "O"]]
    with pytest.raises(InputError, match="numbers of 3 tags go from 0 to 2; not so in row 2.*B-P"):
        read(names, tokens=[["a"], ["b"]], tags=[[1], [3]])
    assert read(["0", "1"], tokens=[["a"]], tags=[[1]]).tags == [["1"]]


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte: " a" is a lone space, which has no width, and "a"."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="!", model_max_length=64)


def test_words_that_begin_with_a_lone_space() -> None:
    how = Reading(bytes_tokenizer(), 32)
    rows = read(tokens=[["ab", "c", "", "d-e"]], tags=[["B-X", "O", "O", "B-X"]])
    rows = TaggedRows(rows.words, rows.tags, ["O", "B-X", "I-X"], {})
    encoded = KIND.encode(rows, how)
    text = how.encoder().encode(["ab c  d-e"])[0]
    starts = [i for i, n in enumerate(text.word_ids) if not i or n != text.word_ids[i - 1]]
    widths = [end - begin for begin, end in text.offsets]
    # The engine's words begin at a space without width; the second of two spaces stands alone.
    (marked,) = watched(encoded)
    assert set(marked) < set(starts)
    assert 0 in [widths[i] for i in marked]
    assert encoded.counts["words_without_tokens"] == 1
    assert encoded.labels.tolist() == [1, 0, 1, 2, 2]
    assert decided(rows, encoded, how) == rows.gold


def test_words_and_tags_as_text_between_spaces() -> None:
    rows = read(words=["a b", "c"], tags=["O B-X", "O"], columns=Columns(text="words"))
    assert (rows.words, rows.tags) == ([["a", "b"], ["c"]], [["O", "B-X"], ["O"]])


@pytest.mark.parametrize(
    ("given", "columns", "message"),
    [
        ({"tokens": [["a"]], "tags": [["O", "O"]]}, {}, "1 words and 2 tags in row 1"),
        ({"tokens": [["a"], []], "tags": [["O"], []]}, {}, "an entry for each word.*row 2"),
        (
            {"tokens": ["['a', 'b']"] * 2, "tags": ["['O', 'O']"] * 2},
            {},
            r"'tokens': holds lists that were written as text, as pandas .* \(\"\['a', 'b'\]\"\)",
        ),
        ({"tokens": [["a"], ["b"]], "tags": [["O"], ["O"]]}, {}, "every tag is 'O'"),
        ({"tokens": [["a"]], "tag": [["O"]]}, {}, "which column holds the label.*'tag'"),
        ({"tokens": [["a"]], "tags": [["O"]]}, {"label": "tagz"}, "did you mean 'tags'"),
        (
            {"tokens": [["a"]], "tags": [["O"]], "b": ["x"]},
            {"text": "tokens", "pair": "b"},
            "no second text",
        ),
    ],
)
def test_what_does_not_fit(given: Any, columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(columns=Columns(**columns), **given)


def test_the_loss_passes_over_what_has_no_label() -> None:
    rows = read(["O", "B-X"], tokens=[["a", "b", "c"], ["d"]], tags=[["O", "B-N", "B-X"], ["O"]])
    encoded = KIND.encode(rows, reading())
    batch = collate(encoded, np.array([1, 0]), 0)
    assert batch["labels"].tolist() == [0, 0, -100, 1]
    assert batch["watched"].sum(1).tolist() == [1, 3]
    logits = torch.tensor([[2.0, 0], [2, 0], [50, -50], [0, 2]])
    assert KIND.loss(logits, batch, None).item() == pytest.approx(np.log(1 + np.exp(-2)))
    nothing = {"labels": torch.tensor([-100])}
    assert KIND.loss(logits[:1], nothing, None).item() == 0
    heavy = KIND.class_weights(encoded, 2)
    assert heavy.tolist() == pytest.approx([3 / 4, 3 / 2])


def test_what_looks_like_it() -> None:
    assert KIND.fits(table(tokens=[["a"]], tags=[["O"]]), Columns())
    assert KIND.fits(table(w=[["a"]], t=[["O"]]), Columns(text="w", label="t"))
    assert not KIND.fits(table(text=["a"], labels=[["x"]]), Columns())
    assert not KIND.fits(table(tokens=[["a"]], label=["x"]), Columns())
