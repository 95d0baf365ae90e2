"""Attention that is fast in training on a CPU.

PyTorch's fused attention knows no dropout on a CPU: with it, it becomes a chain of plain
operations with more passes than need be. Without, its backward pass takes longer in bf16 than the
rest of the model: 6 layers of width 384 on one core, 16 rows of 128 tokens, 345 of 700 ms; three
plain products and a softmax take 100. Beyond some 300 tokens the scores no longer fit the caches,
the two are equally fast then, and the fused one needs no memory for the scores.
benchmarks/attention.py compares whole steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from prunella.training.dropout import dropout as drop
from prunella.training.dropout import trains_on_cpu

LONG = 256
"""Tokens beyond which the fused attention is taken where nothing is dropped."""

_NAME = "prunella_cpu"


@contextmanager
def cpu_attention(model: nn.Module, bf16: bool) -> Iterator[None]:
    """Trains `model` with this attention where it is the faster one; puts its own back after."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    gains = bf16 or any(
        module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout)
    )
    if not (trains_on_cpu(model) and gains and before == "sdpa"):
        yield
        return
    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    set_implementation: Any = getattr(model, "set_attn_implementation")
    set_implementation(_NAME)
    try:
        yield
    finally:
        set_implementation(before)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(Q K^T / sqrt(d) + mask) V, as transformers' attention functions.

    Args:
        module: The attention module.
        query: [rows, heads, tokens, d], and key and value alike.
        attention_mask: Added to the scores, [rows, 1, tokens, tokens].
        scaling: Instead of 1 / sqrt(d).
        dropout: Probability of dropping an attention probability.

    Returns:
        [rows, tokens, heads, d], and no probabilities.
    """
    dropout = dropout if module.training else 0.0
    if dropout == 0 and (query.shape[2] > LONG or value.dtype != torch.bfloat16):
        result, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
        return result, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)  # scaling the scores would be four passes more
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = torch.softmax(scores, dim=-1).to(value.dtype)
    probabilities = drop(probabilities, dropout)
    return (probabilities @ value).transpose(1, 2).contiguous(), None
