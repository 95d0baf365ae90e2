"""Criteria that see gradients: movement, SNIP, and oBERT on quadratics where it is exact."""

from __future__ import annotations

import itertools

import pytest
import torch
from sparsity.criteria.support import NAME, criterion, pruning, shot
from torch import Tensor

from prunella.errors import InputError
from prunella.sparsity.schedules import PruningSchedule


def test_movement_is_minus_the_sum_of_weight_times_gradient() -> None:
    torch.manual_seed(0)
    scores = criterion("movement", torch.randn(3, 4))
    weight, total = scores.masks.parameters[NAME], torch.zeros(3, 4)
    for _ in range(5):
        gradient = torch.randn(3, 4)
        scores.see_gradient(NAME, gradient)
        total -= weight.detach() * gradient
        with torch.no_grad():
            weight -= 0.1 * gradient
    torch.testing.assert_close(scores.score(NAME), total)


def test_movement_of_a_removed_weight_goes_on_with_its_old_value() -> None:
    run = pruning("movement", [[1.0, -2.0]], PruningSchedule(0, 0.5, 0, 1, 2, 2, 1))
    run.criterion.see_gradient(NAME, torch.tensor([[-1.0, -1.0]]))
    run(1)
    assert run.masks.parameters[NAME].tolist() == [[1.0, 0.0]]
    run.criterion.see_gradient(NAME, torch.tensor([[0.0, 3.0]]))
    assert run.criterion.score(NAME).tolist() == [[1.0, 4.0]]  # -2 + 6
    run(2)
    assert run.masks.parameters[NAME].tolist() == [[0.0, -2.0]]


def test_snip_is_the_size_of_the_summed_sensitivity() -> None:
    scores = criterion("snip", [[1.0, -2.0, 3.0]])
    scores.see_gradient(NAME, torch.tensor([[1.0, 1.0, 1.0]]))
    scores.see_gradient(NAME, torch.tensor([[-3.0, 1.0, 0.0]]))
    assert scores.score(NAME).tolist() == [[2.0, 4.0, 3.0]]


def test_a_window_is_forgotten_after_the_choice() -> None:
    run = pruning("snip", [[1.0, 2.0]], shot(0.5))
    run.criterion.see_gradient(NAME, torch.tensor([[3.0, 1.0]]))
    run(1)
    assert run.masks.parameters[NAME].tolist() == [[1.0, 0.0]]
    assert run.criterion.state == {}


def test_only_the_window_is_seen() -> None:
    run = pruning("snip", [[1.0, 2.0]], shot(0.5, at=10))
    run.window = 3
    for step in range(1, 11):
        run.masks.parameters[NAME].grad = torch.ones(1, 2)
        run.after_backward(step)
    assert run.criterion.score(NAME).tolist() == [[3.0, 6.0]]


def test_a_matrix_without_gradient_is_named() -> None:
    run = pruning("snip", [[1.0, 2.0]], shot(0.5))
    with pytest.raises(InputError, match=r"^linear: gets no gradient .* --exclude linear"):
        run.after_backward(1)


