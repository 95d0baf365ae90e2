"""Which matrices of which model: every family, every head, ties, exclusions, unknown models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
)

from prunella.errors import InputError
from prunella.roles import ROLES
from prunella.sparsity.targets import (
    find_targets,
    pattern_parameters,
    pruned_parameters,
    sparse_tables,
    unresolved_in_layers,
)

CLASSES: dict[str, Any] = {
    "mlm": AutoModelForMaskedLM,
    "base": AutoModel,
    "classifier": AutoModelForSequenceClassification,
}
DECODERS = {
    "bert": "cls.predictions.decoder",
    "roberta": "lm_head.decoder",
    "distilbert": "vocab_projector",
    "electra": "generator_lm_head",
}
HEADS = {
    ("bert", "mlm"): {"cls.predictions.transform.dense"},
    ("roberta", "mlm"): {"lm_head.dense"},
    ("distilbert", "mlm"): {"vocab_transform"},
    ("electra", "mlm"): {"generator_predictions.dense"},
    ("bert", "classifier"): {"classifier"},
    ("roberta", "classifier"): {"classifier.dense", "classifier.out_proj"},
    ("distilbert", "classifier"): {"pre_classifier", "classifier"},
    ("electra", "classifier"): {"classifier.dense", "classifier.out_proj"},
}
# The pooler is there where the class has one.
POOLERS = {("bert", "base"), ("roberta", "base"), ("bert", "classifier")}
FAMILIES = list(DECODERS)


@pytest.fixture
def load(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    def load(family: str, head: str) -> Any:
        return CLASSES[head].from_pretrained(tiny_checkpoint(family, head))

    return load


def small_bert(layers: int) -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
        )
    )


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_encoder_matrices(load: Callable[..., Any], family: str, head: str) -> None:
    targets = find_targets(load(family, head))
    pruned = [target for target in targets if target.pruned]
    has_pooler = (family, head) in POOLERS
    in_layers = [target for target in pruned if target.layer is not None]
    assert [target.layer for target in in_layers] == [0] * 6 + [1] * 6
    for layer in (0, 1):
        roles = {target.role for target in in_layers if target.layer == layer}
        assert roles == set(ROLES) - {"pooler"}
    assert [t.role for t in pruned if t.layer is None] == ["pooler"] * has_pooler
    assert all(target.reason == "" for target in pruned)
    assert all(target.reason for target in targets if not target.pruned)
    assert unresolved_in_layers(targets) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_is_tied_and_left_alone(load: Callable[..., Any], family: str) -> None:
    model = load(family, "mlm")
    assert model.get_submodule(DECODERS[family]).weight is model.get_input_embeddings().weight
    targets = {target.name: target for target in find_targets(model)}
    decoder = targets[DECODERS[family]]
    assert not decoder.pruned
    assert decoder.reason.startswith("tied to ")
    assert decoder.reason.endswith("word_embeddings")
    embeddings = next(t for name, t in targets.items() if name.endswith("word_embeddings"))
    assert embeddings.reason == f"tied to {DECODERS[family]}"


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_heads_are_not_pruned(load: Callable[..., Any], family: str, head: str) -> None:
    targets = {target.name: target for target in find_targets(load(family, head))}
    for name in HEADS[family, head]:
        assert not targets[name].pruned
        assert "no encoder role" in targets[name].reason


def test_the_projection_of_electras_embeddings_is_not_pruned(load: Callable[..., Any]) -> None:
    targets = {target.name: target for target in find_targets(load("electra", "mlm"))}
    projection = targets["electra.embeddings_project"]
    assert projection.shape == (32, 16)
    assert "no encoder role" in projection.reason


def test_an_encoder_matrix_tied_to_another_is_left_alone() -> None:
    model = small_bert(2)
    first, second = (layer.attention.self.query for layer in model.encoder.layer)
    second.weight = first.weight
    targets = {target.name: target for target in find_targets(model)}
    names = [f"encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    assert [targets[name].reason for name in names] == [
        f"tied to {names[1]}",
        f"tied to {names[0]}",
    ]


def test_exclusion_of_a_subtree_and_of_a_matrix() -> None:
    model = small_bert(11)
    exclude = ["encoder.layer.1", "pooler.dense", "encoder.layer.0.output.dense"]
    targets = find_targets(model, exclude=exclude)
    excluded = [target.name for target in targets if target.reason == "excluded"]
    assert len(excluded) == 6 + 2
    assert all(name.startswith("encoder.layer.1.") for name in excluded[1:-1])  # not layer 10
    assert (excluded[0], excluded[-1]) == ("encoder.layer.0.output.dense", "pooler.dense")
    assert sum(target.pruned for target in targets) == 11 * 6 + 1 - 8


def test_only_some_roles() -> None:
    targets = find_targets(small_bert(2), roles=["query", "ffn_in"])
    assert {target.role for target in targets if target.pruned} == {"query", "ffn_in"}
    assert "role 'key' not asked for" in {target.reason for target in targets}


@pytest.mark.parametrize("pattern", ["encoder.layer.9", "ncoder", "encoder.layer.", "", "query"])
def test_an_exclusion_that_names_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=f"exclude: '{pattern}' names no module.*; (did|there)"):
        find_targets(small_bert(1), exclude=[pattern])


def test_an_unknown_model_says_what_it_could_not_resolve() -> None:
    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(InputError) as caught:
        find_targets(transformers.GPT2LMHeadModel(config))
    message = str(caught.value)
    assert "GPT2LMHeadModel" in message
    assert "transformer.h.0.attn.c_attn" in message
    assert "wte" not in message  # what lies outside the layers is not the problem
    assert "BERT, RoBERTa, DistilBERT, ELECTRA" in message


def test_a_model_without_layers_is_refused_too() -> None:
    with pytest.raises(InputError, match=r"Sequential.*2 weight matrices.*\(0, 1\)"):
        find_targets(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(InputError, match="Identity"):
        find_targets(nn.Identity())


def test_a_layer_that_is_half_understood_is_told() -> None:
    model = small_bert(1)
    model.encoder.layer[0].add_module("adapter", nn.Linear(8, 8))
    targets = find_targets(model)
    assert unresolved_in_layers(targets) == ["encoder.layer.0.adapter"]


@pytest.mark.parametrize("kind", ["MPNet", "Albert"])
def test_other_transformers_resolve(kind: str) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, num_hidden_layers=1, max_position_embeddings=16, embedding_size=8
    )
    targets = find_targets(getattr(transformers, f"{kind}Model")(config))
    assert {t.role for t in targets if t.pruned} >= set(ROLES) - {"pooler"}
    assert unresolved_in_layers(targets) == []


def test_parameters_come_by_their_ordinary_names() -> None:
    model = small_bert(1)
    parameters = pruned_parameters(model, find_targets(model, exclude=["pooler"]))
    assert list(parameters) == [
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.key.weight",
        "encoder.layer.0.attention.self.value.weight",
        "encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.0.output.dense.weight",
    ]
    assert all(parameters[name] is model.get_parameter(name) for name in parameters)


def test_tables_that_were_pruned() -> None:
    """Neither the row of the padding nor what rounding to 8 bits does makes a table a pruned one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=500, num_hidden_layers=1, **sizes))
    words = model.embeddings.word_embeddings.weight
    with torch.no_grad():
        for parameter in model.embeddings.parameters():
            if parameter.ndim == 2:
                step = parameter.abs().amax(dim=1, keepdim=True) / 127
                parameter.copy_((parameter / step).round() * step)
        words[0] = 0
        assert 0.002 < (words[1:] == 0).float().mean() < 0.05
        assert sparse_tables(model) == {}
        words[1:, ::4] = 0
    assert list(sparse_tables(model)) == ["embeddings.word_embeddings.weight"]
    assert "embeddings.word_embeddings.weight" in pattern_parameters(model)
