"""Which shape may go: groups of weights that stay or go together.

A pattern turns scores of weights into scores of groups, and a choice of groups into masks. The
groups of a key (a matrix, or for structured patterns a layer) are all of one size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunella.errors import InputError
from prunella.roles import ROLES, Role
from prunella.sparsity.targets import Target

Tensors = dict[str, Tensor]
HEADS, NEURONS = "heads", "neurons"
# The last one reads what a unit makes.
_ROLES: dict[str, tuple[Role, ...]] = {
    HEADS: ("query", "key", "value", "attention_output"),
    NEURONS: ("ffn_in", "ffn_out"),
}


class Pattern(Protocol):
    """A shape of groups."""

    def groups(self, scores: Mapping[str, Tensor]) -> Tensors:
        """Sums of scores over groups, from scores of weights by matrix: [rows, columns]."""
        ...

    def masks(self, keep: Mapping[str, Tensor]) -> Tensors:
        """Masks of weights by matrix, from a choice of groups."""
        ...

    def first(self, groups: Mapping[str, Tensor]) -> Tensors | None:
        """The groups that must be chosen before all others; None if the score alone decides."""
        ...


class Blocks:
    """Blocks of `rows` outputs by `columns` inputs; 1x1 are single weights."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def groups(self, scores: Mapping[str, Tensor]) -> Tensors:
        if self.rows == self.columns == 1:
            return dict(scores)
        return {
            name: score.unflatten(1, (-1, self.columns)).unflatten(0, (-1, self.rows)).sum((1, 3))
            for name, score in scores.items()
        }

    def masks(self, keep: Mapping[str, Tensor]) -> Tensors:
        return {
            name: kept.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
            for name, kept in keep.items()
        }

    def first(self, groups: Mapping[str, Tensor]) -> Tensors | None:
        return None


class NOfM(Blocks):
    """Of each `m` neighbouring inputs of an output at most `n` stay.

    While sparsity grows, the best `n` of each `m` stay before any other, so at the sparsity that
    the pattern has, 1 - n/m, it holds everywhere, and beyond that as well.
    """

    def __init__(self, n: int, m: int) -> None:
        super().__init__(1, 1)
        self.n, self.m = n, m

    def first(self, groups: Mapping[str, Tensor]) -> Tensors | None:
        best: Tensors = {}
        for name, scores in groups.items():
            by_m = scores.reshape(-1, self.m)
            order = by_m.argsort(dim=1, descending=True, stable=True)[:, : self.n]
            mask = torch.zeros_like(by_m, dtype=torch.bool).scatter_(1, order, True)
            best[name] = mask.reshape(scores.shape)
        return best


class Units:
    """Heads or neurons: slices of several matrices of a layer that make one unit.

    Args:
        kind: `HEADS` or `NEURONS`.
        layers: For each layer, its matrices, and the axis along which their units lie: 0 where a
            unit makes outputs, 1 where its outputs are read.
        shapes: Of all matrices.
        counts: Units of each layer.
    """

    def __init__(
        self,
        kind: str,
        layers: Mapping[str, Mapping[str, int]],
        shapes: Mapping[str, torch.Size],
        counts: Mapping[str, int],
    ) -> None:
        self.kind = kind
        self.layers, self.shapes, self.counts = layers, shapes, counts

    def groups(self, scores: Mapping[str, Tensor]) -> Tensors:
        return {
            layer: torch.stack(
                [
                    scores[name].sum(1 - axis).view(self.counts[layer], -1).sum(1, keepdim=True)
                    for name, axis in members.items()
                ]
            ).sum(0)
            for layer, members in self.layers.items()
        }

    def masks(self, keep: Mapping[str, Tensor]) -> Tensors:
        found: Tensors = {}
        for layer, members in self.layers.items():
            for name, axis in members.items():
                shape = self.shapes[name]
                along = keep[layer].reshape(-1).repeat_interleave(shape[axis] // self.counts[layer])
                line = along.unsqueeze(1) if axis == 0 else along.unsqueeze(0)
                found[name] = line.expand(shape).contiguous()
        return found

    def first(self, groups: Mapping[str, Tensor]) -> Tensors | None:
        return None


def pattern_roles(pattern: str) -> Sequence[Role]:
    """The roles of the matrices that a pattern acts on."""
    return _ROLES.get(pattern, ROLES)


def make_pattern(text: str, model: nn.Module, targets: Sequence[Target]) -> Pattern:
    """The pattern that a setting names, for the matrices that `targets` marks as pruned.

    Raises:
        InputError: If it does not fit the matrices.
    """
    chosen = [target for target in targets if target.pruned]
    if text in _ROLES:
        return _units(text, model, chosen)
    first, second = (int(number) for number in re.findall(r"\d+", text))
    rows, columns = (1, second) if ":" in text else (first, second)
    for target in chosen:
        if target.shape[0] % rows or target.shape[1] % columns:
            raise InputError(
                f"pattern {text}: {target.name} is {target.shape[0]} x {target.shape[1]} (outputs "
                "x inputs), which is no whole number of groups; take a smaller pattern, or leave "
                f"the matrix dense with --exclude {target.name}"
            )
    return NOfM(first, second) if ":" in text else Blocks(first, second)


def _units(text: str, model: nn.Module, targets: Sequence[Target]) -> Units:
    roles = pattern_roles(text)
    layers: dict[str, dict[str, Target]] = {}
    for target in targets:
        if target.role and target.role in roles and target.layer is not None:
            layers.setdefault(f"layer {target.layer}", {})[target.role] = target
    for layer, members in layers.items():
        missing = [role for role in roles if role not in members]
        if missing:
            raise InputError(
                f"pattern {text}: {layer} lacks {', '.join(missing)}; {text} go from "
                f"{', '.join(roles)} together, so leave --roles out and exclude whole layers only"
            )
    last = roles[-1]
    config: Any = model.config
    per_layer = config.num_attention_heads if text == HEADS else None
    return Units(
        text,
        {
            layer: {m.parameter: 1 if role == last else 0 for role, m in members.items()}
            for layer, members in layers.items()
        },
        {t.parameter: torch.Size(t.shape) for t in targets},
        {layer: per_layer or members[last].shape[1] for layer, members in layers.items()},
    )
