"""Micro-batches of two texts: the share, the order within each, the same at any position."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.test_corpus import corpus_of

from prunella.data.corpus import Corpus
from prunella.data.mixing import MixedBatches
from prunella.data.mlm_batches import MlmBatches, TokenizerInfo

INFO = TokenizerInfo(cls=1, sep=2, mask=3, pad=0, vocab_size=60_001, special=(0, 1, 2, 3), pair_separator=(2,))  # fmt: skip


def batches(corpus: Corpus, count: int) -> MlmBatches:
    given: dict[str, Any] = {"batch_tokens": 64, "length": 16, "short_share": 0.3}
    given |= {"pair_share": 0.5, "mask_probability": 0.2, "seed": 4, "token_types": True}
    return MlmBatches(corpus, INFO, count=count, **given)


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Corpus, Corpus]:
    folders = [tmp_path / "main", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    main, other = (corpus_of([300] * 40, folder) for folder in folders)
    main.tokens[:] = 10_000 + np.arange(len(main.tokens)) % 20_000
    other.tokens[:] = 40_000 + np.arange(len(other.tokens)) % 20_000
    return main, other


def mixed(corpora: tuple[Corpus, Corpus], share: float, count: int, seed: int = 0) -> MixedBatches:
    main, other = corpora
    return MixedBatches(
        lambda part: batches(main, part),
        lambda part: batches(other, part),
        share=share,
        count=count,
        seed=seed,
    )


def is_other(batch: dict[str, torch.Tensor]) -> bool:
    text = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    words = text[text > 3]
    assert bool((words >= 40_000).all()) or bool((words < 40_000).all())  # never both
    return bool(words[0] >= 40_000)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share(corpora: tuple[Corpus, Corpus], share: float) -> None:
    source = mixed(corpora, share, 400)
    found = np.mean([is_other(source[position]) for position in range(400)])
    assert found == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)


def test_each_text_goes_on_as_it_would_alone(corpora: tuple[Corpus, Corpus]) -> None:
    source = mixed(corpora, 0.4, 60)
    seen = {False: 0, True: 0}
    taken = [is_other(source[position]) for position in range(60)]
    alone = {False: batches(corpora[0], taken.count(False)), True: batches(corpora[1], sum(taken))}
    for position in range(60):
        batch, other = source[position], taken[position]
        wanted = alone[other][seen[other]]
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
        seen[other] += 1


def test_a_position_decides_its_batch(corpora: tuple[Corpus, Corpus]) -> None:
    first, second = mixed(corpora, 0.5, 30), mixed(corpora, 0.5, 30)
    backwards = {position: second[position] for position in reversed(range(30))}
    for position in range(30):
        assert torch.equal(first[position]["input_ids"], backwards[position]["input_ids"])
    others = [is_other(first[position]) for position in range(30)]
    again = mixed(corpora, 0.5, 30, seed=1)
    assert others != [is_other(again[position]) for position in range(30)]


def test_positions_outside(corpora: tuple[Corpus, Corpus]) -> None:
    assert len(mixed(corpora, 0.5, 0)) == 0
    for position in (-1, 7):
        with pytest.raises(IndexError):
            mixed(corpora, 0.5, 7)[position]
