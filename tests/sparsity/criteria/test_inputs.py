"""Criteria that see inputs: Wanda and SparseGPT against brute force, and against magnitude."""

from __future__ import annotations

import pytest
import torch
from sparsity.criteria.support import NAME, criterion, pruning, shot
from torch import Tensor

from prunella.errors import InputError
from prunella.sparsity.criteria import sparsegpt
from prunella.sparsity.patterns import Blocks, NOfM, Pattern
from prunella.sparsity.shares import Shares


def correlated(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs of unequal size that predict each other, as in a model."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(tokens, width, generator=generator) @ mix * torch.logspace(-1, 1, width)


def test_wanda_by_hand() -> None:
    scores = criterion("wanda", [[1.0, -2.0], [0.5, 0.0]])
    scores.see_inputs(NAME, torch.tensor([[3.0, 1.0]]))
    scores.see_inputs(NAME, torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    assert scores.score(NAME).tolist() == [[5.0, 2.0], [2.5, 0.0]]  # norms 5 and 1


def test_wanda_is_what_removing_one_weight_does_to_the_outputs() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(4, 6), correlated(30, 6)
    scores = criterion("wanda", weight)
    scores.see_inputs(NAME, inputs)
    for i in range(4):
        for j in range(6):
            without = weight.clone()
            without[i, j] = 0
            error = (inputs @ (weight - without).T).norm()
            assert scores.score(NAME)[i, j].item() == pytest.approx(error.item(), rel=1e-4)


def brute_force(row: Tensor, keep: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Left to right, by an explicit inverse of what is left of H: the costs, and what remains."""
    row = row.double().clone()
    costs = torch.zeros_like(row)
    for j in range(len(row)):
        inverse = torch.linalg.inv(hessian[j:, j:])
        costs[j] = 1 / inverse[0, 0]
        if not keep[j]:
            row[j:] -= row[j] / inverse[0, 0] * inverse[0]
    return costs, row


@pytest.mark.parametrize("at_once", [2, 128])
def test_sparsegpt_against_brute_force(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsegpt, "_AT_ONCE", at_once)
    torch.manual_seed(1)
    weight, inputs = torch.randn(3, 5), correlated(20, 5)
    scores = criterion("sparsegpt", weight, damping=0.01)
    for part in inputs.split(7):
        scores.see_inputs(NAME, part)
    hessian = (inputs.T @ inputs).double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    keep = torch.rand(3, 5) > 0.5
    moved = scores.remaining(NAME, keep, 1)
    assert moved is not None
    for i in range(3):
        costs, row = brute_force(weight[i], keep[i], hessian)
        wanted = weight[i].double().square() * costs
        torch.testing.assert_close(scores.score(NAME)[i].double(), wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moved[i].double(), row, rtol=1e-4, atol=1e-5)
        assert bool((moved[i][~keep[i]].abs() < 1e-5).all())


@pytest.mark.parametrize("score", ["sparsegpt", "obert", "lottery", "l0"])
def test_weights_that_go_at_the_last_step_are_plain_zeros(score: str) -> None:
    """No step of the optimiser follows, and -0.0 would be stored as a value in a packed file."""
    torch.manual_seed(0)
    run = pruning(score, -torch.rand(8, 16), shot(0.5))
    model = run.model
    run.before_step(1)
    run.before_forward({"attention_mask": torch.ones(4, 2)})
    model(torch.randn(4, 2, 16)).square().sum().backward()
    run.after_backward(1)
    run(1)
    weight = model.linear.weight.detach()
    assert (weight == 0).sum() == 64 and not weight[weight == 0].signbit().any()


def test_an_input_that_is_always_0_does_no_harm() -> None:
    inputs = correlated(20, 4)
    inputs[:, 2] = 0
    scores = criterion("sparsegpt", torch.ones(2, 4))
    scores.see_inputs(NAME, inputs)
    assert bool(scores.score(NAME).isfinite().all())
    assert scores.score(NAME).argmin(1).tolist() == [2, 2]
    moved = scores.remaining(NAME, torch.tensor([[True, False, True, True]] * 2), 1)
    assert moved is not None
    assert moved[:, 2].tolist() == pytest.approx([1.0, 1.0])


def error_of(name: str, weight: Tensor, inputs: Tensor, pattern: Pattern) -> float:
    """What pruning in one shot changes of the outputs on its calibration inputs."""
    run = pruning(name, weight, shot(0.5))
    run.shares = Shares(pattern, "row", {})
    run.before_step(1)
    run.model(inputs)  # through the hooks
    run.after_backward(1)
    run(1)
    assert run.masks.total_sparsity() == pytest.approx(0.5)
    return ((run.masks.parameters[NAME] - weight) @ inputs.T).norm().item()


@pytest.mark.parametrize("pattern", [Blocks(1, 1), Blocks(4, 1), NOfM(2, 4)])
def test_calibration_beats_magnitude(pattern: Pattern) -> None:
    torch.manual_seed(2)
    weight, inputs = torch.randn(16, 24), correlated(200, 24)
    names = ("random", "magnitude", "wanda", "sparsegpt")
    errors = {name: error_of(name, weight, inputs, pattern) for name in names}
    assert errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]
    # Where a pattern leaves the choice free, the gain is large.
    assert errors["sparsegpt"] < (0.95 if isinstance(pattern, NOfM) else 0.7) * errors["magnitude"]
    assert errors["wanda"] < errors["random"]


def test_padding_is_not_seen_and_hooks_do_not_stay() -> None:
    run = pruning("wanda", torch.ones(2, 3), shot(0.5))
    batch = torch.ones(2, 4, 3)  # two rows of four tokens
    run.before_step(1)
    run.before_forward({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])})
    run.model(batch)
    assert run.criterion.sums[NAME].tolist() == [4.0] * 3
    run.model(batch[:, 0])  # as a pooler: no token of it is padding
    assert run.criterion.sums[NAME].tolist() == [6.0] * 3
    run.after_backward(1)
    run.model(batch)
    assert run.criterion.sums[NAME].tolist() == [6.0] * 3


def test_inputs_are_summed_in_float32_under_autocast() -> None:
    run = pruning("sparsegpt", torch.ones(2, 24), shot(0.5))
    run.before_step(1)
    inputs = correlated(200, 24).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        run.model(inputs)
    torch.testing.assert_close(run.criterion.sums[NAME], inputs.T @ inputs, rtol=1e-5, atol=1e-4)
    run.after_backward(1)


def test_a_matrix_without_inputs_is_named() -> None:
    run = pruning("wanda", torch.ones(2, 3), shot(0.5))
    with pytest.raises(InputError, match=r"^linear: nothing passes .* --exclude linear"):
        run(1)
