"""Connections, fans and spectra where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from study.conftest import SHAPES

from prunella.study.connections import Margins, connections
from prunella.study.fan import fan
from prunella.study.spectrum import spectrum


def judged(heads: int | None = 2, biased: np.ndarray | None = None, **masks: np.ndarray):
    layer = {}
    for name, shape in SHAPES.items():
        mask = masks.get(name, np.ones(shape)) != 0
        layer[name] = Margins(mask.sum(axis=1), mask.sum(axis=0))
    return connections(layer, heads, biased)


def without(role: str, *, rows: tuple[int, ...] = (), columns: tuple[int, ...] = ()) -> np.ndarray:
    mask = np.ones(SHAPES[role])
    mask[list(rows), :] = 0
    mask[:, list(columns)] = 0
    return mask


def test_a_dense_layer_has_nothing_disconnected():
    found = judged()
    assert found is not None
    assert found.disconnected_total == found.neurons_gone == found.heads_gone == 0
    assert (found.kept, found.neurons, found.heads) == (4 * 16 + 2 * 24, 6, 2)


def test_a_neuron_that_nobody_reads_loses_its_inputs():
    found = judged(ffn_out=without("ffn_out", columns=(5,)))
    assert found is not None
    assert found.disconnected["ffn_in"] == 4 == found.disconnected_total
    assert (found.neurons_gone, found.neurons_empty) == (1, 0)


def test_a_neuron_without_inputs_or_outputs_is_empty():
    found = judged(ffn_in=without("ffn_in", rows=(0, 2)), ffn_out=without("ffn_out", columns=(2,)))
    assert found is not None
    assert (found.neurons_gone, found.neurons_empty) == (2, 1)
    assert found.disconnected["ffn_out"] == 4 == found.disconnected_total


def test_a_head_whose_values_get_nowhere_loses_query_and_key_as_well():
    found = judged(
        value=without("value", rows=(0,)),
        attention_output=without("attention_output", columns=(1,)),
    )
    assert found is not None
    assert (found.heads_gone, found.heads_empty) == (1, 0)
    lost = {"query": 8, "key": 8, "value": 4, "attention_output": 4, "ffn_in": 0, "ffn_out": 0}
    assert found.disconnected == lost


def test_an_empty_head_leaves_nothing_disconnected():
    rows = {role: without(role, rows=(2, 3)) for role in ("query", "key", "value")}
    found = judged(**rows, attention_output=without("attention_output", columns=(2, 3)))
    assert found is not None
    assert (found.heads_gone, found.heads_empty, found.disconnected_total) == (1, 1, 0)


def test_query_and_key_meet_in_a_dimension():
    found = judged(biased=np.zeros(4, bool), query=without("query", rows=(0, 1)))
    assert found is not None
    assert found.disconnected["key"] == 8 == found.disconnected_total
    assert (found.uniform_heads, found.heads_gone) == (1, 0)


@pytest.mark.parametrize("biased", [np.array([True, False, False, False]), None])
def test_a_bias_asks_for_keys_where_the_query_has_no_weights(biased):
    found = judged(biased=biased, query=without("query", rows=(0, 1)))
    assert found is not None
    # Without a file that says so, no bias is taken to be zero.
    assert found.disconnected["key"] == (0 if biased is None else 4) == found.disconnected_total
    assert found.uniform_heads == 0


def test_a_head_without_keys_is_uniform_whatever_asks():
    found = judged(biased=np.ones(4, bool), key=without("key", rows=(2, 3)))
    assert found is not None
    assert found.disconnected["query"] == 8 == found.disconnected_total
    assert (found.uniform_heads, found.heads_gone) == (1, 0)


def test_uniform_heads_are_those_whose_softmax_is_flat():
    """By the softmax itself: dimensions 0 and 1 are one head, with an empty query or key."""
    rng = np.random.default_rng(0)
    tokens, query, key = rng.normal(size=(5, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    query_bias, key_bias = rng.normal(size=(2, 4))
    for empty, bias in (("query", query_bias), ("query", np.zeros(4)), ("key", query_bias)):
        masks = {name: np.ones((4, 4)) for name in ("query", "key")}
        masks[empty][:2] = 0
        asked = (tokens @ (query * masks["query"]).T + bias)[:, :2]
        held = (tokens @ (key * masks["key"]).T + key_bias)[:, :2]
        flat = np.ptp(asked @ held.T, axis=1).max() < 1e-12
        found = judged(biased=bias != 0, **masks)
        assert found is not None
        assert found.uniform_heads == flat


@pytest.mark.parametrize("heads", [3, 8])
def test_heads_that_do_not_fit_are_not_judged(heads):
    assert judged(heads) is None


def test_fan_by_hand():
    found = fan(np.array([4, 0, 2, 2]), 4)
    assert (found.mean, found.least, found.most, found.empty) == (2, 0, 4, 1)
    # Half of 16 kept: 4 * 1/2 * 1/2 * 12/15 = 0.8 against the measured variance of 2.
    assert found.spread == pytest.approx(math.sqrt(2 / 0.8))


@pytest.mark.parametrize("count", [0, 4])
def test_fan_of_empty_and_full_matrices_has_no_spread(count):
    assert fan(np.full(3, count), 4).spread is None


def test_the_spread_of_random_masks_is_one():
    rng = np.random.default_rng(0)
    mask = rng.permuted(np.arange(300 * 200) < 6000).reshape(300, 200)
    assert fan(mask.sum(axis=1), 200).spread == pytest.approx(1, abs=0.12)


def fano() -> np.ndarray:
    """Points and lines of the projective plane of order 2: 3 edges each, Ramanujan."""
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    mask = np.zeros((7, 7), bool)
    for row, line in enumerate(lines):
        mask[row, list(line)] = True
    return mask


def test_the_spectrum_of_the_fano_plane():
    found = spectrum(fano())
    assert found is not None
    assert (found.first, found.second) == pytest.approx((3, math.sqrt(2)))
    assert found.bound == pytest.approx(2 * math.sqrt(2))
    assert found.ratio == pytest.approx(0.5)


def test_two_separate_blocks_have_no_gap():
    mask = np.kron(np.eye(2), np.ones((5, 3))) != 0
    found = spectrum(mask)
    assert found is not None
    assert found.second == pytest.approx(math.sqrt(15)) == found.first
    assert found.gap == pytest.approx(0)


@pytest.mark.parametrize("mask", [np.ones((4, 4)), np.zeros((4, 4)), np.eye(4), np.ones((1, 9))])
def test_where_the_spectrum_says_nothing(mask):
    assert spectrum(mask != 0) is None


def test_large_masks_have_the_singular_values_of_an_exact_method():
    mask = np.random.default_rng(3).random((200, 150)) < 0.2
    mask[:, :20] = True
    found = spectrum(mask)
    assert found is not None
    exact = np.linalg.svd(mask.astype(float), compute_uv=False)[:2]
    assert (found.first, found.second) == pytest.approx(exact, rel=2e-3)
    assert spectrum(mask) == found
