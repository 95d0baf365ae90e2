import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from prunella.data.corpus import Corpus, split
from prunella.data.mlm_batches import MlmBatches, TokenizerInfo, evaluation_batches, special_ids
from prunella.errors import InputError

BERT = TokenizerInfo(2, 3, 4, 0, 40_000, (0, 1, 2, 3, 4), (3,))
ROBERTA = TokenizerInfo(0, 2, 9, 1, 40_000, (0, 1, 2, 3, 9), (2, 2))
FIRST_ID = 10


def corpus_of(lengths: list[int], folder: Path, tokens: np.ndarray | None = None) -> Corpus:
    """Documents whose tokens, unless given, are all different: FIRST_ID, FIRST_ID + 1, ..."""
    total = sum(lengths)
    file = np.memmap(folder / "tokens", dtype=np.uint16, mode="w+", shape=(total,))
    file[:] = np.arange(FIRST_ID, FIRST_ID + total) if tokens is None else tokens
    documents = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(file, documents, "f", folder, total)


def batches_of(corpus: Corpus, info: TokenizerInfo = BERT, **settings: Any) -> MlmBatches:
    defaults: dict[str, Any] = {
        "batch_tokens": 256,
        "length": 64,
        "short_share": 0.4,
        "pair_share": 0.5,
        "mask_probability": 0.15,
        "seed": 11,
        "count": 60,
        "token_types": True,
    }
    return MlmBatches(corpus, info, **{**defaults, **settings})


def digest(batch: dict[str, torch.Tensor]) -> str:
    parts = [name.encode() + batch[name].numpy().tobytes() for name in sorted(batch)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def text_of(batch: dict[str, torch.Tensor]) -> list[int]:
    ids = batch["input_ids"]
    return ids[ids >= FIRST_ID].tolist()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    draw = random.Random(3)
    return corpus_of([draw.randrange(1, 90) for _ in range(60)], tmp_path)


def test_a_batch_is_a_pure_function_of_its_position(corpus: Corpus) -> None:
    batches = batches_of(corpus)
    in_order = [digest(batches[position]) for position in range(len(batches))]
    positions = list(range(len(batches))) * 2
    random.Random(1).shuffle(positions)
    other = batches_of(corpus)
    torch.manual_seed(99)
    np.random.seed(99)
    assert all(digest(other[position]) == in_order[position] for position in positions)
    assert len(set(in_order)) == len(in_order)


def test_another_process_gives_the_same_batches(corpus: Corpus) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, test_mlm_batches as here\n"
        "lengths = [int(n) for n in sys.argv[3].split(',')]\n"
        "folder = Path(sys.argv[2]) / 'other'; folder.mkdir()\n"
        "batches = here.batches_of(here.corpus_of(lengths, folder))\n"
        "print(*(here.digest(batches[p]) for p in (41, 0, 7)))"
    )
    lengths = ",".join(map(str, corpus.spans()[1]))
    root = str(Path(sys.modules["prunella"].__file__ or "").parents[1])
    found = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(corpus.path), lengths],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    batches = batches_of(corpus)
    assert found == [digest(batches[position]) for position in (41, 0, 7)]


def test_the_seed_and_not_the_count_decides(corpus: Corpus) -> None:
    first = batches_of(corpus, seed=1)
    assert digest(first[5]) != digest(batches_of(corpus, seed=2)[5])
    longer = batches_of(corpus, seed=1, count=500)
    assert [digest(first[p]) for p in range(60)] == [digest(longer[p]) for p in range(60)]
    assert len(batches_of(corpus, seed=-1)[0]) == 4


def test_keys_types_and_sizes(corpus: Corpus) -> None:
    for token_types in (True, False):
        batches = batches_of(corpus, token_types=token_types)
        for position in range(len(batches)):
            batch = batches[position]
            assert ("token_type_ids" in batch) == token_types
            assert all(value.dtype == torch.int64 for value in batch.values())
            assert len({value.shape for value in batch.values()}) == 1
            rows, length = batch["input_ids"].shape
            assert rows * length == 256
            assert batch["attention_mask"].all()
            assert (batch["input_ids"][:, 0] == BERT.cls).all()
            assert (batch["input_ids"][:, -1] == BERT.sep).all()
            assert not (batch["input_ids"] == BERT.pad).any()