def quadratic(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gradients [2n, n] whose mean product is a Hessian, and a minimum to leave."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(2 * n, n, generator=generator)
    return gradients, torch.randn(1, n, generator=generator)


def hessian_of(gradients: Tensor) -> Tensor:
    return gradients.double().T @ gradients.double() / len(gradients)


def loss_of(moved: Tensor, hessian: Tensor, minimum: Tensor) -> float:
    away = (moved - minimum).double().reshape(-1)
    return (0.5 * away @ hessian @ away).item()


def best_with_only(kept: list[int], hessian: Tensor, minimum: Tensor) -> Tensor:
    """The minimum of the quadratic where all but `kept` are 0, by brute force: [1, n]."""
    target = (hessian @ minimum.double().reshape(-1))[kept]
    solved = torch.zeros(len(hessian), dtype=torch.float64)
    solved[kept] = torch.linalg.solve(hessian[kept][:, kept], target)
    return solved.view(1, -1)


@pytest.mark.parametrize("seed", range(5))
def test_obert_is_exact_on_a_quadratic(seed: int) -> None:
    """Its score is the loss that the best removal costs, and its update is that minimum."""
    gradients, minimum = quadratic(6, seed)
    hessian = hessian_of(gradients)
    scores = criterion("obert", minimum, block=6, damping=1e-12)
    for gradient in gradients:
        scores.see_gradient(NAME, gradient.view(1, -1))
    costs = scores.score(NAME).reshape(-1)
    for q in range(6):
        kept = [i for i in range(6) if i != q]
        keep = torch.tensor([[i != q for i in range(6)]])
        moved = scores.remaining(NAME, keep, 1)
        assert moved is not None
        wanted = best_with_only(kept, hessian, minimum)
        torch.testing.assert_close(moved.double(), wanted, rtol=1e-4, atol=1e-5)
        assert costs[q].item() == pytest.approx(loss_of(wanted, hessian, minimum), rel=1e-4)


def test_obert_removes_several_weights_jointly() -> None:
    gradients, minimum = quadratic(6, 9)
    hessian = hessian_of(gradients)
    run = pruning("obert", minimum, shot(0.5), block=6, damping=1e-12)
    for gradient in gradients:
        run.criterion.see_gradient(NAME, gradient.view(1, -1))
    run(1)
    found = run.masks.parameters[NAME].detach()
    kept = found.reshape(-1).nonzero().squeeze(1).tolist()
    assert len(kept) == 3
    wanted = best_with_only(kept, hessian, minimum)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    best = min(
        loss_of(best_with_only(list(triple), hessian, minimum), hessian, minimum)
        for triple in itertools.combinations(range(6), 3)
    )
    assert loss_of(found, hessian, minimum) >= best - 1e-6


def test_obert_blocks_do_not_see_each_other_and_the_last_may_be_short() -> None:
    torch.manual_seed(0)
    weight, gradients = torch.randn(3, 5), torch.randn(40, 3, 5)  # 15 weights: 4, 4, 4, 3
    whole = criterion("obert", weight, block=4)
    for gradient in gradients:
        whole.see_gradient(NAME, gradient)
    keep = torch.rand(3, 5) > 0.4
    moved, scores = whole.remaining(NAME, keep, 1), whole.score(NAME).reshape(-1)
    assert moved is not None
    for begin, end in ((0, 4), (4, 8), (8, 12), (12, 15)):
        alone = criterion("obert", weight.reshape(1, -1)[:, begin:end], block=end - begin)
        for gradient in gradients:
            alone.see_gradient(NAME, gradient.reshape(1, -1)[:, begin:end])
        torch.testing.assert_close(scores[begin:end], alone.score(NAME).reshape(-1))
        piece = alone.remaining(NAME, keep.reshape(1, -1)[:, begin:end], 1)
        assert piece is not None
        torch.testing.assert_close(moved.reshape(-1)[begin:end], piece.reshape(-1))


@pytest.mark.parametrize("options", [{"block": 0.0}, {"block": 2.5}, {"damping": 0.0}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="score_options of 'obert': block must be"):
        criterion("obert", [[1.0]], **options)


def test_unknown_options() -> None:
    with pytest.raises(InputError, match="no option 'dampening'; did you mean 'damping'"):
        criterion("obert", [[1.0]], dampening=1.0)
    with pytest.raises(InputError, match="'snip' has no option 'block'; it has none"):
        criterion("snip", [[1.0]], block=1.0)


def test_obert_of_what_is_left_is_exact() -> None:
    """Weights that went earlier make up for nothing: costs are those of the smaller problem."""
    gradients, minimum = quadratic(6, 3)
    hessian = hessian_of(gradients)
    left = [0, 2, 3, 5]
    weight = best_with_only(left, hessian, minimum).float()
    scores = criterion("obert", weight, block=6, damping=1e-12)
    scores.masks.move({NAME: torch.tensor([[i in left for i in range(6)]])})
    for gradient in gradients:
        scores.see_gradient(NAME, gradient.view(1, -1))
    costs = scores.score(NAME).reshape(-1)
    before = loss_of(weight, hessian, minimum)
    for q in left:
        without = best_with_only([i for i in left if i != q], hessian, minimum)
        wanted = loss_of(without, hessian, minimum) - before
        assert costs[q].item() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("name", ["movement", "soft_movement", "l0", "smp", "random", "magnitude"])
def test_zeros_that_the_model_came_with_take_no_place(name: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 40)
    weight[torch.rand(8, 40) < 0.6] = 0.0
    run = pruning(name, weight, PruningSchedule(0.6, 0.8, 0, 3, 3, 3, 1))
    run.masks.move({NAME: weight != 0})
    for step in (1, 2, 3):
        run.before_step(step)
        run.masks.parameters[NAME].grad = torch.randn(8, 40)
        run.after_backward(step)
        run(step)
    parameter = run.masks.parameters[NAME]
    assert int(parameter.count_nonzero()) == int(run.masks.kept(NAME).sum()) == 64


@pytest.mark.parametrize("name", ["movement", "snip"])
def test_without_any_gradient_yet_the_smallest_go(name: str) -> None:
    """The first step of a student that equals its teacher."""
    run = pruning(name, [[3.0, -1.0, 2.0, -4.0]], PruningSchedule(0, 0.5, 0, 1, 2, 4, 1))
    run.masks.parameters[NAME].grad = torch.zeros(1, 4)
    run.after_backward(1)
    run(1)
    assert run.masks.parameters[NAME].tolist() == [[3.0, 0.0, 0.0, -4.0]]


def test_in_one_shot_a_score_without_any_gradient_is_an_error() -> None:
    schedule = PruningSchedule(0.0, 0.5, 0, 1, 1, 4, 1, still=1)
    run = pruning("snip", [[1.0, 2.0]], schedule)
    run.masks.parameters[NAME].grad = torch.zeros(1, 2)
    run.after_backward(1)
    with pytest.raises(InputError, match=r"^linear.weight: its gradient is 0 .* equal its teacher"):
        run(1)
