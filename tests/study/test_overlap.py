"""Overlap: counts by hand, expectations against drawn masks, the test against the exact one."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import hypergeom

from prunella.study.overlap import (
    ABOUT,
    Common,
    agreement,
    common,
    holm,
    log_tail_bound,
    overlap,
    significance,
    to_bits,
)


def drawn(shape: tuple[int, int], kept: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(shape[0] * shape[1], bool)
    mask[rng.permutation(mask.size)[:kept]] = True
    return mask.reshape(shape)


def test_counts_by_hand():
    a = to_bits(np.array([[1, 1, 0], [1, 0, 0]], bool))
    b = to_bits(np.array([[1, 0, 0], [1, 1, 0]], bool))
    found = common(a, b)
    assert (found.both, found.expected, found.most) == (2, 3 * 3 / 6, 3)
    assert found.variance == pytest.approx(hypergeom(6, 3, 3).var())
    # rows (2, 1) and (1, 2), columns (2, 1, 0) and (2, 1, 0): (2 + 2) (4 + 1) / 9
    assert found.margins == pytest.approx(20 / 9)
    pair = overlap((0, 1), [("query", found)], [(3, 3, 6)])
    assert pair.iou == 2 / 4
    assert pair.chance == pytest.approx(0.25 / 0.75)
    assert pair.matched == pytest.approx(1.5 / 4.5)
    assert pair.agreement == pytest.approx((2 - 1.5) / (3 - 1.5)) == pair.by_component["query"]


def test_densities_that_differ_between_matrices_raise_matched_chance_alone():
    full, empty = np.ones((4, 8), bool), np.zeros((4, 8), bool)
    shared = [("query", common(to_bits(m), to_bits(m))) for m in (full, empty)]
    pair = overlap((0, 1), shared, [(32, 32, 32), (0, 0, 32)])
    assert pair.chance == pytest.approx(1 / 3)
    assert pair.iou == pair.matched == 1
    assert pair.agreement is None and pair.z is None and pair.log10_p is None


@pytest.mark.parametrize("kept", [(0, 5), (0, 0), (20, 5), (20, 20)])
def test_empty_and_full_masks_have_an_overlap(kept):
    rng = np.random.default_rng(0)
    a, b = (to_bits(drawn((4, 5), count, rng)) for count in kept)
    pair = overlap((0, 1), [("query", common(a, b))], [(*kept, 20)])
    both = min(kept)
    assert pair.iou == (both / max(kept) if max(kept) else 0)
    assert pair.z is None and pair.agreement is None


def test_the_expectation_and_the_variance_are_those_of_drawn_masks():
    rng = np.random.default_rng(1)
    shapes, kept = [(8, 9), (5, 20)], [(30, 12), (9, 80)]
    counts, totals = [], Common()
    for _ in range(3000):
        parts = [
            common(to_bits(drawn(s, a, rng)), to_bits(drawn(s, b, rng)))
            for s, (a, b) in zip(shapes, kept, strict=True)
        ]
        totals = sum(parts, Common())
        counts.append(totals.both)
    assert np.mean(counts) == pytest.approx(totals.expected, abs=0.15)
    assert np.var(counts) == pytest.approx(totals.variance, rel=0.1)


def test_matching_rows_and_columns_is_rough_where_they_are_uneven_as_the_page_says():
    """Against all masks of the same counts, drawn alike, by whose shares the overlap is known."""
    every = [np.array(bits).reshape(3, 3) for bits in product((False, True), repeat=9)]
    counts = [(tuple(mask.sum(axis=0)), tuple(mask.sum(axis=1))) for mask in every]
    for wanted, sign in (((1, 1, 1), 0), ((2, 1, 1), 1), ((3, 2, 2), -1)):
        alike = [m for m, held in zip(every, counts, strict=True) if held == (wanted, wanted)]
        exact = np.square(np.mean(alike, axis=0)).sum()
        found = common(to_bits(alike[0]), to_bits(alike[-1])).margins
        assert np.sign(round(found - exact, 9)) == sign
    assert "rough" in ABOUT.doubts


def test_the_approximation_is_near_the_exact_test():
    n, a, b = 2000, 300, 250
    exact = hypergeom(n, a, b)
    for both in (25, 30, 37, 45, 55):
        mean = a * b / n
        found = Common(both, mean, exact.var(), min(a, b))
        tail = exact.sf(both - 1) if both > mean else exact.cdf(both)
        log10_p, z = significance(found, [(a, b, n)])
        assert log10_p == pytest.approx(math.log10(min(1, 2 * tail)), abs=0.35)
        assert (z or 0) * (both - mean) >= 0


@pytest.mark.parametrize(
    ("n", "a", "b", "both"),
    [(2000, 5, 5, 5), (2000, 300, 250, 90), (2000, 300, 250, 250), (400, 200, 200, 60)],
)
def test_far_from_its_middle_p_is_a_bound(n: int, a: int, b: int, both: int):
    exact = hypergeom(n, a, b)
    found = Common(both, a * b / n, exact.var(), min(a, b))
    above = both > found.expected
    tail = exact.logsf(both - 1) if above else exact.logcdf(both)
    log10_p, _ = significance(found, [(a, b, n)])
    assert log10_p is not None
    assert tail / math.log(10) + math.log10(2) <= log10_p <= 0.4 * tail / math.log(10)


def test_the_bound_over_matrices_of_unlike_densities():
    """Against the exact distribution of a sum, which is a convolution."""
    counts = [(60, 40, 200), (20, 30, 40), (7, 7, 100), (8, 30, 31)]
    parts = [hypergeom(n, a, b) for a, b, n in counts]
    exact = np.ones(1)
    for part, (a, b, _) in zip(parts, counts, strict=True):
        exact = np.convolve(exact, part.pmf(np.arange(min(a, b) + 1)))
    mean, variance = (sum(getattr(part, of)() for part in parts) for of in ("mean", "var"))
    for both in range(len(exact)):
        upper, lower = exact[both:].sum(), exact[: both + 1].sum()
        tail = upper if both > mean else lower
        found = log_tail_bound(both, both > mean, counts)
        assert found <= 0
        if tail > 0:
            assert found >= math.log(tail) - 1e-6
        log10_p, _ = significance(Common(both, mean, variance, 0), counts)
        assert log10_p is not None and (tail == 0 or log10_p > math.log10(tail) - 0.5)


def test_no_probability_is_below_that_of_the_rarest_outcome():
    counts = [(29_491, 29_491, 294_912)] * 36
    total = sum((Common(a, a * b / n, hypergeom(n, a, b).var(), a) for a, b, n in counts), Common())
    rarest = -sum(gammaln(n + 1) - gammaln(a + 1) - gammaln(n - a + 1) for a, _, n in counts)
    log10_p, z = significance(total, counts)
    assert log10_p is not None and z is not None and z > 3000
    assert rarest / math.log(10) <= log10_p < -100_000


def test_holm_by_hand():
    p = [math.log10(x) for x in (0.01, 0.04, 0.03)]
    corrected = holm([p[0], None, p[1], p[2]])
    assert corrected[1] is None
    assert [10 ** (x or 0) for x in (corrected[0], corrected[2], corrected[3])] == pytest.approx(
        [0.03, 0.06, 0.06]
    )
    assert holm([math.log10(0.9), math.log10(0.8)]) == [0.0, 0.0]


@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 17), st.data())
def test_properties(seed, rows, columns, data):
    rng = np.random.default_rng(seed)
    counts = [data.draw(st.integers(0, rows * columns)) for _ in range(2)]
    a, b = (drawn((rows, columns), count, rng) for count in counts)
    found, reverse = common(to_bits(a), to_bits(b)), common(to_bits(b), to_bits(a))
    assert found == reverse
    assert found.both == np.count_nonzero(a & b) <= found.most
    assert found.expected <= found.most + 1e-9 and found.margins <= found.most
    value = agreement(found)
    assert value is None or value <= 1 + 1e-9
    same = agreement(common(to_bits(a), to_bits(a)))
    assert same is None or same == pytest.approx(1)
