"""A tokenizer whose words are the letters a to h, and rows to try kinds of tasks on."""

from __future__ import annotations

from typing import Any

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prunella.tasks import Reading

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
PAD, UNK, CLS, SEP, A, B, C, D, E, F, G, H = range(12)


def letters() -> PreTrainedTokenizerFast:
    """Words are cut at spaces and at punctuation, as BERT's are."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def reading(max_length: int = 32, stride: int = 128, token_types: bool = True) -> Reading:
    return Reading(letters(), max_length, stride, token_types)


def table(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)
