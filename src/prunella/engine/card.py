"""What a packed file says of its model: family, head, labels, how long its texts may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunella.errors import InputError
from prunella.packed.read import Weights

# Those of one family have the same layers and the same names of their weights.
FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
}


@dataclass(frozen=True)
class Card:
    """A model's description.

    Attributes:
        path: The packed file, for errors.
        family: bert, roberta, distilbert or electra.
        architecture: The class of transformers that it was saved from.
        head: The architecture's part behind "For", such as "SequenceClassification"; None if
            there is none.
        problem: `problem_type` of the configuration.
        labels: Names of the head's outputs.
        positions: Tokens of a sequence at most, special ones included.
        token_types: Whether the model tells first and second text apart.
        record: What was recorded of the task that the model was trained for.
        config: The whole configuration.
    """

    path: str
    family: str
    architecture: str
    head: str | None
    problem: str | None
    labels: tuple[str, ...]
    positions: int
    token_types: bool
    record: Mapping[str, Any]
    config: Mapping[str, Any]


def read_card(packed: Weights) -> Card:
    """Reads the configuration of a packed file.

    Raises:
        InputError: If it has none, or is of a family that the engine does not run.
    """
    config = _config(packed)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"{packed.path}: a model of type {kind!r}; the engine runs {', '.join(FAMILIES)}"
        )
    try:
        architecture = str((config.get("architectures") or [None])[0] or "")
        _, found, head = architecture.partition("For")
        return Card(
            path=str(packed.path),
            family=FAMILIES[kind],
            architecture=architecture,
            head=head if found else None,
            problem=config.get("problem_type"),
            labels=_labels(config),
            positions=_positions(config),
            token_types=kind != "distilbert" and int(config.get("type_vocab_size", 2)) > 1,
            record=packed.metadata.get("task") or {},
            config=config,
        )
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise InputError(f"{packed.path}: its config.json makes no sense ({error!r})") from None


def _config(packed: Weights) -> dict[str, Any]:
    try:
        config = json.loads(packed.files["config.json"])
    except (KeyError, ValueError, RecursionError):
        raise InputError(
            f"{packed.path}: carries no readable config.json; pack the checkpoint again"
        ) from None
    if not isinstance(config, dict):
        raise InputError(f"{packed.path}: its config.json is not a JSON object")
    return config


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if not named:
        return tuple(f"LABEL_{i}" for i in range(int(config.get("num_labels", 2))))
    by_number = {int(number): str(name) for number, name in named.items()}
    return tuple(by_number[i] for i in range(len(by_number)))


def _positions(config: Mapping[str, Any]) -> int:
    """RoBERTa counts positions from behind the padding token's id."""
    positions = int(config.get("max_position_embeddings", 512))
    if FAMILIES[config["model_type"]] == "roberta":
        padding = config.get("pad_token_id", 1)
        positions -= int(1 if padding is None else padding) + 1
    if positions < 1:
        raise ValueError(f"max_position_embeddings leaves {positions} positions")
    return positions
