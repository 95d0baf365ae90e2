"""Scores that learn: gradients with known values, thresholds, and how layers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunella.sparsity.learned import METHODS, LearnedMasks, Method
from prunella.sparsity.learning import (
    DriftingMasks,
    ScheduledMasks,
    choose_highest,
    shared_out,
)
from prunella.sparsity.schedules import PruningSchedule

NAME = "encoder.layer.0.output.dense.weight"


def one(method: Method, rows: list[list[float]], **more: bool) -> LearnedMasks:
    return LearnedMasks({NAME: nn.Parameter(torch.tensor(rows))}, method, 0, **more)


def gradient_of(masks: LearnedMasks, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """dL/dS, as the optimiser sees it."""
    loss(masks.parameters[NAME]).backward()
    masks.take_gradients()
    assert masks.parameters[NAME].grad is None
    found = masks.scores[NAME].grad
    assert found is not None
    return found


def test_the_gradient_of_the_mask_reaches_removed_weights() -> None:
    """L = sum a w0 m: dL/dm = a w0, wherever m is 0 or 1."""
    masks = one(Method(rate=1.0), [[2.0, -3.0], [5.0, 7.0]])
    masks.choose({NAME: torch.tensor([[True, False], [False, True]])})
    assert masks.parameters[NAME].tolist() == [[2.0, 0.0], [0.0, 7.0]]
    factors = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    found = gradient_of(masks, lambda weight: (factors * weight).sum())
    assert found.tolist() == [[2.0, -30.0], [500.0, 7000.0]]


def test_a_sigmoid_stands_for_the_step() -> None:
    """dtheta = dL/dm sigmoid'(t_s (theta - threshold)) t_s, in double precision by autograd."""
    method = Method(rate=1.0, spread=0.5, steepness=3.0)
    masks = one(method, [[2.0, -3.0, 4.0]])
    masks.thresholds[NAME] = 0.2
    theta = masks.scores[NAME].detach().double().requires_grad_()
    soft = torch.sigmoid(3.0 * (theta - 0.2))
    (soft * torch.tensor([[2.0, -3.0, 4.0]])).sum().backward()
    found = gradient_of(masks, lambda weight: weight.sum())
    assert theta.grad is not None
    torch.testing.assert_close(found.double(), theta.grad, rtol=1e-6, atol=1e-8)


def test_the_regularizer_is_the_mean_of_all_sigmoids() -> None:
    names = ("a.weight", "b.weight")
    held = {
        name: nn.Parameter(torch.ones(2, size)) for name, size in zip(names, (3, 5), strict=True)
    }
    masks = LearnedMasks(held, Method(rate=1.0, spread=1.0, regularizer=400.0), 0)
    copies = [masks.scores[name].detach().double().requires_grad_() for name in names]
    (400 * torch.cat([c.sigmoid().flatten() for c in copies]).mean()).backward()
    for parameter in held.values():
        parameter.grad = torch.zeros_like(parameter)
    masks.take_gradients()
    for name, copy in zip(names, copies, strict=True):
        found = masks.scores[name].grad
        assert found is not None and copy.grad is not None
        torch.testing.assert_close(found.double(), copy.grad, rtol=1e-5, atol=1e-8)


def test_weights_come_back_bit_for_bit() -> None:
    before = torch.randn(8, 8)
    masks = LearnedMasks({NAME: nn.Parameter(before.clone())}, METHODS["smp"], 0)
    masks.choose({NAME: torch.rand(8, 8) > 0.5})
    masks.choose({NAME: torch.ones(8, 8, dtype=torch.bool)})
    assert torch.equal(masks.parameters[NAME].detach(), before)


def test_removed_weights_are_plain_zeros() -> None:
    """-0.0 would be stored as a value in a packed file."""
    masks = one(METHODS["smp"], [[-1.0, 1.0]])
    masks.choose({NAME: torch.tensor([[False, False]])})
    assert not masks.parameters[NAME].detach().signbit().any()


def test_without_recovery_nothing_comes_back() -> None:
    masks = one(Method(rate=1.0, spread=1.0), [[1.0, 2.0, 3.0, 4.0]], recovery=False)
    masks.choose({NAME: torch.tensor([[True, False, True, False]])})
    optimizer = masks.optimizer([], 1.0, 0.0)
    for _ in range(3):
        masks.parameters[NAME].grad = torch.full((1, 4), -100.0)  # all scores would rise
        optimizer.step()
    masks.cut(-1e9)
    assert masks.kept(NAME).tolist() == [[True, False, True, False]]


