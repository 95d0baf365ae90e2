"""Pruning while training: schedule, criterion and shares joined, called by the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunella.errors import InputError
from prunella.sparsity.criterion import Context, Criterion
from prunella.sparsity.shares import Shares

_LACKING = "lacking"


class Pruning:
    """Chooses masks anew when the schedule says so; the same on every process.

    Args:
        context: Model, masks and schedule.
        criterion: Gives the scores.
        shares: How many weights stay where, and in which shape.
        window: Steps before a choice that a criterion with a window sees.
    """

    def __init__(
        self, context: Context, criterion: Criterion, shares: Shares, window: int = 1
    ) -> None:
        self.masks, self.schedule = context.masks, context.schedule
        self.model, self.criterion, self.shares = context.model, criterion, shares
        self.window = window
        self._lacking = 0  # weights that the last choice would have kept, but the model lacks
        self._real: Tensor | None = None
        self._hooks: list[Any] = []

    @property
    def asked(self) -> tuple[float, float]:
        """The sparsity to reach, and how far whole groups may be from it.

        Where a matrix comes with more zeros than it is to have, the sum has more as well.
        """
        sparsity, rounded = self.shares.asked(self.masks, self.schedule.final)
        total = sum(parameter.numel() for parameter in self.masks.parameters.values())
        return sparsity + self._lacking / total, rounded

    def before_step(self, step: int) -> None:
        """Before the first micro-batch of a step (counted from 1)."""
        self.criterion.before_step(step)
        if self.criterion.inputs and self._sees(step):
            self._hooks = [self._watch(name) for name in self.masks.parameters]

    def before_forward(self, inputs: Mapping[str, Tensor]) -> None:
        """Before a micro-batch: which of its tokens are no padding."""
        self._real = inputs.get("attention_mask")

    def after_backward(self, step: int) -> None:
        """When the gradients of all micro-batches and processes are there."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if not (self.criterion.gradients and self._sees(step)):
            return
        for name, parameter in self.masks.parameters.items():
            if parameter.grad is None:
                module = name.removesuffix(".weight")
                raise InputError(
                    f"{module}: gets no gradient (it is frozen, or no loss uses it), which "
                    f"this score needs; leave it dense with --exclude {module}"
                )
            self.criterion.see_gradient(name, parameter.grad)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """After an optimiser step."""
        if not self.schedule.updates_at(step):
            return
        self._join_sums()
        scores = {name: self._score(name) for name in self.masks.parameters}
        gone = {name: self._gone(name) for name in scores}
        keep = self.shares.choose(scores, self.schedule, step, gone)
        del scores
        self._lacking = sum(int((keep[name] & gone[name]).sum()) for name in keep)
        for name, parameter in self.masks.parameters.items():
            keep[name] &= ~gone[name]
            _broadcast(keep[name].view(torch.uint8))
            moved = self.criterion.remaining(name, keep[name], step)
            self.masks.move({name: keep[name]})
            if moved is not None:
                parameter.copy_(torch.where(keep[name], moved, 0.0))  # a product would leave -0.0
                _broadcast(parameter)
        self.criterion.after_choice(step)
        self.criterion.sums.clear()
        if self.criterion.window:
            self.criterion.state.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """What a restart needs; to be called on all processes, at the same step."""
        self._join_sums()
        if not _is_first():  # what is added up from now on comes on top of the first one's
            for total in self.criterion.sums.values():
                total.zero_()
        parts = {"state": self.criterion.state, "sums": self.criterion.sums}
        held = {
            f"{part}|{name}": tensor.contiguous()
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }
        return held | ({_LACKING: torch.tensor(self._lacking)} if self._lacking else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = next(iter(self.masks.parameters.values())).device
        self.criterion.state.clear()
        self.criterion.sums.clear()
        self._lacking = int(state.get(_LACKING, 0))
        for key, value in state.items():
            if key == _LACKING:
                continue
            part, name = key.split("|", 1)
            value = value.to(device, copy=True)
            if part == "state":
                self.criterion.state[name] = value
            else:
                self.criterion.sums[name] = value if _is_first() else torch.zeros_like(value)

    def _sees(self, step: int) -> bool:
        coming = self.schedule.next_update(step)
        if coming is None:
            return False
        return not self.criterion.window or coming - step < self.window

    def _score(self, name: str) -> Tensor:
        try:
            score = self.criterion.score(name)
        except KeyError as error:
            module = name.removesuffix(".weight")
            raise InputError(
                f"{module}: nothing passes through it, so this score knows nothing of it; leave it "
                f"dense with --exclude {module}"
            ) from error
        kept = self.masks.kept(name)
        if score.shape != kept.shape:
            raise InputError(
                f"{type(self.criterion).__name__}: scores {name} with a tensor of "
                f"{tuple(score.shape)}, and the matrix has {tuple(kept.shape)}"
            )
        if self.criterion.gradients and _all_alike(score[kept]):
            score = self._by_size(name)
        return score

    def _gone(self, name: str) -> Tensor:
        """What cannot be kept: removed weights that may not return, or have no value to return
        with, such as zeros that the model came with."""
        removed = ~self.masks.kept(name)
        return removed & (self.masks.dense(name) == 0) if self.criterion.returns else removed

    def _by_size(self, name: str) -> Tensor:
        """Magnitude instead of a score that has seen nothing yet: a student equals its teacher
        until something goes.

        Raises:
            InputError: In one shot, where nothing better comes later.
        """
        if self.schedule.still:
            raise InputError(
                f"{name}: its gradient is 0 in all of the window, so this score knows nothing of "
                "it: does the student still equal its teacher? Add a loss (--mlm, --labels), or "
                "choose another score"
            )
        return self.masks.dense(name).abs()

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0].detach()
            # Sums of squares in bf16 would not be positive definite.
            with torch.autocast(inputs.device.type, enabled=False):
                self.criterion.see_inputs(name, self._tokens(inputs))

        module = self.model.get_submodule(name.removesuffix(".weight"))
        return module.register_forward_pre_hook(hook)

    def _tokens(self, inputs: Tensor) -> Tensor:
        """[tokens, in] without padding; a pooler's input has one token a row, and no padding."""
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if self._real is None or self._real.numel() != len(rows):
            return rows
        return rows[self._real.reshape(-1).bool()]

    def _join_sums(self) -> None:
        """Adds up what each process saw."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for total in self.criterion.sums.values():
                dist.all_reduce(total)


def _all_alike(scores: Tensor) -> bool:
    return scores.numel() > 1 and bool(scores.amin() == scores.amax())


def _broadcast(tensor: Tensor) -> None:
    """Every process takes the first one's, so that a differing last bit cannot split them."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(tensor, src=0)


def _is_first() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
