"""Exactly k weights, the same ones each time, whatever the ties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunella.sparsity.selection import keep_count, select, top_k_mask

# Few different values, so that ties are the rule.
tied_scores = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def expected(scores: Sequence[float], k: int) -> set[int]:
    """The definition: best first, the lowest index first among equals."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def chosen(mask: Tensor) -> set[int]:
    return set(mask.reshape(-1).nonzero().squeeze(1).tolist())


@given(tied_scores, st.data())
def test_exactly_k_and_ties_to_the_lowest_index(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(scores)))
    mask = top_k_mask(torch.tensor(scores, dtype=torch.float32), k)
    assert mask.dtype == torch.bool
    assert chosen(mask) == expected(scores, k)


def test_the_shape_is_kept() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    assert top_k_mask(scores, 3).tolist() == [[True, False, False], [False, True, True]]


def test_equal_scores_everywhere() -> None:
    mask = top_k_mask(torch.zeros(1000), 100)
    assert chosen(mask) == set(range(100))


def test_neighbouring_floats_are_told_apart() -> None:
    low = torch.tensor(1.0)
    scores = torch.stack([low, torch.nextafter(low, torch.tensor(2.0)), low])
    assert chosen(top_k_mask(scores, 1)) == {1}


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_nan_is_refused_wherever_it_is(k: int) -> None:
    for position in range(3):
        scores = torch.tensor([1.0, 2.0, 3.0])
        scores[position] = torch.nan
        with pytest.raises(FloatingPointError, match="diverged"):
            top_k_mask(scores, k)
        for scope in ("uniform", "global"):
            with pytest.raises(FloatingPointError, match="diverged"):
                select({"a": torch.ones(3), "b": scores}, 0.5, scope)


@pytest.mark.parametrize(
    ("n", "sparsity", "count"),
    [
        (100, 0.9, 10),
        (10, 0.0, 10),
        (3, 0.9, 1),
        (7, 0.5, 3),
        (1000, 0.999, 1),
        (2, 0.99, 1),
        (0, 0.5, 0),
    ],
)
def test_keep_count(n: int, sparsity: float, count: int) -> None:
    assert keep_count(n, sparsity) == count


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_keep_count_is_the_nearest_and_at_least_one(n: int, sparsity: float) -> None:
    kept = keep_count(n, sparsity)
    assert 1 <= kept <= n
    assert kept == 1 or abs((n - kept) - sparsity * n) <= 0.5


@given(st.lists(tied_scores, min_size=1, max_size=4), st.floats(0, 0.999))
def test_uniform_reaches_the_sparsity_in_each_matrix(
    rows: list[list[int]], sparsity: float
) -> None:
    scores = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}
    keep = select(scores, sparsity, "uniform")
    assert list(keep) == list(scores)
    for i, row in enumerate(rows):
        assert chosen(keep[str(i)]) == expected(row, keep_count(len(row), sparsity))


@given(st.lists(tied_scores, min_size=1, max_size=4), st.floats(0, 0.999))
def test_global_is_exact_over_all_matrices(rows: list[list[int]], sparsity: float) -> None:
    scores = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}
    keep = select(scores, sparsity, "global")
    # The definition: the best of every matrix, then the best of all the rest.
    order = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    best = [(i, min(expected(row, 1))) for i, row in enumerate(rows)]
    rest = sorted((p for p in order if p not in best), key=lambda p: (-rows[p[0]][p[1]], p))
    count = max(len(rows), keep_count(len(order), sparsity))
    wanted = {*best, *rest[: count - len(best)]}
    assert {(i, j) for i in range(len(rows)) for j in chosen(keep[str(i)])} == wanted
    assert [keep[name].shape for name in keep] == [scores[name].shape for name in scores]


def test_global_shares_one_threshold() -> None:
    strong, weak = torch.full((4, 4), 2.0), torch.full((4, 4), 1.0)
    keep = select({"weak": weak, "strong": strong}, 0.5, "global")
    # Ties would go to the weak matrix, which comes first; it keeps one weight to stay alive.
    assert keep["strong"].sum() == 15
    assert keep["weak"].sum() == 1


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_every_matrix_keeps_a_weight(scope: str) -> None:
    scores = {"dead": torch.zeros(5, 5), "live": torch.rand(50, 50), "other": torch.zeros(3)}
    keep = select(scores, 0.999, scope)
    assert all(mask.any() for mask in keep.values())
    if scope == "global":
        assert sum(int(mask.sum()) for mask in keep.values()) == keep_count(2528, 0.999)


def test_scores_are_not_changed() -> None:
    scores = {"a": torch.rand(4, 4), "b": torch.rand(2, 3)}
    before = {name: score.clone() for name, score in scores.items()}
    for scope in ("uniform", "global"):
        select(scores, 0.5, scope)
        assert all(torch.equal(scores[name], before[name]) for name in scores)


def test_edges() -> None:
    assert select({}, 0.5, "global") == select({}, 0.5, "uniform") == {}
    assert select({"a": torch.zeros(0, 3)}, 0.5, "global")["a"].shape == (0, 3)
    with pytest.raises(ValueError, match="scope"):
        select({"a": torch.ones(2)}, 0.5, "local")