def test_positions_outside_are_index_errors(corpus: Corpus) -> None:
    batches = batches_of(corpus, count=3)
    assert len(batches) == 3
    assert batches[2]
    for position in (3, -1):
        with pytest.raises(IndexError):
            batches[position]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40).filter(lambda n: sum(n) > 300),
    length=st.integers(3, 70),
    batch_tokens=st.integers(70, 160),
    short_share=st.sampled_from([0, 0.3, 1]),
    pair_share=st.sampled_from([0, 0.5, 1]),
    info=st.sampled_from([BERT, ROBERTA]),
    seed=st.integers(0, 2**64 - 1),
)
def test_an_epoch_reads_every_token_once_apart_from_the_tail(
    tmp_path: Path, lengths: list[int], batch_tokens: int, **arguments: Any
) -> None:
    corpus = corpus_of(lengths, tmp_path)
    batches = batches_of(
        corpus, mask_probability=0, batch_tokens=batch_tokens, count=400, **arguments
    )
    seen: set[int] = set()
    for position in range(len(batches)):
        text = text_of(batches[position])
        assert len(set(text)) == len(text)
        if seen & set(text):
            break
        seen |= set(text)
    assert len(seen) > sum(lengths) - batch_tokens


def test_rows_are_contiguous_text_with_separators_between_documents(tmp_path: Path) -> None:
    corpus = corpus_of([5, 1, 30, 8, 40, 16] * 4, tmp_path)
    stream: list[int] = []
    for start, length in zip(*corpus.spans(), strict=True):
        stream += [*range(FIRST_ID + start, FIRST_ID + start + length), BERT.sep]
    joined = f" {' '.join(map(str, stream * 2))} "
    batches = batches_of(corpus, mask_probability=0, pair_share=0)
    for position in range(len(batches)):
        for row in batches[position]["input_ids"].tolist():
            assert f" {' '.join(map(str, row[1:-1]))} " in joined


def test_epochs_differ_and_a_short_run_samples_the_whole_corpus(tmp_path: Path) -> None:
    corpus = corpus_of([10_000], tmp_path)
    batches = batches_of(corpus, short_share=0, mask_probability=0, count=100)
    per_epoch = 10_000 // (4 * 62)
    assert digest(batches[0]) != digest(batches[per_epoch])
    few = batches_of(corpus, short_share=0, mask_probability=0, count=5)
    places = np.array([text_of(few[position]) for position in range(5)]).ravel()
    counts = np.histogram(places, bins=4, range=(FIRST_ID, FIRST_ID + 10_000))[0]
    assert (counts > 0).all()


@pytest.mark.parametrize("info", [BERT, ROBERTA])
def test_lengths_and_pairs_come_in_the_shares_asked_for(
    corpus: Corpus, info: TokenizerInfo
) -> None:
    count = 2000
    batches = batches_of(corpus, info, count=count, short_share=0.4, pair_share=0.25)
    lengths: dict[int, int] = {}
    pairs = short = 0
    for position in range(count):
        batch = batches[position]
        length = batch["input_ids"].shape[1]
        lengths[length] = lengths.get(length, 0) + 1
        is_pair = bool(batch["token_type_ids"].any())
        assert length < 64 or not is_pair
        short += length < 64
        pairs += is_pair
    assert set(lengths) == {64, 32, 16, 8}
    assert abs(short / count - 0.4) < 5 * (0.4 * 0.6 / count) ** 0.5
    assert abs(pairs / short - 0.25) < 5 * (0.25 * 0.75 / short) ** 0.5
    for length in (32, 16, 8):
        assert abs(lengths[length] / short - 1 / 3) < 5 * (2 / 9 / short) ** 0.5


