"""Choosing one of several places: groups of unequal size do not disturb each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prunella.tasks.choosing import divergence, spread


def test_groups_side_by_side() -> None:
    out = spread(torch.tensor([[1.0], [2], [3]]), torch.tensor([1, 2]))
    assert out[:, :, 0].tolist() == [[1, -1e9], [2, 3]]


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), outputs=st.integers(1, 2))
def test_divergence_is_the_mean_over_groups(sizes: list[int], outputs: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    student, teacher = (
        torch.tensor(rng.normal(size=(sum(sizes), outputs)), dtype=torch.float32) for _ in range(2)
    )
    expected = []
    groups = zip(student.split(sizes), teacher.split(sizes), strict=True)
    for s, t in groups:
        for k in range(outputs):
            p, q = F.log_softmax(s[:, k] / 3, 0), F.log_softmax(t[:, k] / 3, 0)
            expected.append(9 * F.kl_div(p, q, reduction="sum", log_target=True).item())
    found = divergence(student, teacher, torch.tensor(sizes), 3.0)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-3, abs=1e-5)


def test_gradients_are_numbers() -> None:
    student = torch.randn(5, 2, requires_grad=True)
    divergence(student, torch.randn(5, 2), torch.tensor([1, 4]), 2.0).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
