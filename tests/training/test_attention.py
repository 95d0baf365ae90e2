"""Attention for training on a CPU: the same numbers as the fused one, put back afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from prunella.training.attention import LONG, cpu_attention


def encoder() -> BertModel:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LONG + 8,
            attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def gradients(model: Any, length: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    model.zero_grad()
    states.square().sum().backward()
    return states, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("length", [12, LONG + 4])
def test_outputs_and_gradients_are_those_of_the_fused_attention(length: int) -> None:
    model = encoder()
    expected, expected_gradients = gradients(model, length)
    with cpu_attention(model, bf16=True):
        assert model.config._attn_implementation != "sdpa"
        found, found_gradients = gradients(model, length)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_model_has_its_own_attention_again_after_an_error() -> None:
    model = encoder()
    with pytest.raises(RuntimeError), cpu_attention(model, bf16=True):
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"
    assert "attn" not in model.config.to_json_string()


def test_a_choice_of_the_user_and_fp32_are_left_alone() -> None:
    model = encoder()
    with cpu_attention(model, bf16=False):
        assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with cpu_attention(model, bf16=True):
        assert model.config._attn_implementation == "eager"


def test_dropout_falls_on_the_probabilities_while_training() -> None:
    model = encoder()
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.5
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ids = torch.randint(0, 50, (2, 12))
    with cpu_attention(model, bf16=True):
        model.train()
        assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
        model.eval()
        assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
