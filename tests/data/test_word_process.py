import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunella.data import encoding
from prunella.data.corpus import tokenize_corpus
from prunella.data.encoding import plain_encoder
from prunella.data.word_process import WordProcess
from prunella.data.words import WordEncoder
from prunella.errors import InputError

IDS = np.dtype(np.uint16)
TEXTS = ["The engine hides, in the attic.", "", "Nobody's \u200b café [SEP] 🙂 \U0010ffff"]


@pytest.fixture
def process(tiny_tokenizer: Any) -> Iterator[WordProcess]:
    words = WordEncoder(plain_encoder(tiny_tokenizer), IDS)
    words.encode(["The engine [SEP]"])
    made = WordProcess(words)
    yield made
    made.close()


def test_the_same_as_here(process: WordProcess, tiny_tokenizer: Any) -> None:
    here = WordEncoder(plain_encoder(tiny_tokenizer), IDS)
    for texts in (TEXTS, [], ["a" * 70_000], TEXTS * 3000):
        for found, wanted in zip(process.encode(texts), here.encode(texts), strict=True):
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)


def test_a_killed_process_is_said_so(process: WordProcess) -> None:
    process.encode(TEXTS)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="ended with exit code -9. Is memory short"):
        process.encode(TEXTS)


def test_it_ends_when_closed(process: WordProcess) -> None:
    process.encode(TEXTS)
    assert process.close() == 0


def test_long_text_is_shared_among_processes(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[WordProcess] = []

    class Watched(WordProcess):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(encoding, "WordProcess", Watched)
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 2000)
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(f"{line} {n % 37}" for n in range(300) for line in TEXTS))
    alone = tokenize_corpus([str(text)], tiny_tokenizer, tmp_path / "alone", processes=1)
    short = tokenize_corpus([str(text)], tiny_tokenizer, tmp_path / "short", processes=2)
    assert not made
    monkeypatch.setattr(encoding, "_WORTH_PROCESSES", 6000)
    long = tokenize_corpus([str(text)], tiny_tokenizer, tmp_path / "long", processes=2)
    assert 1 <= len(made) <= 2
    assert all(process.close() == 0 for process in made)
    for corpus in (short, long):
        assert np.array_equal(corpus.tokens, alone.tokens)
        assert np.array_equal(corpus.documents, alone.documents)