def test_zeros_of_the_backbone_are_never_kept() -> None:
    masks = one(METHODS["smp"], [[0.0, 2.0, 0.0, 4.0]])
    keep = choose_highest({NAME: masks.scores[NAME].detach()}, masks.weights, 0.5, "uniform")
    masks.choose(keep)
    assert keep[NAME].tolist() == [[False, True, False, True]]
    assert masks.total_sparsity() == 0.5


def test_the_scheduled_share_is_kept_exactly_and_then_rests() -> None:
    held = {f"layer.{i}.output.dense.weight": nn.Parameter(torch.randn(20, 10)) for i in range(3)}
    masks = LearnedMasks(held, Method(rate=0.1, spread=1.0, scope="role"), 0)
    schedule = PruningSchedule(0.0, 0.7, 0, 5, 8, 10, 1)
    update, optimizer = ScheduledMasks(masks, schedule), masks.optimizer([], 1.0, 0.0)
    shares = []
    for step in range(1, 11):
        for parameter in held.values():
            parameter.grad = torch.randn_like(parameter)
        before = [p.detach().clone() for p in held.values()]
        optimizer.step()
        update(step)
        shares.append(masks.total_sparsity())
        if step > 8:
            assert all(torch.equal(a, b) for a, b in zip(before, held.values(), strict=True))
    assert shares[4:] == pytest.approx([0.7] * 6, abs=3 / 600)
    assert shares[:5] == sorted(shares[:5])
    assert not masks.learning


def test_the_threshold_drifts_until_enough_is_gone() -> None:
    masks = one(Method(rate=1.0), [[1.0] * 10])
    masks.scores[NAME].data = torch.arange(10.0)[None]
    update = DriftingMasks(masks, 0.0, 0.5, kept=0.6, every=1)
    kept = []
    for step in range(1, 20):
        update(step)
        kept.append(int(masks.kept(NAME).sum()))
    # Above thresholds of 0.5, 1.0, 1.5, ...: one less every other step; six are few enough.
    assert kept == [9, 9, 8, 8, 7, 7, *[6] * 13]
    assert not masks.learning


def test_a_steep_drift_stops_at_the_share_that_is_asked_for() -> None:
    masks = one(Method(rate=1.0), [[1.0] * 10])
    masks.scores[NAME].data = torch.arange(10.0)[None]
    update = DriftingMasks(masks, 0.0, 100.0, kept=0.6, every=1)
    for step in (1, 2):
        update(step)
        assert masks.kept(NAME).tolist() == [[False] * 4 + [True] * 6]
    assert not masks.learning


def test_a_share_that_is_rounded_down_is_reached_as_well() -> None:
    masks = one(Method(rate=1.0), [[1.0] * 11])  # 6.6 of 11 are to be kept
    masks.scores[NAME].data = torch.arange(11.0)[None]
    update = DriftingMasks(masks, 0.0, 1.0, kept=0.6, every=1)
    for step in range(1, 9):
        update(step)
    assert masks.kept(NAME).sum() == 7 and not masks.learning
    # A run that goes on from there leaves it as it is.
    again = one(Method(rate=1.0), [[1.0] * 11])
    resumed = DriftingMasks(again, 0.0, 1.0, kept=0.6, every=1)
    resumed.load_state_dict(update.state_dict())
    assert not again.learning


def test_a_threshold_that_stays() -> None:
    masks = one(METHODS["zhao"], [[1.0, 1.0, 1.0]])
    masks.scores[NAME].data = torch.tensor([[0.004, 0.005, 0.006]])
    threshold = METHODS["zhao"].threshold
    assert threshold is not None
    DriftingMasks(masks, threshold, 0.0, None, 1)(1)
    assert masks.kept(NAME).tolist() == [[False, True, True]]


def test_layers_share_by_their_mean_sigmoid() -> None:
    """Densities 2 : 1 where the means of sigmoid(S) are 2 : 1, the total as asked."""
    names = [f"encoder.layer.{i}.attention.self.query.weight" for i in range(2)]
    level = torch.tensor([0.6, 0.3]).logit()
    noise = torch.linspace(-1e-4, 1e-4, 900).reshape(30, 30)
    scores = {name: value + noise for name, value in zip(names, level, strict=True)}
    ones = {name: torch.ones(30, 30) for name in names}
    keep = choose_highest(scores, ones, 0.3, "role")
    assert [int(keep[name].sum()) for name in names] == [360, 180]
    assert [int(k.sum()) for k in choose_highest(scores, ones, 0.3, "uniform").values()] == [
        270,
        270,
    ]
    assert [int(k.sum()) for k in choose_highest(scores, ones, 0.3, "global").values()] == [539, 1]


