import json
import lzma
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from prunella.data import encoding, sources
from prunella.data.corpus import Corpus, open_corpus, split, tokenize_corpus
from prunella.errors import InputError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "b", "c", "long", "##er", "mask", "[", "]"]


def word_tokenizer(words: list[str] = WORDS) -> Any:
    """A WordPiece tokenizer; ids are places in SPECIAL + words."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + words)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    return SimpleNamespace(backend_tokenizer=backend)


def byte_tokenizer() -> Any:
    """Byte-level BPE with a few merges, so that spaces belong to words, as in RoBERTa."""
    vocabulary = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġa", "b"), ("Ġ", "Ġ")]
    vocabulary |= {left + right: len(vocabulary) + n for n, (left, right) in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return SimpleNamespace(backend_tokenizer=backend)


def write(path: Path, contents: str | bytes) -> list[str]:
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return [str(path)]


def texts(corpus: Corpus, words: list[str] = WORDS) -> list[str]:
    names = [*SPECIAL, *words]
    borders = corpus.documents
    return [
        " ".join(names[token] for token in corpus.tokens[start:end])
        for start, end in zip(borders, borders[1:], strict=False)
    ]


def corpus_of(lengths: list[int], path: Path) -> Corpus:
    tokens = np.memmap(path / "tokens", dtype=np.uint16, mode="w+", shape=(sum(lengths),))
    tokens[:] = np.arange(len(tokens)) % 60_000
    documents = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(tokens, documents, "f", path, len(tokens))


def test_tokens_and_documents(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "A b\nlonger\n\n \u200b \n\nc unknown [MASK]\n")
    corpus = tokenize_corpus(names, word_tokenizer(), tmp_path / "cache")
    assert texts(corpus) == ["a b long ##er", "c [UNK] [ mask ]"]
    assert corpus.documents.dtype == np.int64
    assert corpus.tokens.dtype == np.uint16
    assert corpus.n_tokens == len(corpus.tokens) == 9


def test_the_callers_padding_truncation_and_special_tokens_play_no_part(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "a b c [SEP]\n\na")
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=7)
    before = tokenizer.backend_tokenizer.to_str()
    corpus = tokenize_corpus(names, tokenizer, tmp_path / "cache")
    assert texts(corpus) == ["a b c [ [UNK] ]", "a"]
    assert tokenizer.backend_tokenizer.to_str() == before
    again = tokenize_corpus(names, word_tokenizer(), tmp_path / "cache")
    assert again.fingerprint == corpus.fingerprint


@pytest.mark.parametrize(("size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_width_of_the_ids(tmp_path: Path, size: int, dtype: type) -> None:
    words = [f"w{number}" for number in range(size - len(SPECIAL))]
    names = write(tmp_path / "a.txt", f"w0 {words[-1]}")
    corpus = tokenize_corpus(names, word_tokenizer(words), tmp_path / "cache")
    assert corpus.tokens.dtype == dtype
    assert corpus.tokens.tolist() == [5, size - 1]


@pytest.mark.parametrize("processes", [1, 3, None])
def test_small_chunks_and_any_number_of_threads_give_the_same_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int | None
) -> None:
    draw = random.Random(5)
    lines = [" ".join(draw.choices(WORDS[:4], k=draw.randrange(9))) for _ in range(400)]
    names = write(tmp_path / "1.txt", "\n".join(lines))
    names += write(tmp_path / "2.txt.xz", lzma.compress("\n".join(reversed(lines)).encode()))
    whole = tokenize_corpus(names, word_tokenizer(), tmp_path / "one")
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 50)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    calls: list[tuple[int, int]] = []
    parts = tokenize_corpus(
        names,
        word_tokenizer(),
        tmp_path / "two",
        processes=processes,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert parts.tokens.tolist() == whole.tokens.tolist()
    assert parts.documents.tolist() == whole.documents.tolist()
    size = sum(Path(name).stat().st_size for name in names)
    assert calls == sorted(calls) and calls[-1] == (size, size) and len(calls) > 10
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), byte_tokenizer()])
def test_cutting_long_paragraphs_does_not_change_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    draw = random.Random(7)
    text = " ".join(draw.choices(["a", "ab", "longer", "é", "b,"], k=3000))
    names = write(tmp_path / "a.txt", text)
    whole = tokenize_corpus(names, tokenizer, tmp_path / "one")
    monkeypatch.setattr(sources, "PIECE_BYTES", 64)
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 100)
    parts = tokenize_corpus(names, tokenizer, tmp_path / "two")
    assert len(parts.documents) == 2
    assert parts.tokens.tolist() == whole.tokens.tolist()


def test_max_tokens(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "a b c\n\na a\n\nc c c")
    found = {
        limit: texts(tokenize_corpus(names, word_tokenizer(), tmp_path, max_tokens=limit))
        for limit in (1, 3, 4, 5, 99)
    }
    assert found == {
        1: ["a"],
        3: ["a b c"],
        4: ["a b c", "a"],
        5: ["a b c", "a a"],
        99: ["a b c", "a a", "c c c"],
    }
    with pytest.raises(InputError, match="max_tokens is 0"):
        tokenize_corpus(names, word_tokenizer(), tmp_path, max_tokens=0)


def test_a_second_run_reads_the_cache(tmp_path: Path) -> None:
    names, cache = write(tmp_path / "a.txt", "a b\n\nc"), tmp_path / "cache"
    first = tokenize_corpus(names, word_tokenizer(), cache)
    touched = (first.path / "tokens.bin").stat().st_mtime_ns
    calls: list[Any] = []
    moved = write(tmp_path / "elsewhere.txt", "a b\n\nc")
    second = tokenize_corpus(moved, word_tokenizer(), cache, progress=lambda *c: calls.append(c))
    assert calls == []
    assert second.path == first.path
    assert (second.path / "tokens.bin").stat().st_mtime_ns == touched


def test_what_makes_another_corpus(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one, two = write(tmp_path / "1.txt", "a b\n\nc"), write(tmp_path / "2.txt", "b")
    rows = write(tmp_path / "1.jsonl", '{"text": "a b"}')
    corpora = [
        tokenize_corpus(one, word_tokenizer(), cache),
        tokenize_corpus(one, word_tokenizer([*WORDS, "more"]), cache),
        tokenize_corpus(one, word_tokenizer(), cache, max_tokens=2),
        tokenize_corpus(one + two, word_tokenizer(), cache),
        tokenize_corpus(two + one, word_tokenizer(), cache),
        tokenize_corpus(rows, word_tokenizer(), cache),
    ]
    corpora.append(tokenize_corpus(write(tmp_path / "1.txt", "a c"), word_tokenizer(), cache))
    assert len({corpus.fingerprint for corpus in corpora}) == len(corpora)
    assert len({corpus.path for corpus in corpora}) == len(corpora)


LINE = "a b c long longer mask a a b"


def test_near_duplicates_are_dropped(tmp_path: Path) -> None:
    names = write(tmp_path / "1.txt", f"a\n{LINE}\n\n{LINE.upper()}\nc\n\n{LINE}.\n\nb b")
    names += write(tmp_path / "2.jsonl", json.dumps({"text": f"{LINE}\nc c\n{LINE}\nb"}))
    corpus = tokenize_corpus(names, word_tokenizer(), tmp_path / "cache", deduplicate=True)
    line = "a b c long long ##er mask a a b"
    # A document begins with the first paragraph that is left; one that is left without any is gone.
    assert texts(corpus) == [f"a {line}", "c", "b b", "c c b"]
    assert (corpus.paragraphs, corpus.dropped) == (6, 4)
    whole = tokenize_corpus(names, word_tokenizer(), tmp_path / "cache")
    assert (whole.paragraphs, whole.dropped) == (10, 0)
    assert whole.fingerprint != corpus.fingerprint
    again = tokenize_corpus(names, word_tokenizer(), tmp_path / "cache", deduplicate=True)
    assert (again.path, again.paragraphs, again.dropped) == (corpus.path, 6, 4)
    assert [side.dropped for side in split(again, 5, seed=0)] == [4, 4]


@pytest.mark.parametrize("processes", [1, 3])
def test_near_duplicates_of_other_chunks_and_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 50)
    draw, words = random.Random(3), [f"w{number}" for number in range(5000)]
    lines = [" ".join(draw.choices(words, k=12)) for _ in range(200)]
    names = write(tmp_path / "a.txt", "\n".join([*lines, *lines[:1] * 100, *lines]))  # empty chunks
    calls: list[tuple[int, int]] = []
    given = {"processes": processes, "deduplicate": True}
    tokenizer, cache = word_tokenizer(words), tmp_path / "cache"
    corpus = tokenize_corpus(
        names,
        tokenizer,
        cache,
        progress=lambda done, total: calls.append((done, total)),
        **given,
    )
    alone = tokenize_corpus(write(tmp_path / "b.txt", "\n".join(lines)), tokenizer, cache)
    assert corpus.tokens.tolist() == alone.tokens.tolist()
    assert (corpus.paragraphs, corpus.dropped) == (200, 300)
    assert calls[-1][0] == calls[-1][1]
    cut = tokenize_corpus(names, tokenizer, cache, max_tokens=60, **given)
    assert cut.tokens.tolist() == corpus.tokens[:60].tolist()
    assert (cut.paragraphs, cut.dropped) == (5, 0)  # read as far as needed, whatever the threads


def test_corpora_of_earlier_versions_have_no_counts(tmp_path: Path) -> None:
    corpus = tokenize_corpus(write(tmp_path / "a.txt", "a b"), word_tokenizer(), tmp_path)
    facts = json.loads((corpus.path / "corpus.json").read_text())
    for name in ("paragraphs", "dropped"):
        del facts[name]
    (corpus.path / "corpus.json").write_text(json.dumps(facts))
    assert open_corpus(corpus.path).paragraphs is None


PEAK = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer
from prunella.data.corpus import tokenize_corpus
text, tokenizer, cache = sys.argv[1:]
backend = SimpleNamespace(backend_tokenizer=Tokenizer.from_file(tokenizer))
corpus = tokenize_corpus([text], backend, Path(cache), processes=1, deduplicate=True)
status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak
print(status.split("VmHWM:")[1].split()[0], corpus.n_tokens, corpus.dropped)
"""


