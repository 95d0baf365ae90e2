"""A value of every matrix as a heat map, such as its sparsity: a row a layer, a column a role."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunella.report.html import environment
from prunella.roles import ROLES, layer_of

_HEADINGS = {
    "attention_output": ("attention", "output"),
    "ffn_in": ("FFN in",),
    "ffn_out": ("FFN out",),
}
_COLOUR_STEPS = 5


@dataclass(frozen=True)
class Square:
    """One cell: its place in rows and columns, its number, its strength in [0, 1]."""

    row: int
    column: int
    text: str
    strength: float
    tip: str


@dataclass(frozen=True)
class Entry:
    """A value with its place: a layer (None outside the stack) and a role.

    `text` is what the cell shows, `tip` what it says on hover.
    """

    layer: int | None
    role: str
    value: float
    text: str
    tip: str


@dataclass(frozen=True)
class Scale:
    """What colours mean: from `low`, the faintest, to `high`.

    Attributes:
        label: Of the legend, with the unit ("zeros, %").
        factor: Of the numbers in the legend: 100 for percent.
    """

    low: float
    high: float
    label: str
    factor: float = 1.0


def sparsity_by_matrix(sparsity: Mapping[str, float], roles: Mapping[str, str]) -> str:
    """Heat map of the share of zeros, layer by role.

    Args:
        sparsity: Share of zeros in [0, 1] of each matrix, by its name.
        roles: The role of each matrix (`prunella.roles.role_of`); those without one are left out.

    Returns:
        An `svg` element. Where several matrices share a layer and a role, the cell shows their
        mean and names each on hover.

    Raises:
        ValueError: No matrix has a role.
    """
    places: dict[tuple[int | None, str], list[str]] = {}
    for name in sparsity:
        if name in roles:
            places.setdefault((layer_of(name), roles[name]), []).append(name)
    if not places:
        raise ValueError("no matrix with a role, so there is nothing to draw")
    low, high = share_range([sparsity[name] for names in places.values() for name in names])
    entries = []
    for (layer, role), names in places.items():
        value = math.fsum(sparsity[name] for name in names) / len(names)
        tip = "\n".join(f"{name}: {sparsity[name]:.2%} zeros" for name in names)
        entries.append(Entry(layer, role, value, f"{100 * value:.1f}", tip))
    return heat_map(entries, Scale(low, high, "zeros, %", 100))


def heat_map(entries: Sequence[Entry], scale: Scale) -> str:
    """An `svg` element with a row a layer and a column a role; the rest has rows below."""
    columns = _ordered_roles({entry.role for entry in entries if entry.layer is not None})
    layers = sorted({entry.layer for entry in entries if entry.layer is not None})
    outside = _ordered_roles({entry.role for entry in entries if entry.layer is None})
    rows = [str(layer) for layer in layers] + outside
    span = scale.high - scale.low
    squares = [
        Square(
            row=rows.index(entry.role if entry.layer is None else str(entry.layer)),
            column=0 if entry.layer is None else columns.index(entry.role),
            text=entry.text,
            strength=round(min(1.0, max(0.0, (entry.value - scale.low) / span)), 3),
            tip=entry.tip,
        )
        for entry in entries
    ]
    steps = [step / (_COLOUR_STEPS - 1) for step in range(_COLOUR_STEPS)]
    template = environment().get_template("heat_map.svg.jinja")
    return template.render(
        columns=[_HEADINGS.get(role, (role.replace("_", " "),)) for role in columns or outside[:1]],
        rows=[row.replace("_", " ") for row in rows],
        layers=len(layers),
        squares=squares,
        label=scale.label,
        legend=[(step, f"{scale.factor * (scale.low + span * step):.3g}") for step in steps],
    )


def _ordered_roles(present: set[str]) -> list[str]:
    known = [role for role in ROLES if role in present]
    return known + sorted(present.difference(ROLES))


def share_range(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the colours: whole tenths around the values, at least two tenths apart."""
    low = math.floor(min(values) * 10 + 1e-9) / 10
    high = math.ceil(max(values) * 10 - 1e-9) / 10
    while high - low < 0.2 - 1e-9:
        low, high = max(0.0, round(low - 0.1, 1)), min(1.0, round(high + 0.1, 1))
    return low, high
