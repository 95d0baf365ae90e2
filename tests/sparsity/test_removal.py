"""Neurons that are cut out: a smaller model of stock transformers that computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from prunella.settings import PruningSettings
from prunella.sparsity.gradual import make_pruning, targets_to_prune
from prunella.sparsity.masks import Masks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.removal import finish
from prunella.sparsity.targets import pruned_parameters

FAMILIES = ("bert", "distilbert", "roberta")


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    common: Any = {"vocab_size": 20, "initializer_range": 0.5}
    if family == "distilbert":
        return DistilBertModel(
            DistilBertConfig(**common, dim=8, n_layers=2, n_heads=2, hidden_dim=16)
        )
    if family == "roberta":
        return RobertaModel(RobertaConfig(**common, **sizes, num_hidden_layers=2))
    return BertModel(BertConfig(**common, **sizes, num_hidden_layers=2))


def pruned(model: Any, **given: Any) -> Pruning:
    settings = PruningSettings(growth_end=1, freeze=1, update_every=1, **given)
    targets = targets_to_prune(model, settings)
    masks = Masks.of_zeros(pruned_parameters(model, targets))
    pruning = make_pruning(model, masks, targets, settings, steps=1, seed=0)
    pruning(1)
    return pruning


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_model_computes_the_same(family: str, tmp_path: Path) -> None:
    model = tiny(family).eval()
    with torch.no_grad():  # biases that would show if a neuron were cut by mistake
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                bias.uniform_(-1, 1)
    pruning = pruned(model, pattern="neurons", sparsity=0.75)
    tokens = torch.randint(3, 20, (2, 6))
    before = model(tokens).last_hidden_state
    size = sum(p.numel() for p in model.parameters())
    record = finish(model, pruning)
    assert record == {"removed": {"neurons_before": 16, "neurons": 4, "layers": 2}}
    torch.testing.assert_close(model(tokens).last_hidden_state, before, rtol=1e-5, atol=1e-5)
    # Two layers, twelve neurons, each with 8 weights in, 8 out and a bias.
    assert size - sum(p.numel() for p in model.parameters()) == 2 * 12 * 17
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    after = loaded.eval()(tokens).last_hidden_state
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_other_patterns_cut_nothing() -> None:
    model = tiny("bert")
    assert finish(model, None) == {}
    for pattern in ("1x1", "heads", "4x1"):
        assert finish(model, pruned(tiny("bert"), pattern=pattern, sparsity=0.5)) == {}
    assert model.config.intermediate_size == 16
