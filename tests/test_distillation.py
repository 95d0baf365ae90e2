"""What a student learns from a teacher: each signal against its definition, worked out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from prunella.distillation import (
    Features,
    Wanted,
    distillation_loss,
    forward,
    hidden_loss,
    layer_map,
    logits_loss,
    relation_heads,
    relation_loss,
    wanted_features,
)
from prunella.errors import InputError
from prunella.settings import DistillationSettings

FAMILIES = ["bert", "roberta", "distilbert", "electra"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def kl(q: np.ndarray, p: np.ndarray) -> float:
    """KL(q || p) over the entries where q is not zero."""
    return float(sum(a * np.log(a / b) for a, b in zip(q, p, strict=True) if a > 0))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_for(vocabulary: int, *, token_types: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[1, 7:] = 0
    mask[2, 4:] = 0
    batch = {
        "input_ids": torch.randint(5, vocabulary, (3, 10), generator=generator) * mask,
        "attention_mask": mask,
        "labels": torch.zeros(3, dtype=torch.long),
        "index": torch.arange(3),
    }
    if token_types:
        batch["token_type_ids"] = torch.zeros(3, 10, dtype=torch.long)
        batch["token_type_ids"][:, 3:] = 1
    return batch


def hooks(model: torch.nn.Module) -> int:
    """Forward hooks; transformers leaves some of its own to collect hidden states."""
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def load(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    classes: dict[str, Any] = {
        "mlm": AutoModelForMaskedLM,
        "base": AutoModel,
        "classifier": AutoModelForSequenceClassification,
    }

    def load(family: str, head: str = "mlm", **given: Any) -> Any:
        return classes[head].from_pretrained(tiny_checkpoint(family, head, **given)).eval()

    return load


# --- logits


@given(
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-8, 8)),
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-8, 8)),
    st.floats(0.5, 8),
)
def test_the_logits_loss_by_hand(student: np.ndarray, teacher: np.ndarray, heat: float) -> None:
    rows = [kl(softmax(t / heat), softmax(s / heat)) for s, t in zip(student, teacher, strict=True)]
    found = logits_loss(torch.from_numpy(student), torch.from_numpy(teacher), heat)
    assert found.item() == pytest.approx(heat**2 * np.mean(rows), rel=1e-3, abs=1e-4)


def test_the_logits_loss_of_a_known_case() -> None:
    # softmax([0, ln 9] / 2) = [1/4, 3/4] against [1/2, 1/2], T = 2.
    teacher = torch.tensor([[0.0, np.log(9.0)]])
    expected = 4 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert logits_loss(torch.zeros(1, 2), teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_the_reference_distribution() -> None:
    """KL is not symmetric: mass that the teacher has and the student lacks costs most."""
    sure, unsure = torch.tensor([[5.0, 0.0]]), torch.zeros(1, 2)
    assert logits_loss(unsure, sure, 1.0) < logits_loss(sure, unsure, 1.0)


def test_a_single_output_is_a_regression() -> None:
    found = logits_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [4.0]]), 7.0)
    assert found.item() == pytest.approx((0.25 + 4) / 2)


def test_half_precision_logits_are_compared_in_full() -> None:
    student, teacher = random(5, 40), random(5, 40, seed=1)
    half = logits_loss(student.bfloat16(), teacher.bfloat16(), 2.0)
    full = logits_loss(student.bfloat16().float(), teacher.bfloat16().float(), 2.0)
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


# --- hidden states


def test_the_hidden_loss_by_hand() -> None:
    student = [random(6, 4), random(6, 4, seed=1)]
    teacher = [3 * random(6, 4, seed=2), random(6, 4, seed=3) + 5]
    terms = [
        np.mean((s - t) ** 2) / np.var(t)
        for s, t in (
            (s.double().numpy(), t.double().numpy()) for s, t in zip(student, teacher, strict=True)
        )
    ]
    assert hidden_loss(student, teacher).item() == pytest.approx(np.mean(terms), rel=1e-5)


@given(st.floats(0.01, 100), st.floats(-3, 3))
def test_the_hidden_loss_is_free_of_the_teachers_scale(scale: float, shift: float) -> None:
    teacher = scale * (random(50, 8) + shift)
    assert hidden_loss([teacher], [teacher]).item() == 0
    # Nothing reproduced but the mean: exactly 1.
    mean = teacher.mean().expand_as(teacher)
    assert hidden_loss([mean], [teacher]).item() == pytest.approx(1, rel=1e-3)


def test_a_constant_teacher_does_not_divide_by_zero() -> None:
    assert torch.isfinite(hidden_loss([torch.ones(3, 2)], [torch.zeros(3, 2)]))


def test_unequal_numbers_of_layers_are_a_fault() -> None:
    with pytest.raises(ValueError, match="zip"):
        hidden_loss([torch.ones(2, 2)], [torch.ones(2, 2)] * 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_real_tokens(load: Callable[..., Any], family: str) -> None:
    model = load(family)
    batch = inputs_for(model.config.vocab_size)
    reference = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        output_hidden_states=True,
    ).hidden_states
    assert len(reference) == 3  # the embeddings and two layers
    found = forward(model, batch, Wanted(logits=False, hidden=(0, 1)))
    real = batch["attention_mask"].bool()
    assert found.logits is None
    assert [tuple(h.shape) for h in found.hidden] == [(10 + 7 + 4, 32)] * 2
    for layer in (0, 1):
        assert torch.equal(found.hidden[layer], reference[layer + 1][real])


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_signal(load: Callable[..., Any], family: str) -> None:
    """The same rows, padded further: the losses against a teacher stay what they were."""
    signals = DistillationSettings(hidden=1.0, attention=1.0)
    student, teacher = load(family, "base"), load(family, "base", seed=1)
    ours, theirs = wanted_features(signals, student.config, teacher.config)
    short = inputs_for(100)
    wide = {
        key: torch.nn.functional.pad(value, (0, 6)) if value.dim() == 2 else value
        for key, value in short.items()
    }
    found = [
        distillation_loss(
            forward(student, batch, ours),
            forward(teacher, batch, theirs),
            signals,
            batch["attention_mask"],
            2,
        )
        for batch in (short, wide)
    ]
    for name in ("hidden", "attention"):
        assert found[0][name].item() > 0.01
        assert found[1][name].item() == pytest.approx(found[0][name].item(), rel=1e-4)


# --- attention relations


def slow_relation_loss(
    student: dict[str, Tensor], teacher: dict[str, Tensor], mask: Tensor, heads: int
) -> float:
    """MiniLMv2, equations 4 to 7, one token at a time."""
    values = []
    for role in ("query", "key", "value"):
        s, t = student[role].double().numpy(), teacher[role].double().numpy()
        for row in range(len(mask)):
            real = [i for i in range(mask.shape[1]) if mask[row, i]]
            for head in range(heads):

                def relation(
                    x: np.ndarray, i: int, row: int, head: int, real: list[int]
                ) -> np.ndarray:
                    size = x.shape[-1] // heads
                    part = x[row, :, head * size : (head + 1) * size]
                    return softmax(np.array([part[i] @ part[j] for j in real]) / np.sqrt(size))

                values += [
                    kl(relation(t, i, row, head, real), relation(s, i, row, head, real))
                    for i in real
                ]
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("widths", "heads"), [((8, 8), 2), ((8, 12), 4), ((6, 10), 1), ((8, 4), 2)]
)
def test_the_relation_loss_against_a_slow_one(widths: tuple[int, int], heads: int) -> None:
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[0, 4:] = 0
    mask[2, 1:] = 0
    student, teacher = (
        {
            role: random(3, 6, width, seed=10 * k + i)
            for i, role in enumerate(("query", "key", "value"))
        }
        for k, width in enumerate(widths)
    )
    found = relation_loss(student, teacher, mask, heads).item()
    assert found == pytest.approx(slow_relation_loss(student, teacher, mask, heads), rel=1e-4)
    assert found > 0.01
    # What stands at padding does not matter, even if it is huge.
    for features in (student, teacher):
        for vectors in features.values():
            vectors[~mask.bool()] = 1e4
    assert relation_loss(student, teacher, mask, heads).item() == pytest.approx(found, rel=1e-5)


def test_the_relation_loss_of_the_teacher_itself_is_zero() -> None:
    same = {role: random(2, 5, 8, seed=i) for i, role in enumerate(("query", "key", "value"))}
    assert relation_loss(same, same, torch.ones(2, 5), 2).item() == pytest.approx(0, abs=1e-7)


def test_padding_gets_no_gradient_and_no_nan() -> None:
    mask = torch.ones(2, 5)
    mask[1, 2:] = 0
    student = {
        r: random(2, 5, 8, seed=i).requires_grad_() for i, r in enumerate(("query", "key", "value"))
    }
    teacher = {r: random(2, 5, 8, seed=9 + i) for i, r in enumerate(("query", "key", "value"))}
    relation_loss(student, teacher, mask, 2).backward()
    for vectors in student.values():
        assert vectors.grad is not None
        assert torch.isfinite(vectors.grad).all()
        assert not vectors.grad[1, 2:].any()
        assert vectors.grad[mask.bool()].any(dim=-1).all()


def test_relations_are_computed_in_full_precision_under_autocast() -> None:
    student, teacher = (
        {
            role: 4 * random(2, 6, 8, seed=10 * k + i)
            for i, role in enumerate(("query", "key", "value"))
        }
        for k in range(2)
    )
    mask = torch.ones(2, 6)
    plain = relation_loss(student, teacher, mask, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(relation_loss(student, teacher, mask, 2), plain)


@pytest.mark.parametrize("head", ["mlm", "base", "classifier"])
@pytest.mark.parametrize("family", FAMILIES)
def test_relations_are_the_projections_of_the_wanted_layer(
    load: Callable[..., Any], family: str, head: str
) -> None:
    model = load(family, head)
    batch = inputs_for(model.config.vocab_size)
    forward(model, batch, Wanted(logits=False, hidden=(0,)))
    before = hooks(model)
    found = forward(model, batch, Wanted(logits=False, hidden=(0,), relation=1))
    assert hooks(model) == before
    assert list(found.relations) == ["query", "key", "value"]
    names = ["q_lin", "k_lin", "v_lin"] if family == "distilbert" else ["query", "key", "value"]
    # The second layer's projections, applied to the first layer's output by hand.
    real = batch["attention_mask"].bool()
    for role, name in zip(("query", "key", "value"), names, strict=True):
        linear = next(m for n, m in model.named_modules() if ".1." in n and n.endswith(f".{name}"))
        torch.testing.assert_close(found.relations[role][real], linear(found.hidden[0]))


def test_a_layer_without_these_projections_is_explained(load: Callable[..., Any]) -> None:
    model = load("bert", "base")
    with pytest.raises(InputError, match=r"distillation\.attention.*layer 7 of BertModel"):
        forward(model, inputs_for(100), Wanted(logits=False, relation=7))
    assert hooks(model) == 0


def test_relation_heads(load: Callable[..., Any]) -> None:
    narrow, wide = load("bert", "base").config, load("bert", "base", hidden=48).config
    odd = load("distilbert", "base", hidden=48).config
    assert relation_heads(narrow, wide) == relation_heads(narrow, odd) == 2
    narrow.num_attention_heads = 32
    assert relation_heads(narrow, wide) == 1


# --- which layers


@pytest.mark.parametrize(
    ("student", "teacher", "mapped"),
    [
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (3, 6, [1, 3, 5]),
        (2, 3, [1, 2]),
        (4, 4, [0, 1, 2, 3]),
        (1, 12, [11]),
        (3, 12, [3, 7, 11]),
    ],
)
def test_layer_map(student: int, teacher: int, mapped: list[int]) -> None:
    assert layer_map(student, teacher) == mapped


@given(st.integers(1, 30), st.integers(1, 30))
def test_layer_map_rises_to_the_last_layer(student: int, teacher: int) -> None:
    mapped = layer_map(student, teacher)
    assert len(mapped) == student
    assert mapped == sorted(mapped)
    assert mapped[0] >= 0
    assert mapped[-1] == teacher - 1
    if student <= teacher:
        assert len(set(mapped)) == student


def test_wanted_features_of_unequal_depths(load: Callable[..., Any]) -> None:
    student = load("distilbert", layers=2).config
    teacher = load("bert", layers=4).config
    every = DistillationSettings(logits=1.0, hidden=1.0, attention=1.0)
    ours, theirs = wanted_features(every, student, teacher)
    assert ours == Wanted(logits=True, hidden=(0, 1), relation=1)
    assert theirs == Wanted(logits=True, hidden=(1, 3), relation=3)
    only = DistillationSettings(attention=1.0)
    assert wanted_features(only, student, teacher) == (Wanted(False, (), 1), Wanted(False, (), 3))


def test_unequal_widths_rule_out_hidden_states_only(load: Callable[..., Any]) -> None:
    student, teacher = load("bert").config, load("bert", hidden=48).config
    with pytest.raises(InputError, match=r"32 wide.*48.*distillation\.attention"):
        wanted_features(DistillationSettings(hidden=0.1), student, teacher)
    signals = DistillationSettings(logits=1.0, attention=1.0)
    ours, theirs = wanted_features(signals, student, teacher)
    assert ours.hidden == theirs.hidden == ()
    models = load("bert"), load("bert", hidden=48)
    batch = inputs_for(100)
    shown = [
        forward(m, batch, w, tokens=torch.arange(4))
        for m, w in zip(models, (ours, theirs), strict=True)
    ]
    losses = distillation_loss(*shown, signals, batch["attention_mask"], 2)
    assert all(loss.item() > 0 for loss in losses.values())


# --- the weighted sum


def test_each_signal_is_weighted_and_left_out_at_0() -> None:
    relations = [
        {r: random(2, 3, 4, seed=k + i) for i, r in enumerate(("query", "key", "value"))}
        for k in (0, 5)
    ]
    student = Features(random(2, 3), [random(4, 4)], relations[0])
    teacher = Features(random(2, 3, seed=7), [random(4, 4, seed=8)], relations[1])
    mask = torch.ones(2, 3)
    one = {
        "logits": logits_loss(student.logits, teacher.logits, 3.0),  # type: ignore[arg-type]
        "hidden": hidden_loss(student.hidden, teacher.hidden),
        "attention": relation_loss(student.relations, teacher.relations, mask, 2),
    }
    weights = {"logits": 0.5, "hidden": 2.0, "attention": 0.25}
    signals = DistillationSettings(**weights, temperature=3.0)
    found = distillation_loss(student, teacher, signals, mask, 2)
    assert list(found) == list(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight * one[name])
        only = DistillationSettings(**{name: 1.0}, temperature=3.0)  # type: ignore[arg-type]
        assert list(distillation_loss(student, teacher, only, mask, 2)) == [name]


# --- the head on some tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_on_chosen_tokens_gives_the_full_logits_there(
    load: Callable[..., Any], family: str
) -> None:
    model = load(family)
    batch = inputs_for(model.config.vocab_size)
    full = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    tokens = torch.tensor([0, 3, 9, 11, 22])
    everything = Wanted(logits=True, hidden=(0, 1), relation=1)
    forward(model, batch, everything)
    before = hooks(model)
    found = forward(model, batch, everything, tokens=tokens)
    assert hooks(model) == before
    torch.testing.assert_close(found.logits, full.reshape(-1, full.shape[-1])[tokens])
    # The other signals still see all tokens.
    without = forward(model, batch, everything)
    torch.testing.assert_close(without.logits, full)
    for a, b in zip(found.hidden, without.hidden, strict=True):
        assert torch.equal(a, b)
    assert found.relations["value"].shape == (3, 10, 32)


def test_gradients_flow_through_the_chosen_tokens(load: Callable[..., Any]) -> None:
    model = load("roberta")
    batch = inputs_for(model.config.vocab_size)
    found = forward(model, batch, Wanted(logits=True), tokens=torch.tensor([1, 12]))
    assert found.logits is not None
    found.logits.square().sum().backward()
    embeddings = model.get_input_embeddings().weight
    assert embeddings.grad is not None
    assert embeddings.grad[batch["input_ids"][1, 2]].any()
    assert found.logits.shape == (2, model.config.vocab_size)


# --- inputs


def test_a_distilbert_student_gets_no_token_types_while_its_teacher_does(
    load: Callable[..., Any],
) -> None:
    batch = inputs_for(100, token_types=True)
    plain = {key: value for key, value in batch.items() if key != "token_type_ids"}
    wanted = Wanted(logits=True)
    for family, reads_types in [
        ("distilbert", False),
        ("roberta", False),
        ("bert", True),
        ("electra", True),
    ]:
        model = load(family, "classifier")
        with_types, without = forward(model, batch, wanted), forward(model, plain, wanted)
        assert with_types.logits is not None
        assert without.logits is not None
        assert torch.equal(with_types.logits, without.logits) is not reads_types, family
    assert "token_type_ids" in batch  # nothing is taken from the caller


def test_a_wrapped_model_is_looked_through(load: Callable[..., Any]) -> None:
    """torch's data parallelism hides the model behind `.module`."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **kwargs: Any) -> Any:
            return self.module(**kwargs)

    model, batch = load("bert"), inputs_for(100, token_types=True)
    wanted = Wanted(logits=True, hidden=(1,), relation=0)
    tokens = torch.tensor([2, 5])
    direct, wrapped = (forward(m, batch, wanted, tokens=tokens) for m in (model, Wrapper(model)))
    assert torch.equal(direct.logits, wrapped.logits)  # type: ignore[arg-type]
    assert torch.equal(direct.hidden[0], wrapped.hidden[0])
    assert torch.equal(direct.relations["key"], wrapped.relations["key"])
