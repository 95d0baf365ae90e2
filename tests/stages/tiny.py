"""Tiny models, text and labelled rows: all that a stage needs, made in milliseconds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

NOUNS = ["cat", "dog", "bird", "fish", "tree", "house", "river", "stone", "road", "cloud"]
VERBS = ["sees", "likes", "finds", "follows", "forgets", "carries", "paints", "calls"]
GOOD, BAD = ["good", "bright", "kind", "warm"], ["bad", "dull", "cruel", "cold"]
WORDS = [*NOUNS, *VERBS, *GOOD, *BAD, "the", "a", "in", "and", "."]

FAMILIES = ("bert", "roberta", "distilbert", "electra")
_LIKE_ROBERTA = {"roberta", "mpnet"}
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
_ALIASES = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    "xlm": {
        "hidden_size": "emb_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": None,
    },
}
_HEADS = {"mlm": AutoModelForMaskedLM, "none": AutoModel, "task": AutoModelForSequenceClassification}


def tokenizer(family: str = "bert", words: list[str] = WORDS) -> PreTrainedTokenizerBase:
    """A word-level tokenizer, with RoBERTa's special tokens and pairs for the families like it."""
    if family not in _LIKE_ROBERTA:
        entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        return BertTokenizer(vocab={word: i for i, word in enumerate(entries)}, model_max_length=40)
    entries = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(entries)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=40,
    )


def save_model(
    folder: Path,
    family: str = "bert",
    head: str = "mlm",
    *,
    seed: int = 0,
    words: list[str] = WORDS,
    **changes: Any,
) -> str:
    """Saves a random model as anybody would; returns its folder.

    Args:
        folder: Where to.
        family: A model type of transformers.
        head: "mlm", "task" or "none".
        seed: Of its weights.
        words: Of its vocabulary.
        changes: Of the configuration, by BERT's names.
    """
    made = tokenizer(family, words)
    aliases = _ALIASES.get(family, {})
    shape = {aliases.get(name, name): value for name, value in (_SHAPE | changes).items()}
    shape.pop(None, None)
    if family == "electra":
        shape.setdefault("embedding_size", 16)  # its tables are narrower than the layers
    if family in _LIKE_ROBERTA:
        shape["max_position_embeddings"] += 2
        shape |= {"bos_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(
        family, vocab_size=len(made), pad_token_id=made.pad_token_id, **shape
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _HEADS[head].from_config(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def sentence(rng: random.Random, mood: list[str] | None = None) -> str:
    word = rng.choice(mood or GOOD + BAD)
    return f"the {word} {rng.choice(NOUNS)} {rng.choice(VERBS)} a {rng.choice(NOUNS)} ."


def write_text(path: Path, documents: int = 60) -> str:
    """Documents of a few sentences each, a blank line between them."""
    rng = random.Random(1)
    texts = ["\n".join(sentence(rng) for _ in range(rng.randint(4, 12))) for _ in range(documents)]
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def write_task(path: Path, kind: str = "single", rows: int = 24, seed: int = 2) -> str:
    """Labelled rows: "single" texts, a "pair", or "scores" of pairs."""
    rng = random.Random(seed)
    lines = []
    for i in range(rows):
        first = sentence(rng, GOOD if i % 2 else BAD)
        if kind == "single":
            lines.append({"sentence": first, "label": "good" if i % 2 else "bad"})
            continue
        second = sentence(rng, GOOD if i % 3 else BAD)
        same = (i % 2 > 0) == (i % 3 > 0)
        label = (1.5 + 2.25 * same) if kind == "scores" else ("same" if same else "other")
        lines.append({"sentence1": first, "sentence2": second, "label": label})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)
