"""Scores that learn, lottery tickets and the baselines."""

from __future__ import annotations

import math

import pytest
import torch
from sparsity.criteria.support import NAME, criterion, pruning, shot
from torch import Tensor

from prunella.sparsity.criteria.l0 import chance_open, hard_concrete
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import PruningSchedule


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 1.5, 4.0])
def test_hard_concrete_gates_open_as_often_as_they_say(log_alpha: float) -> None:
    """P(z > 0) and P(z = 1) in closed form, over an even grid of u."""
    uniform = (torch.arange(200_000) + 0.5) / 200_000
    gates = hard_concrete(torch.full_like(uniform, log_alpha), uniform, 2 / 3)
    assert bool(((gates >= 0) & (gates <= 1)).all())
    opened = chance_open(torch.tensor(log_alpha), 2 / 3).item()
    assert (gates > 0).float().mean().item() == pytest.approx(opened, abs=1e-3)
    fully = 1 / (1 + math.exp(2 / 3 * math.log(11) - log_alpha))  # 1.2 s - 0.1 = 1 at s = 11/12
    assert (gates == 1).float().mean().item() == pytest.approx(fully, abs=1e-3)


def test_hard_concrete_at_a_point() -> None:
    # u = 0.5 and log_alpha = 0: s = 0.5, stretched 0.5.
    assert hard_concrete(torch.zeros(1), torch.tensor([0.5]), 2 / 3).item() == pytest.approx(0.5)
    # The ends are clamped, also at u = 0.
    ends = hard_concrete(torch.tensor([-20.0, 20.0]), torch.tensor([0.0, 0.5]), 2 / 3)
    assert ends.tolist() == [0.0, 1.0]


def test_l0_gates_weights_within_a_step_only() -> None:
    weight = torch.linspace(-1, 1, 40).view(4, 10)
    run = pruning("l0", weight, PruningSchedule(0, 0.5, 0, 2, 2, 4, 2), start=0.0)
    parameter = run.masks.parameters[NAME]
    run.before_step(1)
    gate = parameter.detach() / weight
    assert 0 < int((gate == 0).sum()) < 40  # some are closed
    assert float(gate.max()) <= 1 + 1e-6
    parameter.grad = torch.ones(4, 10)
    run.after_backward(1)
    assert torch.equal(parameter.detach(), weight)
    torch.testing.assert_close(parameter.grad, gate)  # dL/dw = z dL/d(wz)
    run.before_step(3)  # masks are frozen: no more chance
    assert torch.equal(parameter.detach(), weight)


def test_l0_learns_what_matters_and_reaches_the_sparsity() -> None:
    """Outputs need the first half of the inputs only; what is kept is folded at the end."""
    torch.manual_seed(0)
    schedule = PruningSchedule(0, 0.5, 0, 200, 200, 200, 200)
    run = pruning("l0", torch.full((1, 8), 0.5), schedule, rate=0.05, head_start=0)
    parameter = run.masks.parameters[NAME]
    for step in range(1, 201):
        run.before_step(step)
        inputs = torch.randn(32, 8)
        loss = (run.model(inputs)[:, 0] - inputs[:, :4].sum(1) * 0.5).square().mean()
        parameter.grad = None
        loss.backward()
        run.after_backward(step)
        run(step)
    assert int(parameter[0, :4].count_nonzero()) == 4
    assert parameter[0, 4:].tolist() == [0.0] * 4
    assert bool((parameter[0, :4] <= 0.5).all())


