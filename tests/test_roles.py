"""The one rule: which module names mean a prunable matrix, in every family, and which never do."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.roles import ROLES, layer_of, role_of

BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "intermediate.dense": "ffn_in",
    "output.dense": "ffn_out",
}
DISTILBERT_LAYER = {
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.out_lin": "attention_output",
    "ffn.lin1": "ffn_in",
    "ffn.lin2": "ffn_out",
}
MPNET_LAYER = {
    "attention.attn.q": "query",
    "attention.attn.k": "key",
    "attention.attn.v": "value",
    "attention.attn.o": "attention_output",
}
ALBERT_LAYER = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.dense": "attention_output",
    "ffn": "ffn_in",
    "ffn_output": "ffn_out",
}
STACKS = [
    ("bert.encoder.layer", BERT_LAYER),
    ("roberta.encoder.layer", BERT_LAYER),
    ("electra.encoder.layer", BERT_LAYER),
    ("encoder.layer", BERT_LAYER),  # a bare encoder, AutoModel
    ("distilbert.transformer.layer", DISTILBERT_LAYER),
    ("transformer.layer", DISTILBERT_LAYER),
    ("mpnet.encoder.layer", MPNET_LAYER),
    ("albert.encoder.albert_layer_groups.0.albert_layers", ALBERT_LAYER),
]


@pytest.mark.parametrize(("stack", "endings"), STACKS)
def test_every_matrix_of_a_layer_has_its_role(stack: str, endings: dict[str, str]) -> None:
    for ending, role in endings.items():
        assert role_of(f"{stack}.11.{ending}") == role
        assert role_of(f"{stack}.11.{ending}.weight") == role


def test_the_pooler_lies_outside_the_layers() -> None:
    assert role_of("bert.pooler.dense.weight") == role_of("pooler.dense") == "pooler"
    assert layer_of("bert.pooler.dense.weight") is None


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.output.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.pooler.dense.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.decoder.weight",
        "lm_head.dense.weight",
        "lm_head.decoder.weight",
        "vocab_projector.weight",
        "vocab_transform.weight",
        "generator_predictions.dense.weight",
        "generator_lm_head.weight",
        "electra.embeddings_project.weight",
        "classifier.weight",
        "classifier.dense.weight",
        "classifier.out_proj.weight",
        "pre_classifier.weight",
        "attention.self.query",  # no layer number: not in the stack
        "head.output.dense",
        "my_pooler.dense",  # whole segments only
        "bert.encoder.layer.0.attention.self.query.lora_A.weight",
        "",
    ],
)
def test_all_else_is_never_pruned(name: str) -> None:
    assert role_of(name) is None


@given(st.integers(0, 99), st.sampled_from(sorted(BERT_LAYER)), st.from_regex(r"[a-z_]{0,9}"))
def test_the_prefix_decides_nothing(layer: int, ending: str, prefix: str) -> None:
    name = f"{prefix.strip()}.encoder.layer.{layer}.{ending}"
    assert role_of(name) == BERT_LAYER[ending]
    assert layer_of(name) == layer


def test_all_roles_occur() -> None:
    assert set(ROLES) == {*BERT_LAYER.values(), "pooler"}


def test_the_rule_needs_no_torch() -> None:
    code = (
        "import sys, prunella.roles, prunella.checkpoint, prunella.errors; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
