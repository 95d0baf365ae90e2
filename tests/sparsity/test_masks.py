"""Masks: dormant values come back, pruned weights stay zero through any optimiser, states are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunella.settings import TrainingSettings
from prunella.sparsity.masks import Masks
from prunella.sparsity.targets import find_targets, pruned_parameters
from prunella.training.loop import Plan, train


def parameter(values: Any) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float32).clone())


def random_masks(seed: int, shape: tuple[int, ...] = (6, 7)) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({"w": parameter(torch.randn(shape, generator=generator))})


def pattern(seed: int, shape: tuple[int, ...] = (6, 7)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def test_at_first_all_is_kept() -> None:
    masks = random_masks(0)
    assert masks.kept("w").all()
    assert torch.equal(masks.dense("w"), masks.parameters["w"])
    assert masks.total_sparsity() == 0
    assert masks.sparsity() == {"w": 0}


def test_pruned_weights_are_zero_and_kept_ones_untouched() -> None:
    masks = random_masks(0)
    before, keep = masks.parameters["w"].detach().clone(), pattern(1)
    masks.move({"w": keep})
    assert torch.equal(masks.parameters["w"], torch.where(keep, before, 0.0))
    assert torch.equal(masks.kept("w"), keep)
    assert masks.sparsity()["w"] == pytest.approx(1 - keep.sum().item() / keep.numel())


@given(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=2, max_size=30).filter(
        lambda values: max(map(abs, values)) > 1e-20
    )
)
def test_dormant_values_come_back_within_float8_precision(values: list[float]) -> None:
    masks = Masks({"w": parameter(values)})
    before = masks.parameters["w"].detach().clone()
    masks.move({"w": torch.zeros(len(values), dtype=torch.bool)})
    assert not masks.parameters["w"].any()
    masks.move({"w": torch.ones(len(values), dtype=torch.bool)})
    back = masks.parameters["w"].detach()
    largest = before.abs().max()
    # 3 bits of mantissa; below 2^-6 of e4m3's 448 the steps are even: half of 2^-9.
    tolerance = (before.abs() * 2**-4).clamp_min(largest * 2**-10 / 448) * (1 + 1e-5)
    assert ((back - before).abs() <= tolerance).all()
    torch.testing.assert_close(back.abs().max(), largest)


def test_signs_and_order_survive_dormancy() -> None:
    values = torch.arange(-50, 51) / 50
    masks = Masks({"w": parameter(values)})
    masks.move({"w": torch.zeros(101, dtype=torch.bool)})
    dense = masks.dense("w")
    assert (dense.diff() >= 0).all()
    assert torch.equal(dense.sign(), values.sign())


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_a_dormant_value_is_rounded_once_however_often_masks_move(
    seed: int, patterns: list[int]
) -> None:
    """Whatever happens in between, a weight that sleeps keeps its byte and returns with its value."""
    masks = random_masks(seed)
    masks.move({"w": torch.zeros(6, 7, dtype=torch.bool)})
    rounded = masks.dense("w")
    for number in patterns:
        masks.move({"w": pattern(number)})
        assert torch.equal(masks.dense("w"), rounded)
        codes = masks.codes["w"].clone()
        masks.move({"w": pattern(number)})
        assert torch.equal(masks.codes["w"], codes)


def test_a_returned_weight_competes_with_what_it_became() -> None:
    masks = Masks({"w": parameter([1.0, 0.5])})
    masks.move({"w": torch.tensor([True, False])})
    masks.move({"w": torch.tensor([True, True])})
    with torch.no_grad():
        masks.parameters["w"][1] = 0.25
    masks.move({"w": torch.tensor([True, False])})
    assert masks.dense("w").tolist() == [1.0, 0.25]


def test_a_weight_that_outgrew_the_scale_sleeps_at_the_largest_value() -> None:
    masks = Masks({"w": parameter([1.0, -0.5])})
    with torch.no_grad():
        masks.parameters["w"].copy_(torch.tensor([3.0, -4.0]))
    masks.move({"w": torch.tensor([False, False])})
    assert masks.dense("w").tolist() == [1.0, -1.0]
    assert not masks.kept("w").any()  # not the byte that means kept


def test_the_pattern_lock_keeps_what_is_not_zero() -> None:
    masks = Masks.of_zeros({"w": parameter([[0.0, -0.0, 1e-30], [2.0, 0.0, -3.0]])})
    assert masks.kept("w").tolist() == [[False, False, True], [True, False, True]]
    assert masks.total_sparsity() == 0.5
    assert masks.dense("w")[0, 0] == 0


def test_a_zero_matrix_can_be_locked_and_moved() -> None:
    masks = Masks.of_zeros({"w": parameter(torch.zeros(2, 2))})
    masks.move({"w": torch.eye(2, dtype=torch.bool)})
    assert torch.equal(masks.parameters["w"], torch.zeros(2, 2))
    assert masks.total_sparsity() == 0.5


def sparse_network() -> tuple[nn.Sequential, Masks]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    masks = Masks({n: p for n, p in network.named_parameters() if p.dim() == 2})
    masks.move({n: torch.rand_like(p) > 0.8 for n, p in masks.parameters.items()})
    return network, masks


def test_the_lock_survives_adamw_with_momentum_and_weight_decay() -> None:
    network, before = sparse_network()
    masks = Masks.of_zeros(before.parameters)
    kept = {name: masks.kept(name).clone() for name in masks.codes}
    start = {name: p.detach().clone() for name, p in masks.parameters.items()}
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1
    )
    inputs, goal = torch.randn(64, 8), torch.randint(0, 4, (64,))
    first = last = 0.0
    for step in range(60):
        loss = F.cross_entropy(network(inputs), goal)
        optimizer.zero_grad()
        loss.backward()
        if step:  # the first step without: momentum of pruned weights must not matter either
            masks.zero_gradients()
        optimizer.step()
        masks.zero_weights()
        first, last = first or loss.item(), loss.item()
        for name, weight in masks.parameters.items():
            assert torch.count_nonzero(weight[~kept[name]]) == 0
    assert last < first - 0.1
    for name, weight in masks.parameters.items():
        assert (weight[kept[name]] != start[name][kept[name]]).all()
        momentum = optimizer.state[weight]["exp_avg"]
        assert momentum[~kept[name]].any()  # so AdamW did push at the locked weights


def test_pruned_gradients_are_zero_and_others_untouched() -> None:
    network, masks = sparse_network()
    network(torch.randn(5, 8)).square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    assert all(gradients[name][~masks.kept(name)].any() for name in masks.codes)
    masks.zero_gradients()
    for name, p in network.named_parameters():
        assert p.grad is not None
        kept = masks.kept(name) if name in masks.codes else torch.ones_like(p, dtype=torch.bool)
        assert torch.equal(p.grad, torch.where(kept, gradients[name], 0.0))


def test_parameters_without_gradient_are_passed_over() -> None:
    masks = random_masks(0)
    masks.zero_gradients()
    assert masks.parameters["w"].grad is None


def test_the_state_is_exact(tmp_path: Path) -> None:
    masks = random_masks(5)
    masks.move({"w": pattern(2)})
    save_file(masks.state_dict(), tmp_path / "masks.safetensors")
    weights = parameter(masks.parameters["w"].detach().clone())
    with torch.no_grad():
        weights.mul_(3)  # a resumed run starts from whatever the model was loaded with
    other = Masks({"w": weights})
    other.load_state_dict(load_file(tmp_path / "masks.safetensors"))
    with torch.no_grad():
        weights.copy_(masks.parameters["w"])
    assert torch.equal(other.codes["w"], masks.codes["w"])
    assert other.scales == masks.scales
    assert torch.equal(other.dense("w"), masks.dense("w"))
    for either in (masks, other):
        either.move({"w": pattern(3)})
    assert torch.equal(other.parameters["w"], masks.parameters["w"])
    assert torch.equal(other.codes["w"], masks.codes["w"])


def test_one_byte_a_weight() -> None:
    masks = random_masks(0)
    assert masks.codes["w"].nbytes == masks.parameters["w"].numel()


def test_masks_follow_a_model_that_moves_to_another_device() -> None:
    """The trainer moves the model after the masks were made; "meta" stands in for a GPU."""
    masks = random_masks(0)
    masks.parameters["w"] = nn.Parameter(torch.empty(6, 7, device="meta"))
    masks.parameters["w"].grad = torch.empty(6, 7, device="meta")
    masks.zero_gradients()
    masks.zero_weights()
    masks.move({"w": torch.ones(6, 7, dtype=torch.bool, device="meta")})
    assert masks.kept("w").device.type == masks.dense("w").device.type == "meta"


class _Batches:
    """Eight random sequences with labels."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(position)
        return {
            "input_ids": torch.randint(5, 100, (8, 12), generator=generator),
            "attention_mask": torch.ones(8, 12, dtype=torch.long),
            "labels": torch.randint(0, 2, (8,), generator=generator),
        }


