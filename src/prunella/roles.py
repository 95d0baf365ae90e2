"""Which matrices are meant: the one rule, by the role a module plays.

Pruning, locking, quantising, packing and reporting all ask `role_of`. It needs no model, only
a name, so the numpy-only half of the package can ask it too; what depends on the model (tied
weights, module types) is added in `prunella.sparsity.targets`.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Role = Literal["query", "key", "value", "attention_output", "ffn_in", "ffn_out", "pooler"]
ROLES: tuple[Role, ...] = get_args(Role)

# Endings of module names, matched on whole dotted segments: a substring would also catch
# `vocab_projector` or a task head. `#` stands for the layer index, so these modules only count
# inside the repeated stack of layers.
_ENDINGS: dict[Role, tuple[str, ...]] = {
    "query": (
        "#.attention.self.query",  # BERT, RoBERTa, ELECTRA
        "#.attention.q_lin",  # DistilBERT
        "#.attention.attn.q",  # MPNet
        "#.attention.self.query_proj",  # DeBERTa-v2
        "#.self_attn.q_proj",
        "#.attention.query",
    ),
    "key": (
        "#.attention.self.key",
        "#.attention.k_lin",
        "#.attention.attn.k",
        "#.attention.self.key_proj",
        "#.self_attn.k_proj",
        "#.attention.key",
    ),
    "value": (
        "#.attention.self.value",
        "#.attention.v_lin",
        "#.attention.attn.v",
        "#.attention.self.value_proj",
        "#.self_attn.v_proj",
        "#.attention.value",
    ),
    "attention_output": (
        "#.attention.output.dense",
        "#.attention.out_lin",
        "#.attention.attn.o",
        "#.self_attn.out_proj",
        "#.self_attn.o_proj",
        "#.attention.dense",
    ),
    "ffn_in": ("#.intermediate.dense", "#.ffn.lin1", "#.fc1", "#.mlp.fc1", "#.ffn"),
    "ffn_out": ("#.output.dense", "#.ffn.lin2", "#.fc2", "#.mlp.fc2", "#.ffn_output"),
    "pooler": ("pooler.dense",),
}
_RULES: tuple[tuple[Role, re.Pattern[str]], ...] = tuple(
    (role, re.compile(r"(?:^|\.)" + re.escape(ending).replace(r"\#", r"\d+") + "$"))
    for role, endings in _ENDINGS.items()
    for ending in endings
)
_LAYER = re.compile(r"\.(\d+)\.")


def role_of(name: str) -> Role | None:
    """The role of a module or of its weight, from its dotted name; None if it is never pruned.

    >>> role_of("bert.encoder.layer.3.attention.self.query.weight")
    'query'
    >>> role_of("bert.embeddings.word_embeddings.weight") is None
    True
    """
    if name.endswith(".bias"):
        return None
    module = name.removesuffix(".weight")
    for role, pattern in _RULES:
        if pattern.search(module):
            return role
    return None


def is_embedding(name: str) -> bool:
    """Whether a tensor lies in the embeddings: as a matrix it is a table, one row an entry.

    >>> is_embedding("bert.embeddings.word_embeddings.weight")
    True
    >>> is_embedding("electra.embeddings_project.weight")
    False
    """
    return ".embeddings." in f".{name}"


def layer_of(name: str) -> int | None:
    """The index of the layer that a module belongs to; None outside the stack (the pooler)."""
    numbers = _LAYER.findall(name)  # a prefix may hold some too ("0.auto_model.")
    return int(numbers[-1]) if numbers else None
