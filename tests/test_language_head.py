"""Losses over a vocabulary in slices: the same values and gradients as over all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from prunella import language_head
from prunella.distillation import Wanted, forward, logits_loss
from prunella.language_head import Head, divergence, last_matrix, stopped_before
from prunella.settings import DistillationSettings
from prunella.training.mlm import MlmLoss, Teacher

FAMILIES = ["bert", "roberta", "distilbert", "electra"]
WIDTH, VOCABULARY, TOKENS = 16, 50, 23


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(seed: int, *, bias: bool = True, width: int = WIDTH, dtype: Any = torch.float32) -> Head:
    states = random(TOKENS, width, seed=seed).to(dtype).requires_grad_()
    weight = random(VOCABULARY, width, seed=seed + 1).requires_grad_()
    return Head(
        states, weight, random(VOCABULARY, seed=seed + 2).requires_grad_() if bias else None
    )


def parts(given: Head) -> list[Tensor]:
    return [tensor for tensor in (given.states, given.weight, given.bias) if tensor is not None]


def gradients(given: Head) -> list[Tensor]:
    found = []
    for tensor in parts(given):
        assert tensor.grad is not None
        found.append(tensor.grad.clone())
        tensor.grad = None
    return found


@pytest.mark.parametrize("slice_size", [1, 7 * VOCABULARY, 1 << 23])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_the_logits(
    monkeypatch: pytest.MonkeyPatch, slice_size: int, temperature: float, bias: bool
) -> None:
    monkeypatch.setattr(language_head, "SLICE", slice_size)
    student, teacher = head(1, bias=bias), head(5, width=24)
    whole = logits_loss(student.logits(), teacher.logits().detach(), temperature)
    (3 * whole).backward()
    wanted = gradients(student)
    sliced = divergence(student, teacher, temperature)
    (3 * sliced).backward()
    torch.testing.assert_close(sliced, whole, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(gradients(student), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(tensor.grad is None for tensor in parts(teacher))


def test_bf16_is_as_close_as_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64: slicing must not add to what bf16 costs anyway."""
    monkeypatch.setattr(language_head, "SLICE", 5 * VOCABULARY)
    student, teacher = head(1, dtype=torch.bfloat16), head(5, dtype=torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in parts(student)]
    goal = torch.nn.functional.linear(*(t.detach().double() for t in parts(teacher)))
    log_p = (torch.nn.functional.linear(*exact) / 2).log_softmax(-1)
    log_q = (goal / 2).log_softmax(-1)
    truth = 4 * (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    truth.backward()
    logits_loss(student.logits(), teacher.logits().detach(), 2.0).backward()
    whole = gradients(student)
    divergence(student, teacher, 2.0).backward()
    for ours, theirs, right in zip(gradients(student), whole, exact, strict=True):
        assert right.grad is not None
        errors = [(found.double() - right.grad).norm().item() for found in (ours, theirs)]
        assert errors[0] < 1.2 * errors[1] + 1e-6
        assert errors[0] < 0.02 * right.grad.norm().item()
    loss = divergence(student, teacher, 2.0).item()
    assert loss == pytest.approx(truth.item(), rel=0.01)


def test_what_is_frozen_gets_no_gradient() -> None:
    student, teacher = head(1), head(5)
    student.weight.requires_grad_(False)
    divergence(student, teacher, 2.0).backward()
    assert student.weight.grad is None
    assert student.states.grad is not None
    for tensor in parts(student):
        tensor.requires_grad_(False)
    assert not divergence(student, teacher, 2.0).requires_grad


def test_the_teacher_itself_is_the_minimum() -> None:
    student = head(1)
    loss = divergence(student, head(1), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(found.abs().max() < 1e-6 for found in gradients(student))


def test_only_one_slice_of_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_head, "SLICE", 4 * VOCABULARY)
    sizes = []
    original = torch.nn.functional.log_softmax

    def watched(logits: Tensor, **more: Any) -> Tensor:
        sizes.append(len(logits))
        return original(logits, **more)

    monkeypatch.setattr(torch.nn.functional, "log_softmax", watched)
    divergence(head(1), head(5), 2.0)
    assert max(sizes) == 4
    assert sum(sizes) == 2 * TOKENS


# --- in a model


@pytest.fixture
def load(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    return lambda family, **given: AutoModelForMaskedLM.from_pretrained(
        tiny_checkpoint(family, "mlm", **given)
    ).eval()


def batch(vocabulary: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 7:] = 0
    ids = torch.randint(5, vocabulary, (3, 10), generator=generator)
    labels = torch.where(torch.rand(3, 10, generator=generator) < 0.3, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(mask == 0, -100)}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_model_stops_before_makes_its_logits(
    load: Callable[..., Any], family: str
) -> None:
    model = load(family)
    inputs = batch(model.config.vocab_size)
    tokens = torch.tensor([0, 3, 9, 11])
    full = forward(model, inputs, Wanted(logits=True, hidden=(1,)), tokens=tokens)
    found = forward(
        model, inputs, Wanted(logits=True, hidden=(1,)), tokens=tokens, before_logits=True
    )
    assert found.logits is None
    assert found.head is not None
    assert full.logits is not None
    torch.testing.assert_close(found.head.logits(), full.logits)
    rows = torch.tensor([1, 3])
    torch.testing.assert_close(found.head.logits(rows), full.logits[rows])
    assert torch.equal(found.hidden[0], full.hidden[0])
    assert not last_matrix(model)._forward_pre_hooks  # type: ignore[union-attr]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_is_that_of_the_logits(
    load: Callable[..., Any], family: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_head, "SLICE", 700)
    signals = DistillationSettings(logits=0.5, hidden=0.5)
    dense = load(family, seed=1)
    found = []
    for matrix in (last_matrix, lambda model: None):
        monkeypatch.setattr("prunella.distillation.last_matrix", matrix)
        model = load(family)
        inputs = batch(model.config.vocab_size)
        loss = MlmLoss(model.config, 0.5, Teacher(dense, signals, bf16))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = loss(model, inputs)
        torch.stack(list(terms.values())).sum().backward()
        assert list(terms) == ["mlm", "logits", "hidden"]
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((terms, grads))
    (sliced, ours), (whole, theirs) = found
    assert ours.keys() == theirs.keys()
    for name in whole:
        torch.testing.assert_close(sliced[name], whole[name], rtol=2e-2 if bf16 else 1e-5, atol=0)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name in theirs:
        scale = theirs[name].abs().max().item()
        # Softmax takes no notice of the keys' biases: their gradient is rounding alone.
        floor = largest / 1000 if name.endswith(("key.bias", "k_lin.bias")) else 1e-5
        torch.testing.assert_close(
            ours[name],
            theirs[name],
            rtol=0,
            atol=(3e-2 * scale + floor) if bf16 else (1e-5 * scale + 1e-7),
        )


def test_a_head_that_ends_otherwise_gives_logits(load: Callable[..., Any]) -> None:
    model = load("bert")

    class Scaled(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return 2 * super().forward(states)

    matrix = model.get_output_embeddings()
    scaled = Scaled(matrix.in_features, matrix.out_features)
    model.set_output_embeddings(scaled)
    assert last_matrix(model) is None
    tokens = torch.tensor([1, 2])
    inputs = batch(model.config.vocab_size)
    found = forward(model, inputs, Wanted(logits=True), tokens=tokens, before_logits=True)
    assert found.head is None
    assert found.logits is not None
    assert found.logits.shape == (2, model.config.vocab_size)


def test_nothing_passes_a_stopped_matrix() -> None:
    matrix = nn.Linear(4, 6)
    with stopped_before(matrix) as kept:
        out = matrix(torch.ones(2, 3, 4))
    assert out.shape == (2, 0, 6)
    assert kept[0].states.shape == (6, 4)
    assert matrix(torch.ones(2, 3, 4)).shape == (2, 3, 6)
