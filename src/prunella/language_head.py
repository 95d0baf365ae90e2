"""The last matrix of a language-modelling head, applied in slices of tokens.

Logits of a vocabulary are wide: 4,096 tokens x 30,522 entries take half a gigabyte in float32, and
a loss over them several times that. Here the model stops in front of that matrix, and the loss
goes through slice after slice, its gradient computed along with it, so that no more than one slice
of logits exists at a time. It is the same arithmetic, summed in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Logits in a slice: 32 MB in float32, wide enough for the matrix product to run at full speed.
SLICE = 1 << 23


@dataclass
class Head:
    """Logits that are not computed yet: `states @ weight.T + bias`.

    states: [tokens, width], in the type that the matrix product is to be computed in.
    weight: [vocabulary, width].
    bias: [vocabulary] or None.
    """

    states: Tensor
    weight: Tensor
    bias: Tensor | None

    def logits(self, rows: Tensor | None = None) -> Tensor:
        """The logits of some tokens, or of all: [rows, vocabulary] in the type of the states."""
        states = self.states if rows is None else self.states[rows]
        return F.linear(states, *_cast(self.weight, self.bias, states.dtype))


def last_matrix(model: Any) -> nn.Linear | None:
    """The matrix that makes logits of a vocabulary; None where the head ends in something else."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if type(found) is nn.Linear and found.out_features == vocabulary:
        return found
    return None


@contextmanager
def stopped_before(matrix: nn.Linear) -> Iterator[list[Head]]:
    """Keeps what goes into the matrix, and lets no token through it."""
    kept: list[Head] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0].reshape(-1, inputs[0].shape[-1])
        device = states.device.type
        if torch.is_autocast_enabled(device):  # it ends with the model's forward
            states = states.to(torch.get_autocast_dtype(device))
        kept.append(Head(states, matrix.weight, matrix.bias))
        return (inputs[0][..., :0, :],)

    handle = matrix.register_forward_pre_hook(stop)
    try:
        yield kept
    finally:
        handle.remove()


def divergence(student: Head, teacher: Head, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the two distributions, mean over tokens.

    The same as `prunella.distillation.logits_loss` of their logits.
    """
    with torch.autocast(student.states.device.type, enabled=False):
        loss: Any = _Divergence.apply(
            student.states, student.weight, student.bias, teacher, temperature
        )
    return loss


class _Divergence(torch.autograd.Function):
    """The loss and, in the same pass, its gradients: those of a slice need its logits."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: Head,
        temperature: float,
    ) -> Tensor:
        given = (states, weight, bias)
        sums = [
            torch.zeros_like(tensor, dtype=torch.float32) if needed and tensor is not None else None
            for tensor, needed in zip(given, ctx.needs_input_grad, strict=False)
        ]
        total = torch.zeros((), device=states.device)
        ours = _cast(weight, bias, states.dtype)
        theirs = _cast(teacher.weight, teacher.bias, teacher.states.dtype)
        step = max(1, SLICE // len(weight))
        for start in range(0, len(states), step):
            part = slice(start, start + step)
            log_q = _log_softmax(F.linear(teacher.states[part], *theirs), temperature)
            log_p = _log_softmax(F.linear(states[part], *ours), temperature)
            q = log_q.exp()
            total += log_q.sub_(log_p).mul_(q).sum()
            if any(found is not None for found in sums):
                # d/dz of T^2 KL(q || softmax(z / T)) = T (p - q)
                slope = log_p.exp_().sub_(q).mul_(temperature / len(states))
                _add_gradients(sums, slope.to(states.dtype), part, states[part], ours[0])
        ctx.sums = sums
        ctx.types = [None if tensor is None else tensor.dtype for tensor in given]
        return total * (temperature**2 / len(states))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # type: ignore[override]
        gradients = (
            None if found is None else (found * upstream[0]).to(dtype)
            for found, dtype in zip(ctx.sums, ctx.types, strict=True)
        )
        return (*gradients, None, None)


def _add_gradients(
    sums: list[Tensor | None], slope: Tensor, part: slice, states: Tensor, weight: Tensor
) -> None:
    """Adds what the slope of one slice's logits gives to those of states, weight and bias."""
    if sums[0] is not None:
        sums[0][part] = slope @ weight
    if sums[1] is not None:
        sums[1] += slope.T @ states
    if sums[2] is not None:
        sums[2] += slope.sum(dim=0, dtype=torch.float32)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits.float().div_(temperature), dim=-1)


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)
