"""The forward pass of a packed file in plain numpy: what the native engine must agree with.

Matrices that are stored in int8 are multiplied as `prunella.grid` says, everything else in
float32. It keeps the contract of `prunella.engine.runner.Runner` and is slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunella.engine.card import Card, read_card
from prunella.grid import reference_linear
from prunella.packed.dense import dense_array
from prunella.packed.read import PackedFile

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Rows = Literal["first", "all", "masks"]


@dataclass(frozen=True)
class Layer:
    """Linear, then activation, then LayerNorm.

    Attributes:
        weight: Name of the Linear; PREFIX stands for the encoder's name.
        activation: A name of ACTIVATIONS; "hidden" is the one of the configuration.
        norm: Name of the LayerNorm that follows, if any.
        bias: Name of the bias where it is not the Linear's own.
        tied: Matrix that serves where the Linear has none of its own.
    """

    weight: str
    activation: str | None = None
    norm: str | None = None
    bias: str | None = None
    tied: str | None = None


@dataclass(frozen=True)
class Head:
    """The layers behind the encoder, and the tokens that go through them."""

    rows: Rows
    layers: tuple[Layer, ...]


PREFIX = {
    "bert": "bert",
    "roberta": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
}
_WORDS = "PREFIX.embeddings.word_embeddings.weight"
_POOLED = Head("first", (Layer("PREFIX.pooler.dense", "tanh"), Layer("classifier")))
_TAGS = Head("all", (Layer("classifier"),))
_SPAN = Head("all", (Layer("qa_outputs"),))
_BERT_MASKS = Head(
    "masks",
    (
        Layer(
            "cls.predictions.transform.dense", "hidden", norm="cls.predictions.transform.LayerNorm"
        ),
        Layer("cls.predictions.decoder", bias="cls.predictions.bias", tied=_WORDS),
    ),
)
HEADS: dict[tuple[str, str], Head] = {
    ("bert", "SequenceClassification"): _POOLED,
    ("bert", "MultipleChoice"): _POOLED,
    ("bert", "TokenClassification"): _TAGS,
    ("bert", "QuestionAnswering"): _SPAN,
    ("bert", "MaskedLM"): _BERT_MASKS,
    ("bert", "PreTraining"): _BERT_MASKS,
    ("roberta", "SequenceClassification"): Head(
        "first", (Layer("classifier.dense", "tanh"), Layer("classifier.out_proj"))
    ),
    ("roberta", "MultipleChoice"): _POOLED,
    ("roberta", "TokenClassification"): _TAGS,
    ("roberta", "QuestionAnswering"): _SPAN,
    ("roberta", "MaskedLM"): Head(
        "masks",
        (
            Layer("lm_head.dense", "gelu", norm="lm_head.layer_norm"),
            Layer("lm_head.decoder", bias="lm_head.bias", tied=_WORDS),
        ),
    ),
    ("distilbert", "SequenceClassification"): Head(
        "first", (Layer("pre_classifier", "relu"), Layer("classifier"))
    ),
    ("distilbert", "MultipleChoice"): Head(
        "first", (Layer("pre_classifier", "relu"), Layer("classifier"))
    ),
    ("distilbert", "TokenClassification"): _TAGS,
    ("distilbert", "QuestionAnswering"): _SPAN,
    ("distilbert", "MaskedLM"): Head(
        "masks",
        (
            Layer("vocab_transform", "hidden", norm="vocab_layer_norm"),
            Layer("vocab_projector", tied=_WORDS),
        ),
    ),
    ("electra", "MultipleChoice"): Head(
        "first", (Layer("sequence_summary.summary", "gelu"), Layer("classifier"))
    ),
    ("electra", "SequenceClassification"): Head(
        "first", (Layer("classifier.dense", "gelu"), Layer("classifier.out_proj"))
    ),
    ("electra", "TokenClassification"): _TAGS,
    ("electra", "QuestionAnswering"): _SPAN,
    ("electra", "MaskedLM"): Head(
        "masks",
        (
            Layer("generator_predictions.dense", "gelu", norm="generator_predictions.LayerNorm"),
            Layer("generator_lm_head", tied=_WORDS),
        ),
    ),
}


@dataclass(frozen=True)
class Names:
    """What the modules of a family are called."""

    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    output_norm: str


_BERT_NAMES = Names(
    "encoder.layer",
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
NAMES = {
    "bert": _BERT_NAMES,
    "roberta": _BERT_NAMES,
    "electra": _BERT_NAMES,
    "distilbert": Names(
        "transformer.layer",
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ),
}


def _erf(x: Floats) -> Floats:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape).astype(np.float32)


def _gelu(x: Floats) -> Floats:
    return x * np.float32(0.5) * (1 + _erf(x / np.float32(math.sqrt(2))))


def _gelu_tanh(x: Floats) -> Floats:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return x * np.float32(0.5) * (1 + np.tanh(inner))


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "tanh": np.tanh,
}


@dataclass(frozen=True)
class Shape:
    """Sizes and constants of a model."""

    layers: int
    heads: int
    activation: str
    epsilon: float

    @classmethod
    def of(cls, card: Card) -> Shape:
        config = card.config
        if card.family == "distilbert":
            return cls(config["n_layers"], config["n_heads"], config["activation"], 1e-12)
        return cls(
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["hidden_act"],
            config["layer_norm_eps"],
        )


class ReferenceRunner:
    """A packed file as a `Runner`."""

    def __init__(self, packed: PackedFile) -> None:
        self.packed = packed
        self.card = read_card(packed)
        self.shape = Shape.of(self.card)
        self.head = HEADS.get((self.card.family, self.card.head or ""))
        self.names = NAMES[self.card.family]
        self.prefix = PREFIX[self.card.family] + "." if self._has_prefix() else ""
        self._arrays: dict[str, Any] = {}
        self.calls: list[int] = []  # tokens of each call, for tests of batching

    def _has_prefix(self) -> bool:
        return any(name.startswith(PREFIX[self.card.family] + ".") for name in self.packed.names)

    @property
    def hidden(self) -> int:
        return self._array(f"{self._layer(0)}.{self.names.output_norm}.weight").shape[0]

    @property
    def width(self) -> int:
        if self.head is None:
            return self.hidden
        return self._weight(self.head.layers[-1]).shape[0]

    @property
    def memory(self) -> int:
        return sum(self._array(name).nbytes for name in self.packed.names)

    def describe(self) -> list[dict[str, Any]]:
        return [
            {"matrix": name, "kernel": "reference"}
            for name in self.packed.names
            if "weight" in name
        ]

    def run(self, ids: Ints, types: Ints, lengths: Ints, rows: Ints) -> Floats:
        states = self.hidden_states(ids, types, lengths)[rows]
        for layer in self.head.layers if self.head else ():
            states = self._head_layer(states, layer)
        return states

    def hidden_states(self, ids: Ints, types: Ints, lengths: Ints) -> Floats:
        for array in (ids, types, lengths):
            assert array.dtype == np.int32 and array.ndim == 1
        assert lengths.sum() == len(ids) == len(types) and (lengths > 0).all()
        self.calls.append(len(ids))
        x = self._embed(ids, types, lengths)
        for number in range(self.shape.layers):
            x = self._encoder_layer(x, lengths, self._layer(number))
        return x

    def _embed(self, ids: Ints, types: Ints, lengths: Ints) -> Floats:
        where = self.prefix + "embeddings"
        positions = np.concatenate([np.arange(length) for length in lengths])
        if self.card.family == "roberta":
            positions = positions + self.card.config["pad_token_id"] + 1
        x = self._array(f"{where}.word_embeddings.weight")[ids]
        if self.card.family != "distilbert":
            x = x + self._array(f"{where}.token_type_embeddings.weight")[types]
        x = x + self._array(f"{where}.position_embeddings.weight")[positions]
        x = self._norm(x, f"{where}.LayerNorm")
        project = f"{self.prefix}embeddings_project"
        return self._linear(x, project) if f"{project}.weight" in self.packed.names else x

    def _encoder_layer(self, x: Floats, lengths: Ints, where: str) -> Floats:
        names = self.names
        q, k, v = (self._linear(x, f"{where}.{n}") for n in (names.query, names.key, names.value))
        ends = np.cumsum(lengths)[:-1]
        mixed = np.concatenate(
            [
                self._attend(*parts)
                for parts in zip(*(np.split(part, ends) for part in (q, k, v)), strict=True)
            ]
        )
        attended = self._linear(mixed, f"{where}.{names.attention_output}")
        x = self._norm(attended + x, f"{where}.{names.attention_norm}")
        inner = ACTIVATIONS[self.shape.activation](self._linear(x, f"{where}.{names.ffn_in}"))
        return self._norm(
            self._linear(inner, f"{where}.{names.ffn_out}") + x, f"{where}.{names.output_norm}"
        )

    def _attend(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """One sequence: [T, hidden] each."""
        tokens, hidden = q.shape
        q, k, v = (a.reshape(tokens, self.shape.heads, -1).transpose(1, 0, 2) for a in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(q.shape[-1]))
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = powers / powers.sum(axis=-1, keepdims=True) @ v
        return mixed.transpose(1, 0, 2).reshape(tokens, hidden)

    def _head_layer(self, x: Floats, layer: Layer) -> Floats:
        name = self._name(layer.weight)
        if f"{name}.weight" in self.packed.names:
            x = self._linear(x, name, self._name(layer.bias) if layer.bias else None)
        else:
            bias = self._name(layer.bias) if layer.bias else f"{name}.bias"
            x = x @ self._weight(layer).T + self._array(bias)
        if layer.activation:
            kind = self.shape.activation if layer.activation == "hidden" else layer.activation
            x = ACTIVATIONS[kind](x)
        return self._norm(x, self._name(layer.norm)) if layer.norm else x

    def _weight(self, layer: Layer) -> Floats:
        name = f"{self._name(layer.weight)}.weight"
        if name not in self.packed.names:
            assert layer.tied
            name = self._name(layer.tied)
        return self._array(name)

    def _linear(self, x: Floats, name: str, bias: str | None = None) -> Floats:
        shift = self._array(bias or f"{name}.bias")
        weight = f"{name}.weight"
        scale = self.packed.scale(weight)
        if scale is not None and self.packed.info(weight).role:
            return reference_linear(x, self.packed.tensor(weight), scale, shift)
        return x @ self._array(weight).T + shift

    def _norm(self, x: Floats, name: str) -> Floats:
        mean = x.mean(axis=-1, keepdims=True)
        variance = np.square(x - mean).mean(axis=-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + np.float32(self.shape.epsilon))
        return scaled * self._array(f"{name}.weight") + self._array(f"{name}.bias")

    def _layer(self, number: int) -> str:
        return f"{self.prefix}{self.names.layer}.{number}"

    def _name(self, name: str) -> str:
        return name.replace("PREFIX.", self.prefix)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = dense_array(self.packed, name)
        return self._arrays[name]
