"""Text to ids as transformers does it: pairs, truncation, windows; and tokenizers from old files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.conftest import Tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from prunella.engine.tokenizer_files import longest_input, read_tokenizer
from prunella.engine.tokens import TextEncoder
from prunella.errors import InputError

Tinies = Callable[..., Tiny]
PATH = Path("model.prn")
TEXT = st.text(alphabet="abc dTÉ.,中\n[]#'", max_size=60)
SAME_FIXTURE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@pytest.fixture(scope="module")
def both(tiny: Tinies) -> tuple[TextEncoder, Any]:
    subject = tiny("bert")
    tokenizer, _ = read_tokenizer(subject.packed.files, PATH)
    return TextEncoder(tokenizer, 64, token_types=True), subject.tokenizer()


@given(first=TEXT, second=st.none() | TEXT, limit=st.integers(5, 64))
@SAME_FIXTURE
def test_whole_windows(both: Any, first: str, second: str | None, limit: int) -> None:
    encoder, theirs = both
    given = [first] if second is None else [first, second]
    encodings = encoder.encode(given)
    window = encoder.whole(encodings, limit)
    # As lists: transformers takes a lone empty second text for none.
    lists = [[text] for text in given]
    expected = theirs(*lists, truncation=True, max_length=limit)
    assert window.ids.tolist() == expected["input_ids"][0]
    assert window.types.tolist() == expected["token_type_ids"][0]
    assert window.ids.dtype == window.types.dtype == np.int32
    full = theirs(*lists)["input_ids"][0]
    assert window.cut == len(full) - len(window)
    kept = window.ids[window.place : window.place + window.end]
    assert kept.tolist() == encodings[-1].ids[: window.end]


@given(
    text=st.text(alphabet="ab c.", max_size=200),
    limit=st.integers(12, 40),
    stride=st.integers(0, 4),
)
@SAME_FIXTURE
def test_sliding_windows(both: Any, text: str, limit: int, stride: int) -> None:
    encoder, theirs = both
    question = "a b c?"
    first, second = encoder.encode([question, text])
    windows = encoder.sliding(second, limit, stride, before=first)
    room = limit - 3 - len(first)
    expected = theirs(
        [question],
        [text],
        truncation="only_second",
        max_length=limit,
        stride=min(stride, room // 2),
        return_overflowing_tokens=True,
    )
    assert [w.ids.tolist() for w in windows] == expected["input_ids"]
    covered = [t for w in windows for t in range(w.begin, w.end)]
    assert set(covered) == set(range(len(second)))
    assert all(w.tokens == len(second) and len(w) <= limit and not w.cut for w in windows)
    for window in windows:
        part = window.ids[window.place : window.place + window.end - window.begin]
        assert part.tolist() == second.ids[window.begin : window.end]
        # A later window has the same types as the first one.
        types = window.types.tolist()
        assert types == [0] * (len(first) + 2) + [1] * (len(window) - len(first) - 2)


def test_no_token_types_where_the_model_has_none(tiny: Tinies) -> None:
    tokenizer, _ = read_tokenizer(tiny("roberta").packed.files, PATH)
    encoder = TextEncoder(tokenizer, 64, token_types=False)
    assert not encoder.whole(encoder.encode(["a", "b"]), 64).types.any()


def test_threads_of_the_library_on_request(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = both
    alone = [e.ids for e in encoder.encode(["a b", "c"])]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    assert [e.ids for e in encoder.encode(["a b", "c"])] == alone
    with pytest.raises(InputError, match="surrogate"):
        encoder.encode(["\ud800"])


# --------------------------------------------------------------- files of older checkpoints

SENTENCES = [
    "Hello, World! naïve café",
    "the   quick\tbrown fox's 3.14 中文 😀",
    "",
    " leading and trailing ",
    "an [MASK] and <mask> here",
    "unaffable-ness",
]


def agree(ours: Tokenizer, theirs: Any) -> None:
    """Same ids, offsets and text."""
    for text in SENTENCES:
        found, expected = ours.encode(text), theirs(text, return_offsets_mapping=True)
        assert found.ids == expected["input_ids"], text
        assert found.offsets == expected["offset_mapping"], text
        assert ours.decode(found.ids, skip_special_tokens=True) == theirs.decode(
            expected["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    found, expected = ours.encode("Hello", "World"), theirs("Hello", "World")
    assert found.ids == expected["input_ids"]


@pytest.mark.parametrize("lower", [True, False])
def test_vocabulary_of_word_pieces(tmp_path: Path, lower: bool) -> None:
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127)] + list("éï中文")
    words = ["hello", "Hello", "world", "the", "quick", "##ness", "##able", "un", "##aff", "cafe"]
    vocabulary = [*special, *letters, *(f"##{c}" for c in letters), *words]
    content = "\n".join(vocabulary) + "\n"
    (tmp_path / "vocab.txt").write_text(content, encoding="utf-8")
    settings = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer", "model_max_length": 99}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.BertTokenizer(
        vocab={word: i for i, word in enumerate(vocabulary)}, do_lower_case=lower
    )
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ours, found = read_tokenizer(files, PATH)
    agree(ours, theirs)
    assert found["mask_token"] == "[MASK]" and longest_input(found) == 99


def test_byte_level_pairs(tmp_path: Path) -> None:
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = ["h e", "l l", "he ll", "Ġ t", "Ġt h", "Ġth e", "Ġ w"]
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(m.replace(" ", "") for m in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<mask>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    theirs = transformers.RobertaTokenizer(
        vocab=vocabulary,
        merges=[tuple(m.split(" ")) for m in merges],
        mask_token=AddedToken("<mask>", lstrip=True),  # as in RoBERTa's own files
    )
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ours, found = read_tokenizer(files, PATH)
    agree(ours, theirs)
    assert found["mask_token"] == "<mask>" and longest_input(found) is None


BROKEN: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "carries no tokenizer"),
    "half of byte-level pairs": ({"vocab.json": b"{}"}, "carries no tokenizer"),
    "no tokenizer": ({"tokenizer.json": b"{}"}, "its tokenizer cannot be read"),
    "no UTF-8": ({"vocab.txt": b"\xff"}, "its tokenizer cannot be read"),
    "no special tokens": ({"vocab.txt": b"a\nb\n"}, r"its vocabulary lacks \[UNK\]"),
    "no settings": ({"vocab.txt": b"a\n", "tokenizer_config.json": b"{"}, "not valid JSON"),
    "settings of a kind": ({"vocab.txt": b"a\n", "tokenizer_config.json": b"[]"}, "not a JSON obj"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tokenizers(case: str) -> None:
    files, words = BROKEN[case]
    with pytest.raises(InputError, match=rf"model.prn: .*{words}"):
        read_tokenizer(files, PATH)


def test_special_tokens_as_objects(tiny: Tinies) -> None:
    files = dict(tiny("bert").packed.files)
    files["tokenizer_config.json"] = b'{"mask_token": {"content": "[MASK]", "lstrip": false}}'
    _, found = read_tokenizer(files, PATH)
    assert found["mask_token"] == "[MASK]"
