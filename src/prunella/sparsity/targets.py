"""The matrices of a model that may be pruned, and why the others may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor, nn

from prunella.errors import InputError
from prunella.roles import ROLES, Role, is_embedding, layer_of, role_of

_BY_ACCIDENT = 0.05  # of a table's weights: rounding to 8 bits makes 1 to 2 % zeros


@dataclass(frozen=True)
class Target:
    """One weight matrix of a model.

    `name` is the module's name (the weight is `name + ".weight"`); `reason` says why the matrix
    is left alone and is empty when `pruned`.
    """

    name: str
    role: Role | None
    shape: tuple[int, ...]
    pruned: bool
    reason: str

    @property
    def parameter(self) -> str:
        return f"{self.name}.weight"

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)


def find_targets(
    model: nn.Module, roles: Sequence[str] = ROLES, exclude: Sequence[str] = ()
) -> list[Target]:
    """Lists every weight matrix of `model`, in module order, and whether it is to be pruned.

    Args:
        model: Any transformers model.
        roles: The roles to prune.
        exclude: Names of modules (or of whole sub-trees, "bert.encoder.layer.0") to leave alone.

    Raises:
        InputError: If an exclusion matches nothing, or no matrix of the model has a known role.
    """
    shared = _shared_parameters(model)
    targets = [
        _judge(name, weight, isinstance(module, nn.Linear), roles, exclude, shared)
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 2
    ]
    for pattern in exclude:
        if not any(is_within(target.name, pattern) for target in targets):
            raise InputError(
                f"exclude: '{pattern}' names no module with a weight matrix in this model; "
                f"{name_hint(pattern, [target.name for target in targets])}"
            )
    if not any(target.role for target in targets):
        unresolved = [t.name for t in targets if layer_of(t.name) is not None] or [
            t.name for t in targets
        ]
        listed = ", ".join(unresolved[:6]) + (", ..." if len(unresolved) > 6 else "")
        raise InputError(
            f"could not resolve the matrices of {type(model).__name__}: none of its "
            f"{len(targets)} weight matrices has a known role ({listed}). Supported families: "
            "BERT, RoBERTa, DistilBERT, ELECTRA and models that name their modules alike; "
            "add the endings to prunella/roles.py"
        )
    return targets


def pruned_parameters(model: nn.Module, targets: Sequence[Target]) -> dict[str, nn.Parameter]:
    """The parameters that `targets` marks as pruned, by parameter name, in module order."""
    parameters = dict(model.named_parameters())
    return {t.parameter: parameters[t.parameter] for t in targets if t.pruned}


def sparse_tables(model: nn.Module) -> dict[str, nn.Parameter]:
    """The embedding tables that were pruned, as by `mask --embeddings`, by parameter name.

    Rows that are zero as a whole, as of padding, are no sign of it, nor are zeros of rounding.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and is_embedding(name) and _is_pruned(parameter.detach())
    }


def pattern_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters whose zeros are a pattern to lock: matrices, and tables that were pruned."""
    return pruned_parameters(model, find_targets(model)) | sparse_tables(model)


def freeze_sparse_tables(model: nn.Module) -> None:
    """Keeps the zeros of pruned tables in a run whose masks are those of other matrices."""
    for table in sparse_tables(model).values():
        table.requires_grad_(False)


def unresolved_in_layers(targets: Sequence[Target]) -> list[str]:
    """Linear modules inside the stack of layers that no role covers (worth a warning)."""
    return [t.name for t in targets if t.role is None and t.layer is not None]


def _judge(
    name: str,
    weight: Tensor,
    linear: bool,
    roles: Sequence[str],
    exclude: Sequence[str],
    shared: dict[int, list[str]],
) -> Target:
    role = role_of(name) if linear else None
    owners = shared.get(id(weight), [])
    if len(owners) > 1:
        others = ", ".join(owner for owner in owners if owner != name)
        reason = f"tied to {others}"
    elif not linear:
        reason = "embedding"
    elif role is None:
        reason = "no encoder role (head, projection or unknown)"
    elif role not in roles:
        reason = f"role '{role}' not asked for"
    elif any(is_within(name, pattern) for pattern in exclude):
        reason = "excluded"
    else:
        reason = ""
    return Target(name, role, tuple(weight.shape), reason == "", reason)


def _is_pruned(table: Tensor) -> bool:
    used = table[(table != 0).any(dim=1)]
    return int((used == 0).sum()) > _BY_ACCIDENT * used.numel()


def name_hint(wrong: str, names: Sequence[str]) -> str:
    """ "did you mean 'x'?", or some of the names that there are."""
    words = [name.split(".") for name in names]  # sub-trees are names as well
    parts = {".".join(each[: i + 1]): None for each in words for i in range(len(each))}
    close = get_close_matches(wrong, list(parts), n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names[:3])}, ..."


def is_within(name: str, prefix: str) -> bool:
    """Whether a module is that of `prefix`, or in its sub-tree."""
    return name == prefix or name.startswith(prefix + ".")


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            owners.setdefault(id(weight), []).append(name)
    return owners
