"""Tiny models of every family as packed files, made in numpy: seeds for hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from packed import samples

from prunella.engine.architecture import HEADS, NAMES
from prunella.packed.bf16 import to_bf16
from prunella.packed.write import TensorSpec
from prunella.roles import role_of

Kind = Literal["int8", "bf16", "fp32"]
Content = tuple[list[TensorSpec], dict[str, Any], dict[str, bytes]]

HIDDEN, INNER, EMBEDDING, WORDS, POSITIONS, LABELS = 16, 32, 8, 40, 24, 3
_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{c}" for c in "abcd")]


def tiny_model(family: str, head: str | None, kind: Kind, density: float = 0.2) -> Content:
    """(tensors, metadata, files) of a model of one layer.

    Args:
        family: bert, roberta, distilbert or electra.
        head: The part of the architecture behind "For"; None for the encoder alone.
        kind: What its prunable matrices are stored as.
        density: Share of non-zeros in these.
    """
    maker = _Maker(kind, density)
    prefix = f"{family}."
    embedding = EMBEDDING if family == "electra" else HIDDEN
    where = f"{prefix}embeddings."
    maker.table(f"{where}word_embeddings.weight", WORDS, embedding)
    maker.table(f"{where}position_embeddings.weight", POSITIONS + 2, embedding)
    if family != "distilbert":
        maker.table(f"{where}token_type_embeddings.weight", 2, embedding)
    maker.norm(f"{where}LayerNorm", embedding)
    if family == "electra":
        maker.linear(f"{prefix}embeddings_project", HIDDEN, embedding)
    names = NAMES[family]
    layer = f"{prefix}{names.stack}.0."
    for name in (*names.qkv, names.attention_output):
        maker.linear(layer + name, HIDDEN, HIDDEN)
    maker.norm(layer + names.attention_norm, HIDDEN)
    maker.linear(layer + names.ffn_in, INNER, HIDDEN)
    maker.linear(layer + names.ffn_out, HIDDEN, INNER)
    maker.norm(layer + names.output_norm, HIDDEN)
    for step in HEADS[family].get(head or "", ()):
        _add_head(maker, step, prefix, embedding)
    return maker.specs, {"task": {"kind": "classification"}}, _files(family, head)


def models() -> Iterator[Content]:
    """Models of all families, kinds and heads, though not of every combination."""
    yield tiny_model("bert", "SequenceClassification", "int8")
    yield tiny_model("bert", "SequenceClassification", "fp32", density=1.0)
    yield tiny_model("bert", "MaskedLM", "bf16")
    yield tiny_model("roberta", "SequenceClassification", "fp32")
    yield tiny_model("roberta", "TokenClassification", "int8", density=0.9)
    yield tiny_model("distilbert", "QuestionAnswering", "int8")
    yield tiny_model("distilbert", "SequenceClassification", "bf16", density=1.0)
    yield tiny_model("electra", "TokenClassification", "bf16")
    yield tiny_model("electra", None, "int8")


class _Maker:
    """Collects the tensors of a model."""

    def __init__(self, kind: Kind, density: float) -> None:
        self.kind, self.density = kind, density
        self.specs: list[TensorSpec] = []
        self.rng = np.random.default_rng(0)

    def table(self, name: str, rows: int, columns: int) -> None:
        values = self.rng.standard_normal((rows, columns)).astype(np.float32)
        if self.kind == "int8":
            self.specs.append(TensorSpec(name, *_int8(values)))
        elif self.kind == "bf16":
            self.specs.append(TensorSpec(name, to_bf16(values), "dense", dtype="bf16"))
        else:
            self.specs.append(TensorSpec(name, values, "dense"))

    def linear(self, module: str, rows: int, columns: int) -> None:
        seed, role = len(self.specs), role_of(f"{module}.weight")
        name = f"{module}.weight"
        values = samples.sparse_weights(rows, columns, 1 - (self.density if role else 1), seed)
        encoding: Any = "sparse" if role and self.density < 1 else "dense"
        if role and self.kind == "int8":
            codes, scale = samples.quantized(values)
            self.specs.append(TensorSpec(name, codes, encoding, scale, role))
        elif role and self.kind == "bf16":
            self.specs.append(TensorSpec(name, to_bf16(values), encoding, None, role, "bf16"))
        else:
            self.specs.append(TensorSpec(name, values, encoding, None, role))
        self.vector(f"{module}.bias", rows)

    def norm(self, module: str, width: int) -> None:
        self.vector(f"{module}.weight", width)
        self.vector(f"{module}.bias", width)

    def vector(self, name: str, width: int) -> None:
        values = self.rng.standard_normal(width).astype(np.float32)
        self.specs.append(TensorSpec(name, values, "dense"))


def _int8(values: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
    codes, scale = samples.quantized(values)
    return codes, "dense", scale


def _add_head(maker: _Maker, step: Any, prefix: str, embedding: int) -> None:
    """A head's Linear as wide as its place asks for; one tied to the word table has a bias only."""
    module = step.module.replace("*", prefix)
    last = module.split(".")[-1]
    if step.tied:
        maker.vector(step.bias or f"{module}.bias", WORDS)
        return
    ends = last in ("out_proj", "qa_outputs") or (last == "classifier")
    rows = (2 if last == "qa_outputs" else LABELS) if ends else HIDDEN
    if "generator_predictions" in module:
        rows = embedding
    maker.linear(module, rows, HIDDEN)
    if step.norm:
        maker.norm(step.norm.replace("*", prefix), rows)


def _files(family: str, head: str | None) -> dict[str, bytes]:
    suffix = f"For{head}" if head else "Model"
    config: dict[str, Any] = {"model_type": family, "architectures": [f"Tiny{suffix}"]}
    config |= {"max_position_embeddings": POSITIONS, "type_vocab_size": 2, "vocab_size": WORDS}
    config |= {"pad_token_id": 1 if family == "roberta" else 0}
    labels = 2 if head == "QuestionAnswering" else LABELS
    config |= {"id2label": {str(i): f"label {i}" for i in range(labels)}}
    if family == "distilbert":
        config |= {"dim": HIDDEN, "n_layers": 1, "n_heads": 2, "hidden_dim": INNER}
    else:
        config |= {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2}
        config |= {"intermediate_size": INNER, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    if family == "electra":
        config |= {"embedding_size": EMBEDDING}
    vocabulary = "\n".join(_PIECES).encode()
    return {"config.json": json.dumps(config).encode(), "vocab.txt": vocabulary}