@pytest.mark.parametrize(
    ("length", "shorter"),
    [(8, set()), (12, {8}), (16, {8}), (48, {24, 12, 8}), (128, {64, 32, 16}),
     (200, {100, 50, 25}), (256, {128, 64, 32, 16}), (512, {256, 128, 64, 32, 16})],
)  # fmt: skip
def test_short_rows_reach_the_length_of_a_sentence(
    corpus: Corpus, length: int, shorter: set[int]
) -> None:
    batches = batches_of(corpus, batch_tokens=1024, length=length, short_share=0.9, count=200)
    assert {batches[i]["input_ids"].shape[1] for i in range(200)} == {length} | shorter


@pytest.mark.parametrize("info", [BERT, ROBERTA])
def test_pairs_have_the_tokenizers_form(tmp_path: Path, info: TokenizerInfo) -> None:
    corpus = corpus_of([2000], tmp_path)
    batches = batches_of(corpus, info, short_share=1, pair_share=1, mask_probability=0)
    separator = list(info.pair_separator)
    cuts: set[int] = set()
    for position in range(len(batches)):
        batch = batches[position]
        rows = zip(batch["input_ids"].tolist(), batch["token_type_ids"].tolist(), strict=True)
        for row, types in rows:
            second = types.index(1)
            first = row[1 : second - len(separator)]
            rest = row[second:-1]
            assert row[second - len(separator) : second] == separator
            assert first and rest
            text = first + rest
            if info.sep in text:  # the end of the only document
                continue
            assert text == list(range(text[0], text[0] + len(text)))
            assert types == [0] * second + [1] * (len(row) - second)
            cuts.add(len(first))
    assert {1, 2, 3, 20} <= cuts


def test_mask_statistics(tmp_path: Path) -> None:
    corpus = corpus_of([300] * 100, tmp_path)
    plain = batches_of(corpus, mask_probability=0, count=400, batch_tokens=1024)
    masked = batches_of(corpus, mask_probability=0.15, count=400, batch_tokens=1024)
    chosen = kept = hidden = replaced = candidates = 0
    for position in range(400):
        before, after = plain[position]["input_ids"], masked[position]["input_ids"]
        labels = masked[position]["labels"]
        predicted = labels != -100
        ordinary = before >= FIRST_ID
        assert not (predicted & ~ordinary).any()
        assert (labels[predicted] == before[predicted]).all()
        assert (after[~predicted] == before[~predicted]).all()
        now = after[predicted]
        assert not torch.isin(now[now != BERT.mask], torch.tensor(BERT.special)).any()
        candidates += int(ordinary.sum())
        chosen += int(predicted.sum())
        hidden += int((now == BERT.mask).sum())
        kept += int((now == before[predicted]).sum())
        replaced += int(((now != BERT.mask) & (now != before[predicted])).sum())
    for share, total, expected in (
        (chosen, candidates, 0.15),
        (hidden, chosen, 0.8),
        (replaced, chosen, 0.1),
        (kept, chosen, 0.1),
    ):
        error = (expected * (1 - expected) / total) ** 0.5
        assert abs(share / total - expected) < 5 * error


def test_special_tokens_in_the_text_are_left_alone(tmp_path: Path) -> None:
    tokens = np.where(np.arange(4000) % 3 == 0, 1, 20)
    corpus = corpus_of([4000], tmp_path, tokens)
    info = TokenizerInfo(2, 3, 4, 0, 22, (0, 1, 2, 3, 4), (3,))
    batches = batches_of(corpus, info, mask_probability=1.0, count=20)
    replacements: set[int] = set()
    for position in range(20):
        batch = batches[position]
        assert set(batch["labels"].unique().tolist()) == {-100, 20}
        assert ((batch["labels"] == 20) | (batch["input_ids"] < 4)).all()
        replacements |= set(batch["input_ids"][batch["labels"] == 20].tolist())
    assert replacements == {4, *range(5, 22)}


