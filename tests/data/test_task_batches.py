"""Batches of a task: right tokens, right padding, right order, whatever was asked before."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunella.data.task_batches import (
    MEGA_BATCH,
    EncodedTask,
    TaskBatches,
    collate,
    eval_batches,
    places,
)
from prunella.errors import InputError


def lengths_task(lengths: list[int], max_length: int = 64) -> EncodedTask:
    """Example i is `lengths[i]` times the token i + 1."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32) + 1, lengths)
    labels = np.arange(len(lengths), dtype=np.int64) * 10
    return EncodedTask(ids, offsets, None, labels, max_length)


def batches(encoded: EncodedTask, **changes: Any) -> TaskBatches:
    given = {"batch_size": 4, "epochs": 2, "steps": None, "seed": 3, "pad_id": 0}
    return TaskBatches(encoded, **(given | changes))


def rows(source: Any, positions: range) -> list[list[int]]:
    return [source[i]["index"].tolist() for i in positions]


def test_a_batch_by_hand() -> None:
    encoded = EncodedTask(
        ids=np.array([2, 4, 3, 2, 5, 6, 3], dtype=np.int32),
        offsets=np.array([0, 3, 7]),
        token_types=np.array([0, 1, 1, 0, 0, 1, 1], dtype=np.uint8),
        labels=np.array([0.5, 1.5], dtype=np.float32),
        max_length=6,
    )
    batch = collate(encoded, np.array([1, 0]), pad_id=9)
    expected = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 4, 3, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "token_type_ids": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]]),
        "labels": torch.tensor([1.5, 0.5]),
        "index": torch.tensor([1, 0]),
    }
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(batch[name], tensor, rtol=0, atol=0)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    bucket=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_an_epoch_holds_every_example_once_and_whole(
    lengths: list[int], batch_size: int, bucket: bool, seed: int
) -> None:
    encoded = lengths_task(lengths)
    source = batches(encoded, batch_size=batch_size, epochs=2, bucket=bucket, seed=seed)
    per_epoch = -(-len(lengths) // batch_size)
    assert len(source) == 2 * per_epoch
    for epoch in range(2):
        seen = []
        for position in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            batch = source[position]
            width = batch["input_ids"].shape[1]
            assert width == (max(lengths[i] for i in batch["index"]) if bucket else 64)
            for i, ids, mask, label in zip(
                batch["index"].tolist(),
                batch["input_ids"].tolist(),
                batch["attention_mask"].tolist(),
                batch["labels"].tolist(),
                strict=True,
            ):
                assert ids == [i + 1] * lengths[i] + [0] * (width - lengths[i])
                assert mask == [1] * lengths[i] + [0] * (width - lengths[i])
                assert label == 10 * i
                seen.append(i)
        assert sorted(seen) == list(range(len(lengths)))


def test_a_batch_depends_on_nothing_but_its_position() -> None:
    encoded = lengths_task([1 + i % 9 for i in range(50)])
    forward = rows(batches(encoded, epochs=3), range(39))
    torch.manual_seed(1)
    np.random.seed(1)
    source = batches(encoded, epochs=3)
    jumps = [38, 0, 20, 13, 12, 38, 1]
    assert [source[i]["index"].tolist() for i in jumps] == [forward[i] for i in jumps]
    # The length of the run must not matter either: a run may be made longer and resumed.
    assert rows(batches(encoded, epochs=None, steps=13), range(13)) == forward[:13]


def test_order_differs_by_epoch_and_seed() -> None:
    encoded = lengths_task([1 + i % 9 for i in range(48)])
    source = batches(encoded)
    first, second = rows(source, range(12)), rows(source, range(12, 24))
    other = rows(batches(encoded, seed=4), range(12))
    assert first != second
    assert first != other
    assert second != other


def test_bucketing_pads_little_but_still_shuffles() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, size=4000).tolist()
    source = batches(lengths_task(lengths), batch_size=8, epochs=1)
    cells = sum(batch["input_ids"].numel() for batch in source)
    assert sum(lengths) <= cells < 1.06 * sum(lengths)
    in_batches = [[lengths[i] for i in batch] for batch in rows(source, range(500))]
    # Batches of all lengths alternate: half of the steps go up, half down.
    assert 0.4 < np.mean(np.diff([max(batch) for batch in in_batches]) > 0) < 0.6
    # Sorted as a whole, nearly every batch would hold one length only, the same in all epochs.
    assert len(lengths) == MEGA_BATCH * 8 * 10
    assert np.mean([len(set(batch)) == 1 for batch in in_batches]) < 0.5


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"epochs": 1}, 30),
        ({"epochs": 0.1}, 3),
        ({"epochs": 2.5}, 75),
        ({"epochs": 8.3}, 249),  # 8.3 * 30 is a little more than 249 in floating point
        ({"epochs": 1e-9}, 1),
        ({"epochs": None, "steps": 7}, 7),
        ({"epochs": None, "steps": 7, "accumulation": 4}, 28),
    ],
)
def test_the_length_of_a_run(length: dict[str, Any], expected: int) -> None:
    source = batches(lengths_task([2] * 119), **length)
    assert len(source) == expected
    assert source[expected - 1]["index"].numel() >= 3
    for outside in (expected, -1):
        with pytest.raises(IndexError):
            source[outside]


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": None},
        {"steps": 5},
        {"epochs": 0},
        {"epochs": None, "steps": 0},
        {"batch_size": 0},
        {"accumulation": 0},
    ],
)
def test_runs_without_a_length(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="epochs"):
        batches(lengths_task([2, 2]), **changes)


def test_evaluation_sees_each_example_once_longest_first() -> None:
    lengths = [3, 9, 1, 4, 4, 8, 2]
    source = eval_batches(lengths_task(lengths), batch_size=3, pad_id=7)
    assert len(source) == 3
    assert rows(source, range(3)) == [[1, 5, 3], [4, 0, 6], [2]]
    assert source[1]["input_ids"].tolist() == [[5, 5, 5, 5], [1, 1, 1, 7], [7, 7, 7, 7]]


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_places_of_sequences_in_a_flat_array(counts: list[int], seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chosen = np.random.default_rng(seed).permutation(len(counts))
    expected = [place for i in chosen for place in range(offsets[i], offsets[i + 1])]
    assert places(offsets, chosen).tolist() == expected


def test_watched_tokens_and_their_labels_by_hand() -> None:
    encoded = EncodedTask(
        ids=np.array([2, 4, 3, 2, 5, 6, 3], dtype=np.int32),
        offsets=np.array([0, 3, 7]),
        token_types=None,
        labels=np.array([7, 8, 9]),
        max_length=6,
        watched=np.array([0, 1, 0, 0, 1, 1, 0], dtype=bool),
        token_labels=True,
    )
    assert encoded.output_offsets.tolist() == [0, 1, 3]
    batch = collate(encoded, np.array([1, 0]), pad_id=0)
    assert batch["watched"].tolist() == [[False, True, True, False], [False, True, False, False]]
    assert batch["labels"].tolist() == [8, 9, 7]  # in the order of batch[watched]
    assert batch["input_ids"][batch["watched"]].tolist() == [5, 6, 4]
