"""Kept but disconnected weights; heads and neurons that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunella.study.about import About

ABOUT = About(
    "A kept weight does something only on a path of kept weights from a layer's input to its "
    "output. In the FFN a path leads through one neuron: a row of FFN in and the same column of "
    "FFN out. In attention a value leads through one dimension of a head: a row of value, the "
    "same column of the output; query and key meet in a dimension that both feed, a query also by "
    "its bias, and matter only while their head's values get through. Effective density counts "
    "the weights on such paths alone; a neuron or head is gone where no path leads through it, "
    "empty where it keeps no weight at all. A head is uniform where its scores are the same for "
    "every token: its key, or its query with its bias, is empty in every dimension.",
    "effective sparsity: Vysogorets and Kempe 2021 (arXiv 2107.02306); heads: Michel et al. 2019 "
    "(arXiv 1905.10650), Voita et al. 2019 (arXiv 1905.09418). Their paths, stated here for a "
    "Transformer: the residual stream carries every dimension past every layer, so paths are "
    "judged within a layer.",
    "Biases are not counted as weights: a neuron without inputs still gives a constant. Masks of "
    "tasks may lack the query's bias, which then counts as not zero. Relative positions, which "
    "some families add to scores, are not looked at. A path of tiny weights counts as much as any "
    "other.",
)

_NEEDED = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")


@dataclass(frozen=True)
class Margins:
    """How many weights each row (fan_in) and each column (fan_out) of a matrix keeps."""

    fan_in: np.ndarray
    fan_out: np.ndarray

    @property
    def kept(self) -> int:
        return int(self.fan_in.sum())


@dataclass(frozen=True)
class Connections:
    """Of one layer, or summed over all.

    Attributes:
        neurons, neurons_gone, neurons_empty: Of the FFN.
        heads, heads_gone, heads_empty: Of attention; 0 where heads are unknown.
        uniform_heads: Heads whose scores are the same for every token, so that all count alike.
        kept: Weights that are kept.
        disconnected: Those of them on no path, by component.
    """

    neurons: int
    neurons_gone: int
    neurons_empty: int
    heads: int
    heads_gone: int
    heads_empty: int
    uniform_heads: int
    kept: int
    disconnected: dict[str, int]

    @property
    def disconnected_total(self) -> int:
        return sum(self.disconnected.values())


def connections(
    layer: Mapping[str, Margins], heads: int | None, biased: np.ndarray | None = None
) -> Connections | None:
    """Judges one layer.

    Args:
        layer: The margins of its matrices, by component.
        heads: Attention heads; None where unknown: all dimensions are then one head.
        biased: Where the query's bias is not zero; None where unknown: it is then nowhere zero.

    Returns:
        None where a matrix of the six is missing, or where dimensions do not fit heads.
    """
    if any(name not in layer for name in _NEEDED):
        return None
    query, key, value = (layer[name].fan_in for name in ("query", "key", "value"))
    read = layer["attention_output"].fan_out
    groups = heads or 1
    if not (query.size == key.size == value.size == read.size) or value.size % groups:
        return None
    alive_value = (value > 0) & (read > 0)
    alive_head = alive_value.reshape(groups, -1).any(axis=1)
    # The softmax drops what is the same for all tokens: of (q + b) (k + c), q c and b c.
    asking = (query > 0) | biased if biased is not None and biased.size == query.size else True
    alive_score = asking & (key > 0)
    uniform = ~alive_score.reshape(groups, -1).any(axis=1)
    alive_score &= np.repeat(alive_head, query.size // groups)
    empty_head = ~((query + key + value + read).reshape(groups, -1) > 0).any(axis=1)
    into, out_of = layer["ffn_in"].fan_in, layer["ffn_out"].fan_out
    if into.size != out_of.size:
        return None
    alive = (into > 0) & (out_of > 0)
    return Connections(
        neurons=into.size,
        neurons_gone=_count(~alive),
        neurons_empty=_count((into == 0) & (out_of == 0)),
        heads=heads or 0,
        heads_gone=_count(~alive_head) if heads else 0,
        heads_empty=_count(empty_head) if heads else 0,
        uniform_heads=_count(uniform & alive_head) if heads else 0,
        kept=sum(layer[name].kept for name in _NEEDED),
        disconnected={
            "query": int(query[~alive_score].sum()),
            "key": int(key[~alive_score].sum()),
            "value": int(value[~alive_value].sum()),
            "attention_output": int(read[~alive_value].sum()),
            "ffn_in": int(into[~alive].sum()),
            "ffn_out": int(out_of[~alive].sum()),
        },
    )


def _count(flags: npt.ArrayLike) -> int:
    return int(np.count_nonzero(flags))
