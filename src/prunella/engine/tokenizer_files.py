"""The tokenizer of a packed file, from whichever files it carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from prunella.errors import InputError

_CONFIG, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
# What transformers writes for "no limit" is far beyond any model.
_NO_LIMIT = 1 << 24


def read_tokenizer(files: Mapping[str, bytes], path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, without truncation or padding, and its settings.

    The settings are those of tokenizer_config.json with the names of the special tokens filled in.

    Args:
        files: What the packed file carries.
        path: Its name, for errors.

    Raises:
        InputError: If there is no tokenizer among the files, or it is damaged.
    """
    settings = _special(files, path) | _json(files, _CONFIG, path)
    try:
        if "tokenizer.json" in files:
            tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
        elif "vocab.txt" in files:
            settings = _BERT_TOKENS | settings
            tokenizer = _word_piece(files["vocab.txt"].decode("utf-8"), settings)
        elif {"vocab.json", "merges.txt"} <= files.keys():
            settings = _ROBERTA_TOKENS | settings
            vocabulary = _json(files, "vocab.json", path)
            tokenizer = _byte_pairs(vocabulary, files["merges.txt"].decode("utf-8"), settings)
        else:
            raise InputError(
                f"{path}: carries no tokenizer; save one with the checkpoint "
                "(tokenizer.json) and pack it again"
            )
    except InputError:
        raise
    except Exception as error:  # the Rust library raises bare exceptions
        raise InputError(f"{path}: its tokenizer cannot be read ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, settings


def longest_input(settings: Mapping[str, Any]) -> int | None:
    """The tokens that a text may have, if the tokenizer's settings say so."""
    limit = settings.get("model_max_length")
    if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT:
        return int(limit)
    return None


def _word_piece(text: str, settings: Mapping[str, Any]) -> Tokenizer:
    """What BERT's vocab.txt stands for: one token a line, its id the line's number."""
    words = text.removesuffix("\n").split("\n")
    vocabulary = {word.rstrip("\r"): number for number, word in enumerate(words)}
    _require(vocabulary, settings)
    unknown = settings["unk_token"]
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    start, end = settings["cls_token"], settings["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0",
        pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([settings[name] for name in _BERT_TOKENS])
    return tokenizer


def _byte_pairs(vocabulary: dict[str, int], merges: str, settings: Mapping[str, Any]) -> Tokenizer:
    """What RoBERTa's vocab.json and merges.txt stand for: byte-level pairs."""
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    _require(vocabulary, settings)
    space = settings.get("add_prefix_space", False)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    start, end = settings["cls_token"], settings["sep_token"]
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), add_prefix_space=space
    )
    tokenizer.decoder = decoders.ByteLevel()
    # A mask swallows the space before it, as words of this vocabulary begin with theirs.
    names = [name for name in _ROBERTA_TOKENS if name != "mask_token"]
    mask = AddedToken(settings["mask_token"], lstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens([*(settings[name] for name in names), mask])
    return tokenizer


def _require(vocabulary: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    missing = [settings[name] for name in _BERT_TOKENS if settings[name] not in vocabulary]
    if missing:
        raise ValueError(f"its vocabulary lacks {', '.join(missing)}")


def _special(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    return _json(files, _SPECIAL, path)


def _json(files: Mapping[str, bytes], name: str, path: Path) -> dict[str, Any]:
    """A carried JSON object, special tokens as plain strings; empty if it is not carried."""
    if name not in files:
        return {}
    try:
        found = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its {name} is not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: its {name} is not a JSON object")
    return {key: _content(value) for key, value in found.items() if value is not None}


def _content(value: Any) -> Any:
    """A special token is a string, or an object with its `content`."""
    return value["content"] if isinstance(value, dict) and "content" in value else value
