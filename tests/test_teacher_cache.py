"""The teacher's cache: computed once, the same bits ever after, half the bytes, no stale rows."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prunella.checkpoint import open_checkpoint
from prunella.data.task_batches import EncodedTask, collate
from prunella.distillation import Features, Wanted, distillation_loss, wanted_features
from prunella.errors import InputError
from prunella.models import load_for_task
from prunella.settings import DistillationSettings
from prunella.teacher_cache import TeacherCache
from prunella.training.mlm import Teacher

LENGTHS = [5, 9, 3, 12, 7, 4]
ALL = Wanted(logits=True, hidden=(0, 1), relation=1)
SIGNALS = DistillationSettings(logits=1.0, hidden=1.0, attention=1.0)


class CountedTeacher(Teacher):
    """Counts the rows that it is asked for."""

    rows = 0

    def features(self, inputs: Any, wanted: Wanted, tokens: Any) -> Features:
        object.__setattr__(self, "rows", self.rows + len(inputs["index"]))
        return super().features(inputs, wanted, tokens)


@pytest.fixture
def teacher(tiny_checkpoint: Callable[..., Path]) -> CountedTeacher:
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint("bert", "classifier", labels=3)
    )
    return CountedTeacher(model.eval(), SIGNALS, bf16=False)


@pytest.fixture(scope="module")
def encoded() -> EncodedTask:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = rng.integers(5, 100, offsets[-1]).astype(np.int32)
    types = rng.integers(0, 2, offsets[-1]).astype(np.uint8)
    return EncodedTask(ids, offsets, types, np.zeros(len(LENGTHS), np.int64), 64)


def batch(encoded: EncodedTask, *rows: int) -> dict[str, torch.Tensor]:
    return collate(encoded, np.array(rows), pad_id=0)


def cache(
    teacher: Teacher,
    encoded: EncodedTask,
    folder: Path,
    wanted: Wanted = ALL,
    gigabytes: float = 1.0,
) -> TeacherCache:
    return TeacherCache(teacher, wanted, encoded, folder, gigabytes)


def same(a: Features, b: Features) -> bool:
    pairs = list(zip(a.hidden, b.hidden, strict=True))
    pairs += [(a.relations[role], b.relations[role]) for role in a.relations | b.relations]
    if a.logits is not None or b.logits is not None:
        assert a.logits is not None
        assert b.logits is not None
        pairs.append((a.logits, b.logits))
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def test_every_epoch_sees_the_same_bits(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    cached = cache(teacher, encoded, tmp_path)
    inputs = batch(encoded, 3, 0, 5)
    first, second = cached.features(inputs), cached.features(inputs)
    assert same(first, second)
    assert teacher.rows == 3
    # In other company, and so with other padding, a row is what it was.
    alone = cached.features(batch(encoded, 0))
    assert first.logits is not None
    assert alone.logits is not None
    assert torch.equal(alone.logits[0], first.logits[1])
    for layer in (0, 1):
        assert torch.equal(alone.hidden[layer], first.hidden[layer][12 : 12 + 5])
    assert torch.equal(alone.relations["key"][0], first.relations["key"][1, :5])
    assert teacher.rows == 3


def test_it_holds_what_the_teacher_says(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    inputs = batch(encoded, 1, 4, 2)
    live = teacher.features(inputs, ALL, None)
    found = cache(teacher, encoded, tmp_path).features(inputs)
    assert live.logits is not None
    assert found.logits is not None
    assert torch.equal(found.logits, live.logits)  # float32, not rounded
    for a, b in zip(found.hidden, live.hidden, strict=True):
        assert torch.equal(a, b.half())
    real = inputs["attention_mask"].bool()
    for role in ("query", "key", "value"):
        assert torch.equal(found.relations[role][real], live.relations[role][real].half())
        assert not found.relations[role][~real].any()
    # Half precision costs the loss next to nothing.
    student = Features(
        live.logits + 0.1,
        [h + 0.1 for h in live.hidden],
        {r: v * 1.1 for r, v in live.relations.items()},
    )
    losses = [
        distillation_loss(student, t, SIGNALS, inputs["attention_mask"], 2) for t in (live, found)
    ]
    for name, value in losses[0].items():
        assert losses[1][name].item() == pytest.approx(value.item(), rel=1e-2)


def test_only_missing_rows_are_stored(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    cached = cache(teacher, encoded, tmp_path)
    before = cached.features(batch(encoded, 1, 4))
    with torch.no_grad():  # a changed teacher shows which rows are computed anew
        for weight in teacher.model.parameters():
            weight.add_(0.05)
    mixed = cached.features(batch(encoded, 4, 3, 1))
    again = cached.features(batch(encoded, 1, 4))
    assert same(before, again)
    assert mixed.logits is not None
    assert before.logits is not None
    assert torch.equal(mixed.logits[[2, 0]], before.logits)
    assert torch.equal(mixed.hidden[1][: LENGTHS[4]], before.hidden[1][LENGTHS[1] :])
    new = teacher.features(batch(encoded, 3), ALL, None)
    torch.testing.assert_close(mixed.logits[1:2], new.logits)
    assert cached.done.tolist() == [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("wanted", "slices"),
    [
        (ALL, 5),
        (Wanted(True, (1,), None), 1),
        (Wanted(False, (0, 1), None), 2),
        (Wanted(False, (), 0), 3),
    ],
)
def test_half_precision_on_disk(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path, wanted: Wanted, slices: int
) -> None:
    cached = cache(teacher, encoded, tmp_path, wanted)
    inputs = batch(encoded, 0, 1, 2)
    first = cached.features(inputs)
    assert same(first, cached.features(inputs))
    assert (first.logits is None) is not wanted.logits
    assert len(first.hidden) == len(wanted.hidden)
    assert len(first.relations) == (3 if wanted.relation is not None else 0)
    assert all(h.dtype == torch.float16 for h in first.hidden)
    assert (
        (tmp_path / "states.bin").stat().st_size == cached.bytes == sum(LENGTHS) * slices * 32 * 2
    )
    assert (tmp_path / "logits.bin").stat().st_size == len(LENGTHS) * 3 * 4


def test_logits_alone_need_no_states(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    cached = cache(teacher, encoded, tmp_path, Wanted(logits=True))
    inputs = batch(encoded, 0, 1)
    assert same(cached.features(inputs), cached.features(inputs))
    assert teacher.rows == 2
    assert not (tmp_path / "states.bin").exists()


def test_above_the_limit_states_are_computed_each_time(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    size = sum(LENGTHS) * 5 * 32 * 2
    assert cache(teacher, encoded, tmp_path / "fits", gigabytes=size / 1e9).keeps_states
    cached = cache(teacher, encoded, tmp_path / "small", gigabytes=(size - 1) / 1e9)
    assert not cached.keeps_states
    assert not (tmp_path / "small" / "states.bin").exists()
    inputs = batch(encoded, 2, 3)
    first, second = cached.features(inputs), cached.features(inputs)
    assert teacher.rows == 4
    live = teacher.features(inputs, ALL, None)
    for found in (first, second):
        assert found.logits is not None
        assert torch.equal(found.logits, live.logits)  # type: ignore[arg-type]
        kept = [state.to(torch.float16) for state in live.hidden]  # as those that fit on disk
        assert all(map(torch.equal, found.hidden, kept))
        assert torch.equal(found.relations["query"], live.relations["query"].to(torch.float16))
    # The logits do come from the cache.
    with torch.no_grad():
        teacher.model.classifier.bias.add_(1.0)
    assert torch.equal(cached.features(inputs).logits, first.logits)  # type: ignore[arg-type]


def test_it_survives_the_process(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    inputs = batch(encoded, 0, 3)
    first = cache(teacher, encoded, tmp_path).features(inputs)
    reopened = cache(teacher, encoded, tmp_path)
    assert same(reopened.features(inputs), first)
    assert teacher.rows == 2
    assert reopened.done.sum() == 2


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((ALL, 1e-9), (ALL, 1.0)),  # killed, then repeated with a larger limit
        ((Wanted(False, (0, 1), 1), 1.0), (ALL, 1.0)),
        ((Wanted(True, (0,), None), 1.0), (Wanted(True, (1,), None), 1.0)),
    ],
)
def test_arrays_of_another_layout_are_not_believed(
    teacher: CountedTeacher,
    encoded: EncodedTask,
    tmp_path: Path,
    before: tuple[Wanted, float],
    now: tuple[Wanted, float],
) -> None:
    inputs = batch(encoded, 0, 1, 2, 3, 4, 5)
    cache(teacher, encoded, tmp_path, *before).features(inputs)
    found = cache(teacher, encoded, tmp_path, *now).features(inputs)
    expected = cache(teacher, encoded, tmp_path / "new", *now).features(inputs)
    assert same(found, expected)
    assert all(h.any() for h in found.hidden)


def test_a_row_counts_as_done_only_when_it_is_whole(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    """Killed between the arrays, a run computes the row again."""
    cached = cache(teacher, encoded, tmp_path)
    inputs = batch(encoded, 0)
    expected = cached.features(inputs)
    cached.done[:] = 0
    assert cached.states is not None
    cached.states[:] = 7
    assert same(cache(teacher, encoded, tmp_path).features(inputs), expected)


def test_wanted_by_a_shallower_student(
    teacher: CountedTeacher,
    encoded: EncodedTask,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
) -> None:
    """What a DistilBERT of one layer learns from is the BERT teacher's second, with token types."""
    config = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint("distilbert", "classifier", layers=1, labels=3)
    ).config
    ours, theirs = wanted_features(SIGNALS, config, teacher.model.config)
    assert (ours.hidden, theirs.hidden) == ((0,), (1,))
    inputs = batch(encoded, 0, 1)
    found = cache(teacher, encoded, tmp_path, theirs).features(inputs)
    reference = teacher.model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        token_type_ids=inputs["token_type_ids"],
        output_hidden_states=True,
    )
    real = inputs["attention_mask"].bool()
    assert torch.equal(found.hidden[0], reference.hidden_states[-1][real].half())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit of the system that acts like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_told_before_training_starts(
    teacher: CountedTeacher, encoded: EncodedTask, tmp_path: Path
) -> None:
    with (
        largest_file(4096),
        pytest.raises(InputError, match=r"states\.bin.*no room.*--cache-gigabytes"),
    ):
        cache(teacher, encoded, tmp_path)
    inputs = batch(encoded, 0)
    found = cache(teacher, encoded, tmp_path).features(inputs)  # nothing half-made is in the way
    file = (tmp_path / "states.bin").stat()
    assert file.st_blocks * 512 >= file.st_size  # a sparse file would find the disk full later
    assert same(found, cache(teacher, encoded, tmp_path / "new").features(inputs))


