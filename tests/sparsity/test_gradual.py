"""Gradual pruning: settings become steps, and the masks follow the schedule to the weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunella.errors import InputError
from prunella.settings import PruningSettings
from prunella.sparsity.criterion import Context, load_criterion
from prunella.sparsity.gradual import resolve_schedule
from prunella.sparsity.masks import Masks
from prunella.sparsity.patterns import Blocks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import PruningSchedule, rewound_factor
from prunella.sparsity.selection import keep_count
from prunella.sparsity.shares import Shares


def resolve(steps: int, current: float = 0.0, **given: Any) -> PruningSchedule:
    return resolve_schedule(PruningSettings(**given), steps, current)


def masks_of(**weights: Any) -> Masks:
    return Masks({name: nn.Parameter(torch.as_tensor(w)) for name, w in weights.items()})


def by_magnitude(masks: Masks, schedule: PruningSchedule, scope: str = "uniform") -> Pruning:
    context = Context(nn.Module(), masks, schedule, seed=0)
    criterion = load_criterion("magnitude", context, {})
    return Pruning(context, criterion, Shares(Blocks(1, 1), scope, {}))


def test_the_reference_schedule_in_shares_and_in_steps() -> None:
    expected = PruningSchedule(0.0, 0.9, 0, 50_000, 80_000, 100_000, 1_000)
    assert resolve(100_000) == expected
    assert resolve(100_000, growth_end=50_000, freeze=80_000, update_every=1000) == expected


def test_how_often_masks_are_chosen_suits_the_score() -> None:
    assert resolve(1000).every == 10
    assert resolve(1000, score="obert").every == 100
    assert resolve(1000, score="obert", update_every=0.02).every == 20


def test_an_update_every_one_is_every_step() -> None:
    assert resolve(100, update_every=1).every == 1
    assert resolve(10, update_every=0.001).every == 1


def test_growth_starts_from_the_sparsity_the_model_has() -> None:
    assert resolve(100, current=0.3).initial == 0.3
    assert resolve(100, current=0.3, initial_sparsity=0.5).initial == 0.5


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_defaults_fit_any_number_of_steps(steps: int, sparsity: float) -> None:
    schedule = resolve(steps, sparsity=sparsity)
    updates = [step for step in range(1, steps + 1) if schedule.updates_at(step)]
    assert schedule.growth_end in updates
    assert schedule.sparsity(steps) == sparsity


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"growth_end": 120, "freeze": 130},
            "ends after training does.*step 120.*step 130.*100 steps",
        ),
        ({"freeze": 101}, "ends after training does.*--steps"),
        ({"growth_end": 0.9, "freeze": 0.5}, "out of order: start 0, growth_end 90, freeze 50"),
        ({"start": 0.5}, "out of order"),
        ({"start": 60}, "out of order"),
        ({"initial_sparsity": 0.95}, r"sparsity 0\.9 is below the 0\.950"),
    ],
)
def test_impossible_windows_are_explained(given: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(100, **given)


def test_a_model_that_is_sparser_already_is_refused() -> None:
    with pytest.raises(InputError, match=r"raise --sparsity or start from a denser model"):
        resolve(100, current=0.95)


@pytest.mark.parametrize("score", ["movement", "soft_movement", "l0", "smp", "abp"])
def test_scores_that_learn_are_not_for_one_shot(score: str) -> None:
    with pytest.raises(InputError, match=rf"'{score}' learns its scores .* gradually, or choose"):
        resolve(100, one_shot=True, score=score)


def test_one_shot_waits_for_what_the_score_sees() -> None:
    schedule = resolve_schedule(PruningSettings(one_shot=True), 100, 0.0, window=30)
    assert [step for step in range(1, 101) if schedule.updates_at(step)] == [30]
    assert schedule.sparsity(30) == 0.9
    factors = [rewound_factor(step, 10, schedule) for step in range(100)]
    assert factors[:31] == [0.0] * 31  # then warm-up, and one decay
    assert factors[40] == max(factors) == 1.0
    assert factors[99] == pytest.approx(1 / 60)
    with pytest.raises(InputError, match=r"30 steps .* there are 20 steps.*--window"):
        resolve_schedule(PruningSettings(one_shot=True), 20, 0.0, window=30)


@given(st.integers(0, 30), st.integers(1, 20), st.integers(0, 20), st.integers(1, 15))
def test_the_next_update_is_the_first_to_come(
    start: int, growth: int, hold: int, every: int
) -> None:
    end = start + growth
    schedule = PruningSchedule(0, 0.5, start, end, end + hold, end + hold + 5, every)
    updates = [step for step in range(1, 80) if schedule.updates_at(step)]
    for step in range(1, 80):
        assert schedule.next_update(step) == min((u for u in updates if u >= step), default=None)


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_the_masks_follow_the_schedule(scope: str) -> None:
    torch.manual_seed(0)
    masks = masks_of(a=torch.randn(20, 30), b=torch.randn(10, 10) * 3)
    schedule = PruningSchedule(0.0, 0.9, 4, 40, 60, 80, 5)
    pruning = by_magnitude(masks, schedule, scope)
    reached: dict[int, float] = {}
    for step in range(1, 81):
        before = {name: code.clone() for name, code in masks.codes.items()}
        with torch.no_grad():  # stands for training
            for weight in masks.parameters.values():
                weight.add_(0.05 * torch.randn_like(weight))
        masks.zero_weights()
        pruning(step)
        moved = any(not torch.equal(before[name], masks.codes[name]) for name in before)
        assert moved == schedule.updates_at(step)
        sizes = [600, 100] if scope == "uniform" else [700]
        kept = sum(keep_count(n, schedule.sparsity(step)) for n in sizes)
        if moved:
            assert sum(int(masks.kept(name).sum()) for name in masks.codes) == kept
            reached[step] = masks.total_sparsity()
        for name, weight in masks.parameters.items():
            assert torch.count_nonzero(weight[~masks.kept(name)]) == 0
    assert list(reached) == sorted({*range(9, 61, 5), 40, 60})
    assert list(reached.values()) == sorted(reached.values())
    assert masks.total_sparsity() == pytest.approx(0.9)
    if scope == "uniform":
        assert masks.sparsity() == pytest.approx({"a": 0.9, "b": 0.9})
    else:  # the larger weights live in b
        assert masks.sparsity()["b"] < 0.9 < masks.sparsity()["a"]


def test_a_dormant_weight_returns_when_others_have_shrunk() -> None:
    masks = masks_of(w=[[1.0, 0.5, 0.75, 0.25]])
    pruning = by_magnitude(masks, PruningSchedule(0, 0.5, 0, 1, 9, 10, 1))
    pruning(1)
    assert masks.parameters["w"].tolist() == [[1.0, 0.0, 0.75, 0.0]]
    with torch.no_grad():
        masks.parameters["w"][0, 2] = 0.125
    pruning(2)
    assert masks.parameters["w"].tolist() == [[1.0, 0.5, 0.0, 0.0]]
    assert masks.dense("w").tolist() == [[1.0, 0.5, 0.125, 0.25]]
    with torch.no_grad():
        masks.parameters["w"][0, 1] = 0.0625
    pruning(10)  # frozen
    assert masks.parameters["w"].tolist() == [[1.0, 0.0625, 0.0, 0.0]]


def test_a_diverged_weight_stops_the_run() -> None:
    masks = masks_of(w=[[1.0, torch.nan]])
    pruning = by_magnitude(masks, PruningSchedule(0, 0.5, 0, 1, 9, 10, 1))
    with pytest.raises(FloatingPointError, match="diverged"):
        pruning(1)


@pytest.mark.parametrize(
    ("given", "window", "apart"),
    [
        ({"score": "snip"}, 64, 64),
        ({"score": "obert", "update_every": 20}, 64, 20),
        ({"score": "movement"}, 64, 1),  # learns from all steps
        ({"score": "magnitude"}, 1, 1),
    ],
)
def test_a_score_that_sees_a_window_has_it_before_the_ends(
    given: dict[str, Any], window: int, apart: int
) -> None:
    settings = PruningSettings(growth_end=0.5, freeze=0.6, **given)
    assert resolve_schedule(settings, 2_105, 0.0, window).apart == apart
