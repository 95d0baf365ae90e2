"""Dropout of our own: what is dropped, how often, what is left, and whose modules have it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunella.training.dropout import cpu_dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_and_scale(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 400_003  # not a multiple of the four elements of a random word
    dropped = dropout(torch.ones(count, dtype=dtype), probability)
    scale = torch.tensor(1 / (1 - round(probability * 65536) / 65536), dtype=dtype)
    assert set(dropped.unique().tolist()) == {0.0, scale.item()}
    deviation = (probability * (1 - probability) / (count / 4)) ** 0.5
    for place in range(4):  # in its word
        share = (dropped[place::4] == 0).double().mean().item()
        assert abs(share - probability) < 4 * deviation


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.3) != 0).double()
    kept -= kept.mean()
    for distance in (1, 2, 3, 4, 8):
        correlation = (kept[distance:] * kept[:-distance]).mean() / kept.square().mean()
        assert abs(correlation.item()) < 4 / 400_000**0.5


def test_gradients_are_those_of_what_was_kept() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 5, 7).transpose(0, 2).requires_grad_()
    dropped = dropout(values, 0.5)
    dropped.backward(torch.full_like(dropped, 2.0))
    kept = dropped != 0
    assert 0.2 < kept.double().mean() < 0.8
    torch.testing.assert_close(dropped, torch.where(kept, values * 2, 0))
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(kept, 4.0, 0.0))


def test_the_generator_decides() -> None:
    torch.manual_seed(3)
    first = dropout(torch.ones(1000), 0.4)
    second = dropout(torch.ones(1000), 0.4)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(1000), 0.4))
    assert not torch.equal(first, second)


def test_no_probability_and_no_elements() -> None:
    values = torch.ones(5)
    assert dropout(values, 0.0) is values
    assert dropout(torch.ones(0, 4), 0.5).shape == (0, 4)
    assert dropout(values, 0.9999999).isfinite().all()


def test_modules_have_it_while_training_and_their_own_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.AlphaDropout(0.5))
    plain, other = model[1], model[2]
    with pytest.raises(RuntimeError), cpu_dropout(model):
        assert type(plain) is not nn.Dropout
        assert isinstance(plain, nn.Dropout)
        assert type(other) is nn.AlphaDropout
        assert plain.eval()(torch.ones(9)).equal(torch.ones(9))
        assert set(plain.train()(torch.ones(99)).tolist()) == {0.0, 2.0}
        raise RuntimeError
    assert type(plain) is nn.Dropout