def test_outputs_of_watched_tokens_are_kept_each(
    encoded: EncodedTask, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """As many logits as a sequence has watched tokens, found again in any company."""
    model: Any = load_for_task(
        open_checkpoint(tiny_checkpoint("bert", "base")), "TokenClassification", 3, [], None
    )
    taught = CountedTeacher(model.eval(), SIGNALS, bf16=False)
    watched = np.random.default_rng(1).random(len(encoded.ids)) < 0.4
    watched[encoded.offsets[1] : encoded.offsets[2]] = False  # one with none at all
    tokens = replace(encoded, watched=watched)
    cached = cache(taught, tokens, tmp_path, Wanted(logits=True))
    counts = np.diff(tokens.output_offsets)
    assert counts.sum() == watched.sum()
    first = cached.features(batch(tokens, 3, 1, 0)).logits
    assert first is not None
    assert first.shape == (counts[[3, 1, 0]].sum(), 3)
    live = taught.features(batch(tokens, 3, 1, 0), Wanted(logits=True), None).logits
    assert live is not None
    assert torch.equal(first, live)
    mixed = cached.features(batch(tokens, 0, 5, 3)).logits
    assert mixed is not None
    assert torch.equal(mixed[: counts[0]], first[counts[3] :])
    assert torch.equal(mixed[counts[0] + counts[5] :], first[: counts[3]])
