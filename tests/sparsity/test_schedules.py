"""Sparsity over steps at the published figures; a learning rate that rewinds and never exceeds 1."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunella.sparsity.schedules import PruningSchedule, linear_factor, rewound_factor

PRUNE_OFA = PruningSchedule(
    initial=0.0, final=0.9, start=0, growth_end=50_000, freeze=80_000, total=100_000, every=1000
)


@st.composite
def schedules(draw: st.DrawFn) -> PruningSchedule:
    start, growth_end, freeze, total = sorted(
        draw(st.lists(st.integers(0, 120), min_size=4, max_size=4))
    )
    initial, final = sorted(draw(st.lists(st.floats(0, 0.99), min_size=2, max_size=2)))
    return PruningSchedule(
        initial, final, start, growth_end, freeze, max(total, 1), draw(st.integers(1, 30))
    )


@pytest.mark.parametrize(
    ("step", "percent"), [(0, 0.0), (1_000, 5.3), (10_000, 43.9), (25_000, 78.8), (50_000, 90.0)]
)
def test_the_published_figures(step: int, percent: float) -> None:
    assert round(100 * PRUNE_OFA.sparsity(step), 1) == percent


def test_sparsity_outside_the_growth() -> None:
    later = PruningSchedule(0.3, 0.8, 100, 200, 250, 300, 10)
    assert [later.sparsity(step) for step in (0, 100, 200, 300)] == [0.3, 0.3, 0.8, 0.8]
    assert later.sparsity(150) == pytest.approx(0.8 - 0.5 / 8)


@given(schedules())
def test_sparsity_grows_and_stays_within_its_ends(schedule: PruningSchedule) -> None:
    values = [schedule.sparsity(step) for step in range(schedule.total + 1)]
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert schedule.initial - 1e-12 <= values[0]
    assert values[schedule.growth_end] == values[-1] == schedule.final


def test_the_published_updates() -> None:
    updates = [step for step in range(100_001) if PRUNE_OFA.updates_at(step)]
    assert updates == list(range(1_000, 80_001, 1_000))


@given(schedules())
def test_masks_move_at_both_ends_and_never_after_the_freeze(schedule: PruningSchedule) -> None:
    updates = [step for step in range(schedule.total + 1) if schedule.updates_at(step)]
    assert all(schedule.start < step <= schedule.freeze for step in updates)
    if schedule.start < schedule.growth_end:
        assert schedule.growth_end in updates
    if schedule.start < schedule.freeze:
        assert updates[-1] == schedule.freeze


@given(schedules(), st.integers(0, 40))
def test_choices_keep_apart(schedule: PruningSchedule, apart: int) -> None:
    schedule = replace(schedule, apart=min(apart, schedule.every))
    updates = [step for step in range(schedule.total + 1) if schedule.updates_at(step)]
    assert all(b - a >= schedule.apart for a, b in pairwise(updates))
    if schedule.start < schedule.freeze:
        assert updates[-1] == schedule.freeze
    for step in range(schedule.total + 2):
        coming = next((update for update in updates if update >= step), None)
        assert schedule.next_update(step) == coming


def test_a_choice_near_an_end_is_left_to_it() -> None:
    """SST-2 in one pass: growth ends at 1,052, and the masks freeze three steps off an interval."""
    schedule = PruningSchedule(0, 0.9, 0, 1_052, 1_263, 2_105, 210, apart=64)
    updates = [step for step in range(2_106) if schedule.updates_at(step)]
    assert updates == [210, 420, 630, 840, 1_052, 1_263]
    near = replace(schedule, growth_end=1_250)
    assert [step for step in range(1_000, 2_106) if near.updates_at(step)] == [1_050, 1_263]


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 60_000},
        {"growth_end": 90_000},
        {"freeze": 100_001},
        {"start": -1},
        {"final": 1.0},
        {"initial": 0.95},
        {"every": 0},
    ],
)
def test_impossible_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of"):
        PruningSchedule(**(vars(PRUNE_OFA) | wrong))


def test_linear_factor() -> None:
    assert [linear_factor(step, 4, 12) for step in (0, 2, 4, 8, 12, 13)] == [0, 0.5, 1, 0.5, 0, 0]
    assert linear_factor(0, 0, 10) == 1


@given(st.integers(0, 50), st.integers(1, 100))
def test_linear_factor_stays_between_0_and_1(warmup: int, total: int) -> None:
    values = [linear_factor(step, warmup, total) for step in range(total + 2)]
    assert 0 <= min(values) <= max(values) <= 1


def test_the_rewound_rate_of_the_reference() -> None:
    factors = [rewound_factor(step, 1_000, PRUNE_OFA) for step in range(100_001)]
    assert factors[0] == 0
    assert factors[500] == 0.5
    # Near the peak during growth: a thousand steps of a decay over the rest of the run.
    assert min(factors[1_000:50_001]) > 0.98
    assert all(factors[step] == 1 for step in range(1_000, 50_001, 1_000))
    assert factors[75_000] == 0.5
    assert factors[100_000] == 0


@settings(max_examples=200)
@given(schedule=schedules(), warmup=st.integers(0, 150))
def test_the_rewound_rate(schedule: PruningSchedule, warmup: int) -> None:
    total = schedule.total
    factors = [rewound_factor(step, warmup, schedule) for step in range(total + 1)]
    assert 0 <= min(factors) <= max(factors) <= 1
    for step in range(min(warmup, total)):
        assert factors[step] == step / warmup
    if warmup >= total:
        return
    assert factors[total] == 0
    # Back at the peak after every choice of masks, as long as sparsity grows.
    resets = {
        step
        for step in range(warmup, schedule.growth_end + 1)
        if schedule.updates_at(step) and step < total
    }
    assert all(factors[step] == 1 for step in resets)
    # Between these it falls, never by a jump.
    for step in range(max(warmup, schedule.start), total):
        if step + 1 not in resets:
            assert factors[step + 1] <= factors[step]
    # Then one line from 1 to 0.
    begin = max(schedule.growth_end, warmup)
    for step in range(begin, total):
        assert factors[step] == pytest.approx((total - step) / (total - begin))


@given(schedule=schedules(), warmup=st.integers(1, 30))
def test_no_jump_from_the_warm_up_to_the_decay(schedule: PruningSchedule, warmup: int) -> None:
    if warmup < schedule.total:
        assert rewound_factor(warmup, warmup, schedule) == 1


def test_growth_to_the_very_end_still_learns() -> None:
    """The decay heads for the end of training, so its slope does not grow with the growth."""
    schedule = PruningSchedule(0, 0.9, 0, 1000, 1000, 1000, 10)
    factors = [rewound_factor(step, 0, schedule) for step in range(900)]
    assert min(factors) > 0.9
