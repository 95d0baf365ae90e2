"""Removed neurons leave the model: its matrices become smaller, and so does its configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunella.errors import InputError
from prunella.sparsity.patterns import NEURONS, Units
from prunella.sparsity.pruning import Pruning

# Where families name the width of the FFN.
_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim")


def check_removal(model: Any, units: Units, scope: str) -> None:
    """Checks that layers will stay alike, since a configuration has one width for all of them.

    Raises:
        InputError: If they will not, or the configuration is of an unknown kind.
    """
    if scope != "uniform":
        raise InputError(
            "pattern neurons needs --scope uniform: neurons are cut out, and a configuration of "
            "transformers has one width of the FFN for all layers"
        )
    layers = getattr(model.config, "num_hidden_layers", len(units.layers))
    if len(units.layers) != layers:
        raise InputError(
            f"pattern neurons: --exclude leaves {len(units.layers)} of {layers} layers, but a "
            "configuration of transformers has one width of the FFN for all layers"
        )
    if _width(model.config) is None:
        raise InputError(
            f"pattern neurons: {type(model.config).__name__} has none of {', '.join(_WIDTHS)}, so "
            "the width of its FFN cannot be changed"
        )


@torch.no_grad()
def remove_neurons(model: Any, units: Units, keep: dict[str, Tensor]) -> int:
    """Cuts neurons out of a model in place; what it computes stays the same.

    Args:
        model: To be cut; the weights that read a removed neuron must be 0.
        units: Its neurons.
        keep: For each layer, [neurons] or [neurons, 1], True where one stays.

    Returns:
        Neurons that each layer has now.
    """
    width = 0
    for layer, members in units.layers.items():
        kept = keep[layer].reshape(-1).nonzero().squeeze(1)
        width = len(kept)
        for name, axis in members.items():
            linear = model.get_submodule(name.removesuffix(".weight"))
            linear.weight = nn.Parameter(linear.weight.index_select(axis, kept))
            if axis == 0:
                linear.out_features = width
                if linear.bias is not None:
                    linear.bias = nn.Parameter(linear.bias.index_select(0, kept))
            else:
                linear.in_features = width
    setattr(model.config, _width(model.config) or _WIDTHS[0], width)
    return width


def finish(model: Any, pruning: Pruning | None) -> dict[str, Any]:
    """Cuts out what the pattern of a finished pruning removes whole.

    Returns:
        What the provenance says of it; empty if nothing was cut.
    """
    units = pruning.shares.pattern if pruning else None
    if pruning is None or not isinstance(units, Units) or units.kind != NEURONS:
        return {}
    masks = {name: pruning.masks.kept(name) for name in pruning.masks.parameters}
    alive = units.groups({name: mask.float() for name, mask in masks.items()})
    before = next(iter(units.counts.values()))
    after = remove_neurons(model, units, {layer: group > 0 for layer, group in alive.items()})
    return {"removed": {"neurons_before": before, "neurons": after, "layers": len(units.layers)}}


def _width(config: Any) -> str | None:
    return next((name for name in _WIDTHS if name in config.to_dict()), None)
