"""Dropout that is fast in training on a CPU.

PyTorch draws every element by itself there, which takes a large part of a training step in bf16,
most of it for the probabilities of attention. 16 random bits an element, compared with a threshold
in vectors, take a fraction of that (benchmarks/attention.py compares whole steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_VALUES = 2**16
"""Of the 16 random bits of an element: probabilities are multiples of 1 / 65536."""


def trains_on_cpu(model: nn.Module) -> bool:
    """Whether a model stays on the CPU: the Trainer moves it to a GPU if there is one."""
    return next(model.parameters()).device.type == "cpu" and not torch.cuda.is_available()


@contextmanager
def cpu_dropout(model: nn.Module) -> Iterator[None]:
    """Gives the dropout modules of a model on a CPU this dropout; their own back after."""
    modules = [module for module in model.modules() if type(module) is nn.Dropout]
    if not trains_on_cpu(model):
        modules = []
    for module in modules:
        module.__class__ = _Dropout
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = nn.Dropout


class _Dropout(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p) if self.training else input


def dropout(values: Tensor, probability: float) -> Tensor:
    """Zeroes each element with `probability` and divides the others by what is left of 1.

    As torch.nn.functional.dropout in training, with other random numbers of the same generator.

    Args:
        values: Of any shape, floating point, on the CPU.
        probability: In [0, 1), rounded to 1 / 65536.
    """
    threshold = min(round(probability * _VALUES), _VALUES - 1)
    if threshold == 0:
        return values
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: values.numel()].view(values.shape)
    keep = torch.empty(values.shape, dtype=values.dtype)
    torch.ge(bits, threshold - _VALUES // 2, out=keep)
    return values * keep.div_(1 - threshold / _VALUES)