def test_soft_movement_by_hand() -> None:
    scores = criterion("soft_movement", [[1.0, -1.0]], rate=0.5, pressure=0.4, head_start=0)
    scores.see_gradient(NAME, torch.tensor([[3.0, 4.0]]))
    # Slopes 3 and -4 over their root mean square, cut to 1; sigmoid'(0) = 0.25.
    wanted = [-0.5 * (3 / math.sqrt(12.5) + 0.1), -0.5 * (-1 + 0.1)]
    assert scores.score(NAME)[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_soft_movement_does_not_depend_on_the_scale_of_the_loss() -> None:
    found = []
    for scale in (1.0, 1e-4):
        torch.manual_seed(0)
        scores = criterion("soft_movement", torch.ones(2, 3))
        for _ in range(4):
            scores.see_gradient(NAME, scale * torch.randn(2, 3))
        found.append(scores.score(NAME))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_lottery_ticket_starts_again_from_its_first_weights() -> None:
    run = pruning("lottery", [[1.0, 2.0, 3.0, 4.0]], PruningSchedule(0.0, 0.75, 1, 4, 6, 8, 1))
    parameter, bias = run.masks.parameters[NAME], run.model.get_parameter("linear.bias")

    def train(values: list[float]) -> None:
        with torch.no_grad():
            parameter.copy_(torch.tensor([values]) * (parameter != 0))
            bias.add_(1.0)

    begun = bias[0].item()
    run.before_step(1)
    train([5.0, 2.0, 3.0, 4.0])
    run(1)
    run.before_step(2)  # what `start` has is what to go back to
    train([1.0, 9.0, 9.0, 9.0])
    run(2)
    assert bias[0].item() == pytest.approx(begun + 1)
    kept = parameter[0] != 0
    assert parameter[0][kept].tolist() == torch.tensor([5.0, 2.0, 3.0, 4.0])[kept].tolist()
    for step in (3, 4):
        run.before_step(step)
        train([0.5, 1.0, 8.0, 2.0])
        run(step)
    assert parameter.tolist() == [[0.0, 0.0, 3.0, 0.0]]
    train([0.0, 0.0, 7.0, 0.0])
    run(5)  # the sparsity is reached: what was trained stays
    assert parameter.tolist() == [[0.0, 0.0, 7.0, 0.0]]


def test_what_was_removed_for_good_does_not_return() -> None:
    run = pruning("lottery", [[1.0, 2.0]], PruningSchedule(0.0, 0.5, 0, 1, 5, 5, 1))
    run.before_step(1)
    run(1)
    with torch.no_grad():
        run.masks.parameters[NAME][0, 1] = 1e-6  # below the 1 that was removed
    run(2)
    assert run.masks.kept(NAME).tolist() == [[False, True]]


def test_random_is_the_same_every_time_and_grows() -> None:
    one, two = criterion("random", torch.ones(5, 6)), criterion("random", torch.zeros(5, 6))
    assert torch.equal(one.score(NAME), two.score(NAME))
    assert one.score(NAME).unique().numel() == 30
    run = pruning("random", torch.ones(50, 4), PruningSchedule(0, 0.8, 0, 10, 10, 10, 1))
    kept = torch.ones(50, 4, dtype=torch.bool)
    for step in range(1, 11):
        run(step)
        assert not bool((run.masks.kept(NAME) & ~kept).any())
        kept = run.masks.kept(NAME)
    assert int(kept.sum()) == 40


def one_step(run: Pruning, step: int, inputs: Tensor, gradient: Tensor) -> None:
    run.before_step(step)
    run.model(inputs)
    run.masks.parameters[NAME].grad = gradient.clone()
    run.after_backward(step)
    run(step)


STATEFUL = ("movement", "soft_movement", "l0", "obert", "snip", "lottery", "wanda", "sparsegpt")


@pytest.mark.parametrize("name", STATEFUL)
def test_the_state_of_a_pruning_survives(name: str) -> None:
    """Saved in the middle of a window, it goes on to the same bits."""
    torch.manual_seed(0)
    weight, gradients, inputs = torch.randn(4, 6), torch.randn(4, 4, 6), torch.randn(4, 9, 6)
    run, other = (pruning(name, weight, shot(0.5, at=4)) for _ in range(2))
    for step in (1, 2):
        one_step(run, step, inputs[step - 1], gradients[step - 1])
    saved = {key: value.clone() for key, value in run.state_dict().items()}
    assert saved
    other.load_state_dict(saved)
    for step in (3, 4):
        for each in (run, other):
            one_step(each, step, inputs[step - 1], gradients[step - 1])
    assert torch.equal(run.masks.parameters[NAME], other.masks.parameters[NAME])
    assert run.masks.total_sparsity() == 0.5


@pytest.mark.parametrize("name", ["smp", "abp", "soft_movement", "l0"])
def test_first_scores_follow_the_size_of_weights(name: str) -> None:
    options = {"rate": 0.01, "head_start": 30.0}
    if name not in ("smp", "abp"):
        options["pressure"] = 0.0
    run = pruning(name, [[0.1, -3.0, 0.2, 1.0]], shot(0.5), **options)
    one_step(run, 1, torch.ones(1, 4), torch.zeros(1, 4))
    wanted = torch.tensor([[-0.15, 0.15, -0.05, 0.05]])  # 30 steps of 0.01 from end to end
    found = run.criterion.score(NAME)
    torch.testing.assert_close(found - found.mean(), wanted)


def test_one_batch_does_not_outweigh_all_others() -> None:
    """A slope of 50 times the others' size moves its score by one step, as often as they agree."""
    scores = criterion("smp", torch.ones(1, 1000), rate=0.1, head_start=0)
    quiet = torch.ones(1, 1000)
    loud = quiet.clone()
    loud[0, 0] = 50.0
    scores.see_gradient(NAME, loud)
    assert scores.score(NAME)[0, 0].item() == pytest.approx(-0.1)
    scores.see_gradient(NAME, -quiet)
    assert abs(scores.score(NAME)[0, 0].item()) < 0.1


def test_smp_by_hand() -> None:
    scores = criterion("smp", [[1.0, 2.0]], rate=0.1, pressure=0.5, head_start=0)
    scores.see_gradient(NAME, torch.tensor([[3.0, -2.0]]))
    # w * g = (3, -4), of root mean square sqrt(12.5); sigmoid'(0) = 1/4.
    wanted = torch.tensor([[-0.1 * (3 / math.sqrt(12.5) + 0.125), 0.1 * (1 - 0.125)]])
    torch.testing.assert_close(scores.score(NAME), wanted)


def test_abp_learns_fastest_at_the_threshold() -> None:
    run = pruning(
        "abp",
        [[1.0, 2.0, 3.0, 4.0]],
        PruningSchedule(0, 0.5, 0, 1, 1, 4, 1),
        rate=1.0,
        head_start=6,
    )
    run.criterion.see_gradient(NAME, torch.zeros(1, 4))
    run(1)
    assert run.masks.kept(NAME).tolist() == [[False, False, True, True]]
    before = run.criterion.score(NAME).clone()  # -3, -1, 1, 3; the threshold is 1
    slope = torch.ones(1, 4)
    run.masks.move({NAME: torch.ones(1, 4, dtype=torch.bool)})
    run.criterion.state[f"{NAME}|square"] = torch.tensor(0.0)
    run.criterion.state[f"{NAME}|steps"] = torch.tensor(0.0)
    run.criterion.see_gradient(NAME, slope / torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    moved = before - run.criterion.score(NAME)
    soft = (before - 1).sigmoid()
    torch.testing.assert_close(moved, 4 * soft * (1 - soft), rtol=0.05, atol=0.02)
    assert moved.argmax().item() == 2


@pytest.mark.parametrize("name", ["smp", "abp", "soft_movement"])
def test_scores_learn_what_matters(name: str) -> None:
    """Outputs need the first half of the inputs only, whose weights are the smaller ones."""
    torch.manual_seed(0)
    weight = torch.tensor([[0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6]])
    run = pruning(name, weight, PruningSchedule(0, 0.5, 0, 200, 200, 200, 200))
    parameter = run.masks.parameters[NAME]
    for step in range(1, 201):
        inputs = torch.randn(32, 8)
        parameter.grad = None
        ((run.model(inputs) - inputs[:, :4].sum(1, keepdim=True)) ** 2).mean().backward()
        run.after_backward(step)
        run(step)
    assert run.masks.kept(NAME).tolist() == [[True] * 4 + [False] * 4]