def test_roles_do_not_share_with_each_other() -> None:
    names = ["layer.0.attention.self.query.weight", "layer.0.attention.self.key.weight"]
    scores = {name: torch.full((10, 10), float(i)) for i, name in enumerate(names)}
    keep = choose_highest(scores, {n: torch.ones(10, 10) for n in names}, 0.3, "role")
    assert [int(k.sum()) for k in keep.values()] == [30, 30]


def test_what_a_full_layer_cannot_take_goes_to_the_others() -> None:
    assert shared_out([3.0, 1.0], [10, 10], [1.0, 1.0], 0.5) == pytest.approx([0.75, 0.25])
    assert shared_out([3.0, 1.0], [10, 10], [1.0, 1.0], 0.8) == pytest.approx([1.0, 0.6])
    assert shared_out([1.0, 1.0, 2.0], [10, 10, 20], [1.0, 0.1, 1.0], 0.5) == pytest.approx(
        [(20 - 1) / 50, 0.1, 2 * (20 - 1) / 50]
    )


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1), st.integers(1, 1000), st.floats(0.1, 1)),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.001, 0.1),
)
def test_shares_add_up(layers: list[tuple[float, int, float]], kept: float) -> None:
    worth, sizes, limits = ([layer[i] for layer in layers] for i in range(3))
    found = shared_out(worth, [int(n) for n in sizes], limits, kept)
    total = sum(d * n for d, n in zip(found, sizes, strict=True))
    assert total == pytest.approx(kept * sum(sizes))
    assert all(0 <= d <= limit * (1 + 1e-9) for d, limit in zip(found, limits, strict=True))


def test_the_state_comes_back() -> None:
    masks = one(Method(rate=1.0, spread=1.0), [[1.0, 2.0]])
    masks.thresholds[NAME] = 0.25
    state = {name: tensor.clone() for name, tensor in masks.state_dict().items()}
    other = one(Method(rate=1.0), [[1.0, 2.0]])
    other.load_state_dict(state)
    assert torch.equal(other.scores[NAME], masks.scores[NAME])
    assert other.thresholds == {NAME: 0.25}


def test_first_scores_depend_on_the_seed_alone() -> None:
    weight = {NAME: nn.Parameter(torch.ones(4, 4))}
    torch.manual_seed(1)
    first = LearnedMasks(weight, METHODS["abp"], 3).scores[NAME]
    torch.manual_seed(2)
    assert torch.equal(LearnedMasks(weight, METHODS["abp"], 3).scores[NAME], first)
    assert not torch.equal(LearnedMasks(weight, METHODS["abp"], 4).scores[NAME], first)


def test_what_came_back_is_counted_and_survives_a_restart() -> None:
    masks = one(Method(rate=1.0, spread=1.0), [[1.0, 2.0, 3.0, 4.0]])
    masks.choose({NAME: torch.tensor([[True, False, False, True]])})
    assert masks.recovered() == 0
    masks.choose({NAME: torch.tensor([[True, True, False, True]])})
    assert masks.recovered() == pytest.approx(1 / 3)
    again = one(Method(rate=1.0, spread=1.0), [[1.0, 2.0, 3.0, 4.0]])
    again.load_state_dict({name: t.clone() for name, t in masks.state_dict().items()})
    again.choose({NAME: masks.kept(NAME)})
    assert again.recovered() == pytest.approx(1 / 3)


def test_a_layer_that_gains_weights_takes_none_that_are_gone_for_good() -> None:
    """Layers share: when the second one gains, its removed weights still stay removed."""
    names = [f"encoder.layer.{i}.attention.self.query.weight" for i in range(2)]
    method = Method(rate=1.0, scope="role")
    weights = {name: nn.Parameter(torch.ones(1, 10)) for name in names}
    masks = LearnedMasks(weights, method, 0, recovery=False)
    for name, level in zip(names, (2.0, -2.0), strict=True):
        masks.scores[name].data += torch.linspace(level, level + 0.1, 10)
    scores = {name: s.detach() for name, s in masks.scores.items()}
    masks.choose(choose_highest(scores, masks.weights, 0.5, "role"))
    before = {name: masks.kept(name).clone() for name in names}
    for name, level in zip(names, (-4.0, 4.0), strict=True):  # now the other one is worth more
        masks.scores[name].data += level
    masks.choose(choose_highest(scores, masks.weights, 0.4, "role"))
    assert all(bool((before[name] | ~masks.kept(name)).all()) for name in names)
    assert masks.recovered() == 0
    assert sum(int(masks.kept(name).sum()) for name in names) == 8