def test_a_batch_always_predicts_something(corpus: Corpus) -> None:
    batches = batches_of(corpus, mask_probability=1e-9)
    for position in range(len(batches)):
        assert (batches[position]["labels"] != -100).sum() == 1


def test_probability_zero_masks_nothing(corpus: Corpus) -> None:
    batch = batches_of(corpus, mask_probability=0)[0]
    assert (batch["labels"] == -100).all()
    assert not (batch["input_ids"] == BERT.mask).any()


def test_text_of_unknown_tokens_only(tmp_path: Path) -> None:
    corpus = corpus_of([1000], tmp_path, np.ones(1000))
    with pytest.raises(InputError, match="only special tokens"):
        batches_of(corpus)[0]


def test_a_chosen_part_of_a_corpus_is_all_that_is_read(tmp_path: Path) -> None:
    train, validation = split(corpus_of([100] * 20, tmp_path), 600, seed=2)
    batches = batches_of(train, mask_probability=0)
    read = {token for position in range(60) for token in text_of(batches[position])}
    starts, _ = validation.spans()
    held_out = {FIRST_ID + s + n for s in starts.tolist() for n in range(100)}
    assert not read & held_out
    assert len(read) == train.n_tokens


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"short_share": 1.1}, "short_share is 1.1"),
        ({"pair_share": -0.1}, "pair_share is -0.1"),
        ({"mask_probability": float("nan")}, "mask_probability is nan"),
        ({"length": 2}, "length is 2"),
        ({"batch_tokens": 63}, "less than one row"),
        ({"batch_tokens": 1 << 20}, "give more text"),
        ({"count": -1}, "count is -1"),
    ],
)
def test_bad_settings(corpus: Corpus, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        batches_of(corpus, **settings)


def evaluation_of(corpus: Corpus, **settings: Any) -> MlmBatches:
    defaults: dict[str, Any] = {"batch_tokens": 256, "length": 64, "count": 4, "seed": 5}
    return evaluation_batches(corpus, BERT, mask_probability=0.15, **{**defaults, **settings})


def test_evaluation_batches_are_fixed_and_of_full_length(corpus: Corpus) -> None:
    first, second = evaluation_of(corpus), evaluation_of(corpus)
    assert len(first) == 4
    assert all(first[p]["input_ids"].shape == (4, 64) for p in range(4))
    assert [digest(first[p]) for p in range(4)] == [digest(second[p]) for p in range(4)]
    assert "token_type_ids" not in first[0]
    assert not evaluation_of(corpus, token_types=True)[0]["token_type_ids"].any()


@pytest.mark.parametrize(
    ("lengths", "shapes"),
    [
        ([1], [(1, 4)]),
        ([10, 9], [(1, 23)]),
        ([130], [(2, 64)]),
        ([62 * 4 * 2 + 5], [(4, 64)] * 2),
    ],
)
def test_evaluation_of_short_text(
    tmp_path: Path, lengths: list[int], shapes: list[tuple[int, int]]
) -> None:
    batches = evaluation_of(corpus_of(lengths, tmp_path))
    assert [tuple(batches[p]["input_ids"].shape) for p in range(len(batches))] == shapes


def test_special_ids_of_bert() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    info = special_ids(BertTokenizer(vocab={word: n for n, word in enumerate(words)}))
    assert info == TokenizerInfo(2, 3, 4, 0, 6, (0, 1, 2, 3, 4), (3,))


def test_special_ids_of_roberta() -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words.append("<mask>")
    tokenizer = RobertaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    mask = len(words) - 1
    assert special_ids(tokenizer) == TokenizerInfo(
        0, 2, mask, 1, len(words), (0, 1, 2, 3, mask), (2, 2)
    )
    ids = tokenizer("x", "x")["input_ids"]
    assert ids[2:4] == [2, 2]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({"a": 0, "[S]": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[S]", sep_token="[S]", name_or_path="here"
    )
    with pytest.raises(InputError, match="here: has no mask token"):
        special_ids(tokenizer)
