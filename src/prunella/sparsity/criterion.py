"""What is least important: the one interface of all criteria.

A criterion is one file in `criteria/`, named as in `--score`, with a class like this one and
`CRITERION` naming it. It gives a score to every weight; which shape may go (`patterns`), how many
where (`selection`) and when (`schedules`) are none of its business.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn

from prunella.errors import InputError
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import PruningSchedule
from prunella.validation import suggestion

_FOLDER = "prunella.sparsity.criteria"


@dataclass(frozen=True)
class Context:
    """The run that a criterion serves. Matrices go by parameter name throughout."""

    model: nn.Module
    masks: Masks
    schedule: PruningSchedule
    seed: int


class Criterion:
    """Scores of weights, and what they are made from. Only `score` must be overridden.

    A parameter holds w * m, with zeros in place, while it trains. So its gradient is dL/d(w * m),
    also where m is 0, and dL/dm is that times the dense weight w, straight through.

    Attributes:
        gradients: Whether `see_gradient` is to be called.
        inputs: Whether `see_inputs` is to be called.
        window: Whether it sees only the last steps before each choice, and starts anew after it.
        update_every: Interval between choices that suits it, below 1 a share of all steps.
        returns: Whether a removed weight may come back, with the value that it had. Otherwise
            scores must not be negative.
        state: What must survive a restart, by any name; the same on every process.
        sums: What `see_inputs` adds up, where each process knows its own part; joined before
            scores are asked for, and forgotten after each choice.
    """

    gradients: ClassVar[bool] = False
    inputs: ClassVar[bool] = False
    window: ClassVar[bool] = True
    returns: ClassVar[bool] = True
    update_every: ClassVar[float] = 0.01

    def __init__(self, context: Context) -> None:
        self.context, self.masks = context, context.masks
        self.state: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}

    def score(self, name: str) -> Tensor:
        """Importance of each weight of a matrix, [out, in]: the lowest go first."""
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Before the first micro-batch of an optimiser step (counted from 1)."""

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        """dL/d(w * m), [out, in], of a whole step, the mean over processes; may be changed."""

    def see_inputs(self, name: str, inputs: Tensor) -> None:
        """What a matrix multiplies in a micro-batch: [tokens, in], float32, without padding."""

    def remaining(self, name: str, keep: Tensor, step: int) -> Tensor | None:
        """Weights that make up for the removed ones, [out, in]; None leaves them as they are.

        Args:
            name: The matrix; its parameter is as it was before the choice.
            keep: The choice, True where a weight stays.
            step: The step after which it was made.
        """

    def after_choice(self, step: int) -> None:
        """After all matrices have their new masks."""


def criterion_kind(name: str) -> type[Criterion]:
    """The class in a file of `criteria/`.

    Raises:
        InputError: If the file cannot be imported, or does not say which class it is.
    """
    try:
        found = import_module(f"{_FOLDER}.{name}")
    except Exception as error:
        raise InputError(
            f"score '{name}': its file cannot be imported ({type(error).__name__}: {error})"
        ) from error
    kind = getattr(found, "CRITERION", None)
    if not (isinstance(kind, type) and issubclass(kind, Criterion)):
        raise InputError(
            f"{found.__file__}: says CRITERION of no class; end it with CRITERION = THE_CLASS, a "
            "subclass of Criterion"
        )
    return kind


def learns(name: str) -> bool:
    """Whether a criterion's scores learn, step by step, while the model trains."""
    kind = criterion_kind(name)
    return kind.gradients and not kind.window


def load_criterion(name: str, context: Context, options: Mapping[str, float]) -> Criterion:
    """The criterion of a name; `options` are the further arguments of its class.

    Raises:
        InputError: If it has no such option, or refuses the value.
    """
    kind = criterion_kind(name)
    known = [key for key in inspect.signature(kind).parameters if key != "context"]
    for key in options:
        if key not in known:
            hint = suggestion(key, known) if known else "it has none"
            raise InputError(f"score_options: '{name}' has no option '{key}'; {hint}")
    try:
        return kind(context, **options)
    except ValueError as error:
        raise InputError(f"score_options of '{name}': {error}") from None


def pseudo_random(shape: torch.Size, *seeds: object) -> Tensor:
    """Uniform numbers in [0, 1), the same for the same seeds on every machine and process."""
    generator = torch.Generator().manual_seed(_hash(seeds))
    return torch.rand(shape, generator=generator)


def _hash(seeds: tuple[object, ...]) -> int:

    # Not hash(), which of a string differs between processes.
    return crc32("|".join(map(str, seeds)).encode())
