"""The reference runner, which everything else is compared with, against transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine.conftest import FAMILIES, HEADS, Tiny
from engine.reference import HEADS as TABLE
from engine.reference import ReferenceRunner

from prunella.grid import quantize_tokens

Tinies = Callable[..., Tiny]
LENGTHS = np.array([9, 1, 40, 17], np.int32)


def sequences(runner: ReferenceRunner) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and types of LENGTHS."""
    rng = np.random.default_rng(3)
    words = runner.card.config["vocab_size"]
    ids = rng.integers(5, words, LENGTHS.sum()).astype(np.int32)
    types = rng.integers(0, 2 if runner.card.token_types else 1, LENGTHS.sum()).astype(np.int32)
    return ids, types


def by_transformers(model: Any, runner: ReferenceRunner, ids: Any, types: Any) -> list[np.ndarray]:
    """Output of each sequence, by itself: [T, width], or [1, width] of a classifier."""
    import torch

    outputs = []
    for one, kinds in zip(
        *(np.split(a, np.cumsum(LENGTHS)[:-1]) for a in (ids, types)), strict=True
    ):
        extra = {}
        if runner.card.family != "distilbert":
            extra = {"token_type_ids": torch.from_numpy(kinds.astype(np.int64))[None]}
        with torch.no_grad():
            out = model(torch.from_numpy(one.astype(np.int64))[None], **extra)
        if hasattr(out, "start_logits"):
            found = torch.stack([out.start_logits, out.end_logits], dim=-1)[0]
        elif hasattr(out, "logits"):
            found = out.logits[0]
        else:
            found = out.last_hidden_state[0]
        outputs.append(np.atleast_2d(found.numpy()))
    return outputs


@pytest.mark.parametrize("head", [*HEADS, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_transformers(tiny: Tinies, family: str, head: str | None) -> None:
    subject = tiny(family, head)
    runner = ReferenceRunner(subject.packed)
    ids, types = sequences(runner)
    expected = by_transformers(subject.torch(), runner, ids, types)
    first = head == "SequenceClassification"
    starts = np.cumsum(LENGTHS) - LENGTHS
    rows = (starts if first else np.arange(LENGTHS.sum())).astype(np.int32)
    found = runner.run(ids, types, LENGTHS, rows)
    assert found.dtype == np.float32
    assert found.shape[1] == runner.width
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5, atol=1e-5)


def test_rows_come_in_their_order(tiny: Tinies) -> None:
    runner = ReferenceRunner(tiny("bert", "TokenClassification").packed)
    ids, types = sequences(runner)
    every = runner.run(ids, types, LENGTHS, np.arange(LENGTHS.sum(), dtype=np.int32))
    rows = np.array([60, 3, 3, 9], np.int32)
    np.testing.assert_array_equal(runner.run(ids, types, LENGTHS, rows), every[rows])
    assert runner.run(ids, types, LENGTHS, rows[:0]).shape == (0, runner.width)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_int8_is_near_and_takes_the_grid(tiny: Tinies, family: str) -> None:
    exact = ReferenceRunner(tiny(family, "SequenceClassification").packed)
    rounded = ReferenceRunner(tiny(family, "SequenceClassification", weights="int8").packed)
    ids, types = sequences(exact)
    rows = (np.cumsum(LENGTHS) - LENGTHS).astype(np.int32)
    near = rounded.run(ids, types, LENGTHS, rows) - exact.run(ids, types, LENGTHS, rows)
    assert 1e-5 < np.abs(near).max() < 0.3
    # One Linear by hand, from the bytes and the codes.
    name = f"{rounded._layer(0)}.attention.self.query"
    x = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    codes, scale, zero = quantize_tokens(x)
    weight = rounded.packed.tensor(f"{name}.weight").astype(np.int64)
    total = (codes.astype(np.int64) - zero) @ weight.T
    expected = total * scale * rounded.packed.scale(f"{name}.weight")
    bias = rounded.packed.tensor(f"{name}.bias")
    np.testing.assert_allclose(rounded._linear(x, name), expected + bias, rtol=1e-5, atol=1e-5)


def test_the_table_of_heads_covers_every_family() -> None:
    assert {(family, head) for family in FAMILIES for head in HEADS} <= TABLE.keys()


def test_electra_projects_its_embeddings(tiny: Tinies) -> None:
    packed = tiny("electra").packed
    assert packed.info("embeddings.word_embeddings.weight").shape[1] == 16
    assert packed.info("embeddings_project.weight").shape == (32, 16)
    assert ReferenceRunner(packed).hidden == 32
