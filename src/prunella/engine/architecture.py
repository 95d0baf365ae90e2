"""What the modules of each family are called, and which layers their heads have.

A new family is an entry in each of these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunella.engine.card import Card
from prunella.errors import InputError


@dataclass(frozen=True)
class Names:
    """Modules of an encoder layer, and the stack they lie in."""

    stack: str
    qkv: tuple[str, str, str]
    attention_output: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    output_norm: str


@dataclass(frozen=True)
class HeadLayer:
    """A Linear of a head, and what follows it.

    Attributes:
        module: Name of the Linear; `*` stands for the encoder's name.
        activation: What follows it; "hidden" is the configuration's.
        norm: LayerNorm behind the activation.
        bias: Name of the bias where it is not the Linear's own.
        tied: Matrix that serves where the file has none of the Linear's own.
    """

    module: str
    activation: str = "none"
    norm: str | None = None
    bias: str | None = None
    tied: str | None = None


_BERT = Names(
    stack="encoder.layer",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    output_norm="output.LayerNorm",
)
NAMES: Mapping[str, Names] = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "distilbert": Names(
        stack="transformer.layer",
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_in="ffn.lin1",
        ffn_out="ffn.lin2",
        output_norm="output_layer_norm",
    ),
}

_WORDS = "*embeddings.word_embeddings"
_POOLED = (HeadLayer("*pooler.dense", "tanh"), HeadLayer("classifier"))
_EACH_TOKEN = {
    "TokenClassification": (HeadLayer("classifier"),),
    "QuestionAnswering": (HeadLayer("qa_outputs"),),
}
_BERT_MASKS = (
    HeadLayer(
        "cls.predictions.transform.dense", "hidden", norm="cls.predictions.transform.LayerNorm"
    ),
    HeadLayer("cls.predictions.decoder", bias="cls.predictions.bias", tied=_WORDS),
)
_DISTIL_POOLED = (HeadLayer("pre_classifier", "relu"), HeadLayer("classifier"))
HEADS: Mapping[str, Mapping[str, tuple[HeadLayer, ...]]] = {
    "bert": {
        "SequenceClassification": _POOLED,
        "MultipleChoice": _POOLED,
        "MaskedLM": _BERT_MASKS,
        "PreTraining": _BERT_MASKS,
        **_EACH_TOKEN,
    },
    "roberta": {
        "SequenceClassification": (
            HeadLayer("classifier.dense", "tanh"),
            HeadLayer("classifier.out_proj"),
        ),
        "MultipleChoice": _POOLED,
        "MaskedLM": (
            HeadLayer("lm_head.dense", "gelu", norm="lm_head.layer_norm"),
            HeadLayer("lm_head.decoder", bias="lm_head.bias", tied=_WORDS),
        ),
        **_EACH_TOKEN,
    },
    "distilbert": {
        "SequenceClassification": _DISTIL_POOLED,
        "MultipleChoice": _DISTIL_POOLED,
        "MaskedLM": (
            HeadLayer("vocab_transform", "hidden", norm="vocab_layer_norm"),
            HeadLayer("vocab_projector", tied=_WORDS),
        ),
        **_EACH_TOKEN,
    },
    "electra": {
        "MultipleChoice": (HeadLayer("sequence_summary.summary", "gelu"), HeadLayer("classifier")),
        "SequenceClassification": (
            HeadLayer("classifier.dense", "gelu"),
            HeadLayer("classifier.out_proj"),
        ),
        "MaskedLM": (
            HeadLayer(
                "generator_predictions.dense", "gelu", norm="generator_predictions.LayerNorm"
            ),
            HeadLayer("generator_lm_head", tied=_WORDS),
        ),
        **_EACH_TOKEN,
    },
}

ACTIVATIONS: Mapping[str, str] = {
    "none": "none",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Sizes:
    """What the configuration says of an encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float
    first_position: int


def read_sizes(card: Card) -> Sizes:
    """Reads them.

    Raises:
        InputError: If one is missing or makes no sense, or the engine lacks what it asks for.
    """
    config, distil = card.config, card.family == "distilbert"
    if (kind := config.get("position_embedding_type", "absolute")) != "absolute":
        raise InputError(
            f"{card.path}: position embeddings of type {kind!r}; only absolute ones run"
        )
    try:
        sizes = Sizes(
            layers=int(config["n_layers" if distil else "num_hidden_layers"]),
            hidden=int(config["dim" if distil else "hidden_size"]),
            heads=int(config["n_heads" if distil else "num_attention_heads"]),
            intermediate=int(config["hidden_dim" if distil else "intermediate_size"]),
            activation=_activation(
                config.get("activation" if distil else "hidden_act", "gelu"), card.path
            ),
            epsilon=1e-12 if distil else float(config.get("layer_norm_eps", 1e-12)),
            first_position=_first_position(card),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{card.path}: its config.json makes no sense ({error!r})") from None
    if min(sizes.layers, sizes.hidden, sizes.heads, sizes.intermediate) < 1:
        raise InputError(f"{card.path}: its config.json has a size below 1")
    if not 0 <= sizes.epsilon < 1:
        raise InputError(f"{card.path}: its config.json has a layer_norm_eps of {sizes.epsilon}")
    if sizes.hidden % sizes.heads:
        raise InputError(f"{card.path}: width {sizes.hidden} is no multiple of {sizes.heads} heads")
    return sizes


def activation_named(name: str, card: Card) -> str:
    """The engine's name of an activation, "hidden" being the configuration's."""
    key = "activation" if card.family == "distilbert" else "hidden_act"
    return _activation(card.config.get(key, "gelu") if name == "hidden" else name, card.path)


def _activation(name: Any, path: str) -> str:
    if name not in ACTIVATIONS:
        raise InputError(f"{path}: activation {name!r}; the engine has {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _first_position(card: Card) -> int:
    """RoBERTa counts positions from behind the padding token's id."""
    if card.family != "roberta":
        return 0
    padding = card.config.get("pad_token_id", 1)
    return int(1 if padding is None else padding) + 1