def test_in_the_training_loop_pruned_weights_take_no_part_in_clipping(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint("bert", "classifier")
    )
    parameters = pruned_parameters(model, find_targets(model))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in parameters.values():
            weight.mul_(torch.rand_like(weight) > 0.8)
    masks = Masks.of_zeros(parameters)
    before = {name: weight.detach().clone() for name, weight in parameters.items()}
    seen: list[int] = []

    def clip(self: Any, given: Any, max_norm: float, norm_type: int = 2) -> Tensor:
        gradients = {name: p.grad for name, p in parameters.items()}
        seen.append(
            sum(
                int(g[~masks.kept(n)].count_nonzero())
                for n, g in gradients.items()
                if g is not None
            )
        )
        assert all(g is not None and g[masks.kept(n)].any() for n, g in gradients.items())
        return nn.utils.clip_grad_norm_(list(given), max_norm, norm_type)

    monkeypatch.setattr(accelerate.Accelerator, "clip_grad_norm_", clip)
    plan = Plan(
        label="test",
        batches=_Batches(),
        loss=lambda m, x: {
            "labels": F.cross_entropy(m(x["input_ids"], x["attention_mask"]).logits, x["labels"])
        },
        steps=4,
        factor=lambda step: 1.0,
        folder=tmp_path / "states",
        log=tmp_path / "log.jsonl",
        masks=masks,
    )
    train(model, plan, TrainingSettings(learning_rate=1e-2, weight_decay=0.1, precision="fp32"))
    assert seen == [0] * 4
    for name, weight in model.named_parameters():
        if name in parameters:
            kept = masks.kept(name)
            assert torch.count_nonzero(weight[~kept]) == 0
            assert np.mean((weight[kept] != before[name][kept]).numpy()) > 0.99
