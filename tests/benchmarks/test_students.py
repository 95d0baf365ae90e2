"""Small dense students: a part of a larger BERT's weights, the right one."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.experiments.students import make_student
from prunella.errors import InputError

IDS = torch.tensor([[1, 5, 9, 2], [3, 3, 7, 8]])


@pytest.fixture
def model() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=8,
    )  # fmt: skip
    return BertModel(config).eval()


def test_the_whole_model_is_the_model(model: BertModel) -> None:
    student = make_student(model, 4, 16).eval()
    torch.testing.assert_close(student(IDS).pooler_output, model(IDS).pooler_output)


def test_layers_are_evenly_spread_to_the_last(model: BertModel) -> None:
    student = make_student(model, 2, 16)
    for ours, theirs in enumerate((1, 3)):
        for name, weight in student.encoder.layer[ours].named_parameters():
            assert torch.equal(weight, model.encoder.layer[theirs].get_parameter(name)), name


def test_a_width_that_the_others_do_not_need_loses_nothing(model: BertModel) -> None:
    """Where half of the columns, heads and neurons are 0, the other half is the same model."""
    kept = torch.tensor([1, 2, 4, 7, 8, 11, 13, 14])
    gone = torch.ones(16, dtype=torch.bool).index_fill(0, kept, False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embeddings" in name and parameter.ndim == 2:
                parameter[:, gone] = 0
            if ".value.weight" in name:
                parameter[4:12] = 0
            if "intermediate.dense.weight" in name:
                parameter[:32] = 0
    student = make_student(model, 4, 8)
    assert torch.equal(
        student.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight[:, kept]
    )
    heads = torch.tensor([0, 1, 2, 3, 12, 13, 14, 15])
    for layer, source in zip(student.encoder.layer, model.encoder.layer, strict=True):
        attention, theirs = layer.attention, source.attention
        assert torch.equal(attention.self.query.weight, theirs.self.query.weight[heads][:, kept])
        assert torch.equal(attention.self.value.bias, theirs.self.value.bias[heads])
        assert torch.equal(
            attention.output.dense.weight, theirs.output.dense.weight[kept][:, heads]
        )
        assert torch.equal(
            layer.intermediate.dense.weight, source.intermediate.dense.weight[32:][:, kept]
        )
        assert torch.equal(layer.output.dense.weight, source.output.dense.weight[kept][:, 32:])
        assert torch.equal(layer.output.LayerNorm.bias, source.output.LayerNorm.bias[kept])
    assert student.pooler.dense.weight.shape == (8, 8)
    assert student.config.num_attention_heads == 2


@pytest.mark.parametrize(("layers", "width"), [(5, 16), (0, 16), (4, 6), (4, 20)])
def test_what_cannot_be_cut_is_refused(model: BertModel, layers: int, width: int) -> None:
    with pytest.raises(InputError, match="--layers|--width"):
        make_student(model, layers, width)
