"""Shapes: what goes together goes together, exactly as much as asked, and n:m holds everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from prunella.errors import InputError
from prunella.settings import PruningSettings
from prunella.sparsity.gradual import make_pruning, targets_to_prune
from prunella.sparsity.masks import Masks
from prunella.sparsity.patterns import Blocks, NOfM
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import PruningSchedule
from prunella.sparsity.selection import select
from prunella.sparsity.shares import Shares
from prunella.sparsity.targets import pruned_parameters

DONE = PruningSchedule(0.0, 0.5, 0, 1, 1, 1, 1)


def tiny(family: str = "bert", **more: Any) -> Any:
    torch.manual_seed(0)
    if family == "distilbert":
        return DistilBertModel(
            DistilBertConfig(vocab_size=20, dim=8, n_layers=2, n_heads=2, hidden_dim=16)
        )
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=20, num_hidden_layers=2, **(sizes | more)))


def pruning_of(model: Any, steps: int = 4, **given: Any) -> Pruning:
    asked = PruningSettings(growth_end=0.5, freeze=0.5, update_every=1, **given)
    targets = targets_to_prune(model, asked)
    masks = Masks.of_zeros(pruned_parameters(model, targets))
    return make_pruning(model, masks, targets, asked, steps=steps, seed=0)


def pruned(model: Any, **given: Any) -> Pruning:
    """Pruned to the end; the masks reach what was asked for."""
    pruning = pruning_of(model, **given)
    for step in range(1, 5):
        pruning(step)
    wanted, rounding = pruning.asked
    assert abs(pruning.masks.total_sparsity() - wanted) <= rounding + 1e-9
    return pruning


def test_what_cannot_be_kept_counts_for_nothing_in_a_group_of_signed_scores() -> None:
    scores = {"w": torch.tensor([[2.0, 2, 2, -9], [1, 1, 1, 1], [1, 1, -10, 1], [9, 9, 9, 9]])}
    gone = {"w": torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()}
    shares = Shares(Blocks(1, 4), "uniform", {})
    for kept, rows in ((0.25, [0]), (0.5, [0, 1]), (0.75, [0, 1, 2])):
        schedule = PruningSchedule(0.0, 1 - kept, 0, 1, 1, 1, 1)
        mask = shares.choose(scores, schedule, 1, gone)["w"]
        assert mask.any(1).nonzero().flatten().tolist() == rows  # the dead one is last


@pytest.mark.parametrize("score", ["magnitude", "movement", "random", "wanda"])
@pytest.mark.parametrize("more", [{}, {"scope": "row"}, {"pattern": "2:4"}, {"pattern": "4x1"}])
def test_zeros_of_the_model_stay_zero_where_a_matrix_has_too_many(
    score: str, more: dict[str, Any]
) -> None:
    """Pruned by one threshold for all, then on by shares for each: some matrices are past theirs."""
    model = tiny()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for number, parameter in enumerate(model.encoder.parameters()):
            if parameter.ndim == 2:
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.mul_(drawn > (0.2, 0.9)[number % 4 == 0])
    pruning = pruning_of(model, sparsity=0.6, score=score, **more)
    matrices = pruning.masks.parameters
    zeros = {name: parameter == 0 for name, parameter in matrices.items()}
    for step in range(1, 5):
        for parameter in matrices.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if pruning.criterion.inputs:
            for name in matrices:
                pruning.criterion.see_inputs(name, torch.rand(5, matrices[name].shape[1]))
        pruning.after_backward(step)
        pruning(step)
        with torch.no_grad():  # what is kept would train on
            for name, parameter in matrices.items():
                parameter.add_(pruning.masks.kept(name).float())
    assert all((matrices[name][at] == 0).all() for name, at in zeros.items())
    wanted, off = pruning.asked
    assert off < 0.2 and abs(pruning.masks.total_sparsity() - wanted) <= off
    again = pruning_of(tiny(), sparsity=0.6, score=score, **more)
    again.load_state_dict(pruning.state_dict())  # a run that was killed after its last choice
    assert again.asked == pruning.asked


def test_blocks_are_summed_and_go_whole() -> None:
    scores = {"w": torch.tensor([[1.0, 0, 5, 0], [0, 2, 0, 0], [0, 0, 0, 1], [4, 0, 0, 0]])}
    blocks = Blocks(2, 1)
    assert blocks.groups(scores)["w"].tolist() == [[1, 2, 5, 0], [4, 0, 0, 1]]
    mask = Shares(blocks, "uniform", {}).choose(scores, DONE, 1)["w"]
    # 1 and 1 are tied: the first stays.
    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


@settings(max_examples=30)
@given(
    st.sampled_from([(4, 1), (1, 4), (2, 2), (4, 2), (8, 8), (1, 1)]),
    st.sampled_from(["uniform", "global", "row"]),
    st.floats(0, 0.98),
    st.integers(0, 99),
)
def test_any_blocks_reach_the_sparsity(
    block: tuple[int, int], scope: str, sparsity: float, seed: int
) -> None:
    torch.manual_seed(seed)
    scores = {"a": torch.randn(16, 24), "b": torch.randn(8, 8)}
    shares = Shares(Blocks(*block), scope, {})
    schedule = PruningSchedule(0.0, sparsity, 0, 1, 1, 1, 1)
    masks = shares.choose(scores, schedule, 1)
    groups = shares.pattern.groups({name: mask.float() for name, mask in masks.items()})
    size = block[0] * block[1]
    assert all(set(group.unique().tolist()) <= {0.0, size} for group in groups.values())
    again = select(shares.pattern.groups(scores), sparsity, scope)
    for name, group in groups.items():
        assert torch.equal(group > 0, again[name])


def test_rows_reach_the_sparsity_each() -> None:
    torch.manual_seed(1)
    scores = torch.rand(6, 10) * torch.arange(1, 7).unsqueeze(1)  # rows of very different size
    mask = select({"w": scores}, 0.7, "row")["w"]
    assert mask.sum(1).tolist() == [3] * 6
    lowest_kept = scores.masked_fill(~mask, torch.inf).amin(1)
    assert bool((scores.masked_fill(mask, -torch.inf).amax(1) <= lowest_kept).all())
    assert select({"w": torch.zeros(2, 4)}, 0.5, "row")["w"].int().tolist() == [[1, 1, 0, 0]] * 2
    with pytest.raises(FloatingPointError, match="diverged"):
        select({"w": torch.tensor([[torch.nan, 1.0]])}, 0.5, "row")


@settings(max_examples=40)
@given(
    st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8), (3, 4)]),
    st.sampled_from(["uniform", "global", "row"]),
    st.floats(0, 0.98),
    st.booleans(),
)
def test_n_of_m_holds_wherever_it_can(
    n_of_m: tuple[int, int], scope: str, sparsity: float, tied: bool
) -> None:
    torch.manual_seed(round(sparsity * 100))
    n, m = n_of_m
    scores = {"a": torch.randn(6, 16) - 1, "b": torch.randn(4, 8) * 10}
    if tied:
        scores = {name: score.sign() for name, score in scores.items()}
    shares = Shares(NOfM(n, m), scope, {})
    schedule = PruningSchedule(0.0, sparsity, 0, 1, 1, 1, 1)
    masks = shares.choose(scores, schedule, 1)
    counts = torch.cat([mask.reshape(-1, m).sum(1) for mask in masks.values()])
    total = sum(int(mask.sum()) for mask in masks.values())
    plain = select(scores, sparsity, scope)
    assert total == sum(int(mask.sum()) for mask in plain.values())
    if all(int(mask.sum()) <= n * mask.numel() / m for mask in masks.values()) and scope != "row":
        assert int(counts.max()) <= n
    if total == n / m * 128:
        assert counts.unique().tolist() == [n]


def test_the_best_n_of_m_stay() -> None:
    scores = {"w": torch.tensor([[1.0, 9, 8, 7, 1, 2, 4, 3]])}
    shares = Shares(NOfM(2, 4), "uniform", {})
    mask = shares.choose(scores, DONE, 1)["w"]
    assert mask.int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]
    sparser = PruningSchedule(0.0, 0.625, 0, 1, 1, 1, 1)
    assert shares.choose(scores, sparser, 1)["w"].int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 0]]
    denser = PruningSchedule(0.0, 0.375, 0, 1, 1, 1, 1)
    assert shares.choose(scores, denser, 1)["w"].int().tolist() == [[0, 1, 1, 1, 0, 0, 1, 1]]


def test_n_of_m_through_a_whole_pruning() -> None:
    model = tiny()
    pruning = pruned(model, pattern="2:4")
    for name, weight in pruning.masks.parameters.items():
        assert weight.reshape(-1, 4).count_nonzero(1).unique().tolist() == [2], name
    pruned(tiny(), pattern="2:4", sparsity=0.75)
    with pytest.raises(InputError, match=r"removes 0\.5 .* at least, but sparsity 0\.3"):
        pruning_of(tiny(), pattern="2:4", sparsity=0.3)
    with pytest.raises(InputError, match=r"a density may be 0\.5 at most"):
        pruning_of(tiny(), pattern="2:4", densities={"query": 0.8})


def test_the_sparsity_of_n_of_m_need_not_be_given() -> None:
    assert PruningSettings(pattern="2:4").sparsity == 0.5
    assert PruningSettings(pattern="1:4").sparsity == 0.75
    assert PruningSettings(pattern="1:4", sparsity=0.8).sparsity == 0.8
    assert PruningSettings(pattern="4x1").sparsity == 0.9


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "0x4", "4", "4x", "axb", "2:4x1", "", "2/4"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValidationError, match="is no pattern: expected"):
        PruningSettings(pattern=text)


@pytest.mark.parametrize("pattern", ["3x1", "1x5", "2:5"])
def test_matrices_that_do_not_divide_are_named(pattern: str) -> None:
    with pytest.raises(InputError, match=r"encoder\.layer\.0\.\S+ is 8 x 8 .*--exclude"):
        pruning_of(tiny(), pattern=pattern)


def test_neurons_leave_as_a_whole_and_the_least_ones() -> None:
    model = tiny()
    ffn_in, ffn_out = model.encoder.layer[1].intermediate.dense, model.encoder.layer[1].output.dense
    with torch.no_grad():
        ffn_in.weight[3], ffn_out.weight[:, 3] = 0.5, 0.5  # large in both
    pruning = pruned(model, pattern="neurons", sparsity=0.75)
    rows = ffn_in.weight.count_nonzero(1)
    assert rows.tolist() == [8 if n else 0 for n in rows]
    assert int((rows > 0).sum()) == 4
    assert bool(rows[3])
    assert torch.equal(rows > 0, ffn_out.weight.count_nonzero(0) > 0)
    assert len(pruning.masks.parameters) == 4  # nothing else is touched


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_heads_leave_as_a_whole(scope: str) -> None:
    model = tiny(num_attention_heads=4)
    pruned(model, pattern="heads", sparsity=0.5, scope=scope)
    heads = 0
    for layer in model.encoder.layer:
        block = layer.attention
        kept = block.self.query.weight.view(4, -1).count_nonzero(1)
        assert set(kept.tolist()) <= {0, 16}
        for matrix in (block.self.key, block.self.value):
            assert torch.equal(matrix.weight.view(4, -1).count_nonzero(1), kept)
        outputs = block.output.dense.weight.view(8, 4, 2).count_nonzero((0, 2))
        assert torch.equal(outputs, kept)
        assert bool((kept > 0).any())  # a layer keeps one at least
        heads += int((kept > 0).sum())
    assert heads == 4


def test_units_need_all_of_their_matrices() -> None:
    with pytest.raises(InputError, match=r"layer 0 lacks query, key, value"):
        pruning_of(tiny(), pattern="heads", roles=("attention_output",))
    with pytest.raises(InputError, match="no matrix"):
        pruning_of(tiny(), pattern="heads", roles=("ffn_in", "ffn_out"))
    with pytest.raises(InputError, match="leaves 1 of 2 layers"):
        pruning_of(tiny(), pattern="neurons", exclude=("encoder.layer.0",))
    with pytest.raises(InputError, match="needs --scope uniform"):
        pruning_of(tiny(), pattern="neurons", scope="global")
    for odd in ({"scope": "row"}, {"densities": {"query": 0.5}}):
        with pytest.raises(InputError, match="neither --scope row nor --densities"):
            pruning_of(tiny(), pattern="heads", **odd)


def test_densities_by_role_and_by_name() -> None:
    model = tiny()
    given = {"ffn_in": 0.25, "encoder.layer.0": 0.5, "encoder.layer.0.output.dense": 1.0}
    pruning = pruned(model, sparsity=0.75, densities=given)
    found = pruning.masks.sparsity()
    assert found["encoder.layer.0.intermediate.dense.weight"] == 0.5  # a name before a role
    assert found["encoder.layer.0.output.dense.weight"] == 0.0  # a longer name before that
    assert found["encoder.layer.1.intermediate.dense.weight"] == 0.75
    assert found["encoder.layer.1.attention.self.key.weight"] == 0.75
    with pytest.raises(InputError, match="'ffn' is neither a role .* did you mean 'ffn_in'"):
        pruning_of(tiny(), densities={"ffn": 0.5})


def test_densities_leave_the_others_to_a_global_threshold() -> None:
    model = tiny()
    with torch.no_grad():
        model.encoder.layer[0].attention.self.value.weight.sign_().mul_(9)
    pruning = pruned(model, sparsity=0.5, scope="global", densities={"pooler": 0.1})
    found = pruning.masks.sparsity()
    assert found["pooler.dense.weight"] == pytest.approx(1 - 6 / 64)
    assert found["encoder.layer.0.attention.self.value.weight"] == 0.0


def test_densities_grow_with_the_schedule() -> None:
    pruning = pruning_of(tiny(), steps=40, sparsity=0.8, densities={"query": 0.6})
    seen = []
    for step in range(1, 41):
        pruning(step)
        found = pruning.masks.sparsity()
        seen.append(
            (
                found["encoder.layer.0.attention.self.query.weight"],
                found["encoder.layer.0.attention.self.key.weight"],
            )
        )
    assert seen == sorted(seen)
    assert all(abs(query - key / 2) < 0.03 for query, key in seen)
