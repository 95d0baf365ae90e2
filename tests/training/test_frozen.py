"""Parts that are not trained, by their names with and without a head before them."""

from __future__ import annotations

import pytest
from transformers import BertConfig, BertForMaskedLM, BertModel

from prunella.errors import InputError
from prunella.training.loop import _freeze

CONFIG = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
@pytest.mark.parametrize("part", ["embeddings", "bert.embeddings"])
def test_a_part_has_one_name_with_and_without_a_head(kind: type, part: str) -> None:
    model = kind(CONFIG)
    _freeze(model, (part,))
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    embeddings = {name for name, _ in model.named_parameters() if "embeddings." in name}
    assert fixed == embeddings != set()


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"frozen: 'attention' names no parameter of BertModel"):
        _freeze(BertModel(CONFIG), ("attention",))
