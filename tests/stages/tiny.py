"""What the integration tests share: a folder to work in, and models of any family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

from prunella.checkpoint import Checkpoint, open_checkpoint

# Little text at a time and one thread: each stage takes a fraction of a second.
TEXT: dict[str, Any] = {"length": 16, "batch_tokens": 64, "precision": "fp32", "threads": 1}
TASK: dict[str, Any] = {"batch_size": 8, "steps": 3, "max_length": 24, "precision": "fp32"}
EVERYTHING = {"logits": 0.5, "hidden": 0.5, "attention": 0.5}

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 72,
    "initializer_range": 0.1,
}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 72}
_LIKE_ROBERTA = ("roberta", "mpnet")


@dataclass(frozen=True)
class Place:
    """A folder for the checkpoints of a test, with text and labelled rows at hand."""

    folder: Path
    corpus: Path
    tasks: dict[str, dict[str, Path]]

    @property
    def text(self) -> dict[str, Any]:
        """Settings of an upstream stage."""
        return {**TEXT, "text": (str(self.corpus),), "cache": str(self.folder / "cache")}

    def rows(self, kind: str = "single") -> dict[str, Any]:
        """Settings of a task stage."""
        return {**TASK, **{split: str(path) for split, path in self.tasks[kind].items()}}

    def out(self, name: str) -> str:
        return str(self.folder / name)

    def open(self, name: str) -> Checkpoint:
        return open_checkpoint(self.folder / name)


def zeros(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Where each prunable matrix is zero."""
    roles = {tensor.name for tensor in checkpoint.tensors if tensor.role}
    return {name: array == 0 for name, _, array in checkpoint.arrays() if name in roles}


def arrays(folder: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint."""
    return {name: array.copy() for name, _, array in open_checkpoint(folder).arrays()}


def save_model(
    folder: Path, family: str, vocabulary: BertTokenizer, head: str = "mlm", **changes: Any
) -> str:
    """Saves a random model of a family as anybody would; returns its folder.

    Args:
        folder: Where to.
        family: A model type of transformers.
        vocabulary: Its words; RoBERTa and MPNet get special tokens of their own.
        head: "mlm" or "none".
        changes: Of the configuration.
    """
    made = _roberta_tokenizer(vocabulary) if family in _LIKE_ROBERTA else vocabulary
    shape = (_XLM if family == "xlm" else _SHAPE) | changes
    if family in _LIKE_ROBERTA:  # their positions begin behind the padding index
        shape |= {"max_position_embeddings": 74, "bos_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(
        family, vocab_size=len(made), pad_token_id=made.pad_token_id, **shape
    )
    kind = AutoModelForMaskedLM if head == "mlm" else AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind.from_config(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def _roberta_tokenizer(vocabulary: BertTokenizer) -> PreTrainedTokenizerFast:
    """The same pieces behind RoBERTa's special tokens: <s> a </s></s> b </s>, padding is 1."""
    pieces = sorted(vocabulary.get_vocab(), key=vocabulary.get_vocab().__getitem__)[5:]
    entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *pieces]
    renamed = BertTokenizer(
        vocab={piece: i for i, piece in enumerate(entries)},
        unk_token="<unk>",
        sep_token="</s>",
        pad_token="<pad>",
        cls_token="<s>",
        mask_token="<mask>",
    )
    backend = renamed.backend_tokenizer
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
    )