def peak(folder: Path, paragraphs: int) -> tuple[int, int, int]:
    """Peak memory (bytes), tokens and dropped paragraphs of a text of so many KB, run alone."""
    words = [f"{number:x}" for number in range(1 << 12)]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    text, draw = folder / f"{paragraphs}.txt", random.Random(0)
    line = ""
    with text.open("w") as file:
        for number in range(paragraphs):
            if number % 10 < 9:  # else the one before, again
                line = " ".join(draw.choices(words, k=260))
            file.write(f"{line}\n\n")
    arguments = [str(text), str(folder / "tokenizer.json"), str(folder / "cache")]
    root = str(Path(sources.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    kilobytes, tokens, dropped = map(int, done.stdout.split())
    return kilobytes * 1024, tokens, dropped


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    small, large = peak(tmp_path, 1_000), peak(tmp_path, 12_000)
    assert large[1:] == (10_800 * 260, 1_200)
    more = (tmp_path / "12000.txt").stat().st_size - (tmp_path / "1000.txt").stat().st_size
    assert more > 11_000_000
    assert large[0] - small[0] < more / 4


def test_bad_text_leaves_no_corpus(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    good = write(tmp_path / "good.txt", "a b c")
    for contents, what in ((b"a\nb\xff", r"bad\.txt, line 2"), (b"", "no text")):
        with pytest.raises(InputError, match=what):
            tokenize_corpus(good + write(tmp_path / "bad.txt", contents), word_tokenizer(), cache)
    with pytest.raises(InputError, match="no token"):
        tokenize_corpus(write(tmp_path / "odd.txt", "\u200b"), word_tokenizer(), cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "a")
    with pytest.raises(InputError, match="choose another cache folder"):
        tokenize_corpus(names, word_tokenizer(), tmp_path / "a.txt" / "cache")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    names = write(tmp_path / "a.txt", "a")
    with pytest.raises(InputError, match="No space left on device"):
        tokenize_corpus(names, word_tokenizer(), tmp_path / "cache")
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    corpus = tokenize_corpus(write(tmp_path / "a.txt", "a b c"), word_tokenizer(), tmp_path)
    for name in ("tokens.bin", "documents.npy", "corpus.json"):
        whole = (corpus.path / name).read_bytes()
        for contents in (whole[: len(whole) // 2], b""):
            (corpus.path / name).write_bytes(contents)
            with pytest.raises(InputError, match="damaged"):
                open_corpus(corpus.path)
        (corpus.path / name).write_bytes(whole)
    assert texts(open_corpus(corpus.path)) == ["a b c"]


BUILDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer
from prunella.data.corpus import tokenize_corpus
text, tokenizer, cache, hang = sys.argv[1:]
calls = []
def progress(done, total):
    calls.append(done)
    if hang == "hang":
        print("building", flush=True)
        time.sleep(60)
backend = SimpleNamespace(backend_tokenizer=Tokenizer.from_file(tokenizer))
corpus = tokenize_corpus([text], backend, Path(cache), progress=progress)
print(corpus.fingerprint, int(corpus.tokens.sum()), len(calls) > 0)
"""


def start_builder(folder: Path, hang: str = "no") -> subprocess.Popen[str]:
    tokenizer = folder / "tokenizer.json"
    word_tokenizer().backend_tokenizer.save(str(tokenizer))
    arguments = [str(folder / "a.txt"), str(tokenizer), str(folder / "cache"), hang]
    root = str(Path(sources.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_several_processes_at_once_build_one_corpus(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "a b longer c\n" * 50_000)
    builders = [start_builder(tmp_path) for _ in range(3)]
    outputs = [builder.communicate(timeout=60)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert len({tuple(output[:2]) for output in outputs}) == 1
    assert sorted(output[2] for output in outputs) == ["False", "False", "True"]
    assert sum(path.is_dir() for path in (tmp_path / "cache").iterdir()) == 1


def test_a_killed_build_is_begun_anew(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "a b c\n\nlonger")
    builder = start_builder(tmp_path, "hang")
    assert builder.stdout is not None
    assert builder.stdout.readline() == "building\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    cache = tmp_path / "cache"
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".partial"]
    corpus = tokenize_corpus(names, word_tokenizer(), cache)
    assert texts(corpus) == ["a b c", "long ##er"]
    assert [path for path in cache.iterdir() if path.is_dir()] == [corpus.path]


def test_pickling_maps_the_files_again(tmp_path: Path) -> None:
    names = write(tmp_path / "a.txt", "a b c\n\nlonger\n\n" * 2000)
    _, part = split(tokenize_corpus(names, word_tokenizer(), tmp_path), 20, seed=1)
    message = pickle.dumps(part)
    assert len(message) < 2000
    copy = pickle.loads(message)
    assert isinstance(copy.tokens, np.memmap)
    assert (copy.fingerprint, copy.n_tokens) == (part.fingerprint, part.n_tokens)
    assert [a.tolist() for a in copy.spans()] == [a.tolist() for a in part.spans()]


def test_split_shares_out_whole_documents(tmp_path: Path) -> None:
    corpus = corpus_of([7, 3, 50, 4, 9, 2, 8, 6, 5, 6], tmp_path)
    train, validation = split(corpus, 12, seed=3)
    sides = [set(side.spans()[0].tolist()) for side in (train, validation)]
    assert sides[0] | sides[1] == set(corpus.documents[:-1].tolist())
    assert not sides[0] & sides[1]
    assert 12 <= validation.n_tokens <= 24
    assert train.n_tokens == corpus.n_tokens - validation.n_tokens
    for side in (train, validation):
        assert side.n_tokens == side.spans()[1].sum()
        assert side.tokens is corpus.tokens
    assert len({corpus.fingerprint, train.fingerprint, validation.fingerprint}) == 3


def test_split_is_decided_by_the_seed(tmp_path: Path) -> None:
    corpus = corpus_of([3] * 100, tmp_path)
    chosen = [split(corpus, 30, seed)[1].spans()[0].tolist() for seed in (1, 1, 2, -1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert [len(each) for each in chosen] == [10] * 4
    assert split(corpus, 30, 1)[1].fingerprint != split(corpus, 30, 2)[1].fingerprint


@pytest.mark.parametrize(
    ("lengths", "wanted", "validation"),
    [
        ([1000, 10], 5, 10),
        ([10, 1000], 100, 10),
        ([1, 1], 1_000_000, 1),
        ([5, 5, 5, 5], 1_000_000, 10),
    ],
)
def test_split_of_few_documents(
    tmp_path: Path, lengths: list[int], wanted: int, validation: int
) -> None:
    train, held_out = split(corpus_of(lengths, tmp_path), wanted, seed=0)
    assert held_out.n_tokens == validation
    assert train.n_tokens == sum(lengths) - validation


def test_split_can_be_split_again(tmp_path: Path) -> None:
    corpus = corpus_of([3] * 30, tmp_path)
    train, validation = split(corpus, 9, 0)
    rest, test = split(train, 9, 0)
    parts = [part.spans()[0].tolist() for part in (rest, validation, test)]
    assert sorted(sum(parts, [])) == corpus.documents[:-1].tolist()


def test_split_needs_two_documents(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one document, which cannot be split"):
        split(corpus_of([100], tmp_path), 10, 0)
    with pytest.raises(InputError, match="validation_tokens is 0"):
        split(corpus_of([1, 1], tmp_path), 0, 0)


def test_the_facts_beside_the_tokens(tmp_path: Path) -> None:
    corpus = tokenize_corpus(write(tmp_path / "a.txt", "a b\n\nc"), word_tokenizer(), tmp_path)
    facts = json.loads((corpus.path / "corpus.json").read_text())
    assert facts["n_documents"] == 2 and facts["n_tokens"] == 3
    assert facts["sources"] == [str(tmp_path / "a.txt")]
