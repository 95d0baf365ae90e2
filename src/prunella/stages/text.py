"""The text of an upstream stage: training and held-out corpora, and their micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from prunella.data.corpus import Corpus, split, tokenize_corpus
from prunella.data.digests import user_cache
from prunella.data.mixing import MixedBatches
from prunella.data.mlm_batches import MlmBatches, evaluation_batches, special_ids
from prunella.data.sources import content_hash, resolve
from prunella.errors import InputError
from prunella.models import check_length
from prunella.settings import TextSettings
from prunella.together import main_first
from prunella.training.loop import BatchSource

_HELD_OUT_BATCHES, _HELD_OUT_BATCH_TOKENS = 16, 2048
_HELD_OUT_TOKENS = 100_000
_HELD_OUT_TEXTS, _TRAINING_TEXTS = ("validation_text", "general_text"), ("text", "replay_text")


@dataclass(frozen=True)
class Text:
    """Tokenised training and held-out text.

    `replay` is other text to train on as well, a share `replay_share` of all micro-batches.
    """

    train: Corpus
    validation: Corpus
    settings: TextSettings
    tokenizer: PreTrainedTokenizerFast
    token_types: bool
    replay: Corpus | None = None
    replay_share: float = 0.0

    def batches(self, count: int, seed: int) -> BatchSource:
        """`count` training micro-batches."""
        if self.replay is None:
            return self._batches(self.train, count, seed)
        replay = self.replay
        return MixedBatches(
            lambda part: self._batches(self.train, part, seed),
            lambda part: self._batches(replay, part, seed),
            share=self.replay_share,
            count=count,
            seed=seed,
        )

    def _batches(self, corpus: Corpus, count: int, seed: int) -> MlmBatches:
        s = self.settings
        return MlmBatches(
            corpus,
            special_ids(self.tokenizer),
            batch_tokens=s.batch_tokens,
            length=s.length,
            short_share=s.short_share,
            pair_share=s.pair_share,
            mask_probability=s.mask_probability,
            seed=seed,
            count=count,
            token_types=self.token_types,
        )

    def held_out(self, corpus: Corpus | None = None) -> BatchSource:
        """Held-out micro-batches with fixed masks, some 33,000 tokens.

        They are the same for every stage, seed and size of training's batches: only blocks of
        another length make others.

        Args:
            corpus: Another text than the held-out one of training.
        """
        s = self.settings
        return evaluation_batches(
            corpus or self.validation,
            special_ids(self.tokenizer),
            batch_tokens=max(_HELD_OUT_BATCH_TOKENS, s.length),
            length=s.length,
            mask_probability=s.mask_probability,
            seed=0,
            count=_HELD_OUT_BATCHES,
        )

    def figures(self) -> dict[str, Any]:
        """What the provenance says of the text."""
        return {
            "train_tokens": int(self.train.n_tokens),
            "validation_tokens": int(self.validation.n_tokens),
            "fingerprint": self.train.fingerprint,
        }


def open_text(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerFast,
    config: Any,
    token_types: bool,
    *,
    deduplicate: bool = False,
) -> Text:
    """Tokenises the text of a stage, or finds it in the cache.

    Args:
        settings: Names the text.
        tokenizer: The model's.
        config: The model's.
        token_types: Whether batches need them.
        deduplicate: Drop near-duplicate paragraphs of the training text.

    Raises:
        InputError: If blocks are longer than the model's positions, or the text cannot be read.
    """
    check_length("length", settings.length, config)
    cache = cache_folder(settings.cache)

    def tokenized() -> tuple[Corpus, Corpus]:
        train = tokenize_corpus(
            settings.text,
            tokenizer,
            cache,
            max_tokens=settings.max_tokens,
            deduplicate=deduplicate,
        )
        if settings.validation_text:
            return train, tokenize_corpus(settings.validation_text, tokenizer, cache)
        held_out = min(_HELD_OUT_TOKENS, max(settings.length, train.n_tokens // 20))
        return split(train, held_out, seed=0)

    train, validation = main_first(tokenized)
    return Text(train, validation, settings, tokenizer, token_types)


def open_more_text(
    settings: TextSettings,
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    deduplicate: bool = False,
) -> Corpus:
    """Tokenises text besides that of training, or finds it in the cache."""
    cache = cache_folder(settings.cache)
    return main_first(lambda: tokenize_corpus(sources, tokenizer, cache, deduplicate=deduplicate))


def text_hashes(
    settings: TextSettings, more: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Hashes of the text that a stage reads, as `run_stage` takes them.

    Args:
        settings: Names the text.
        more: Other text, by the setting that names it.

    Raises:
        InputError: If text that is to be measured on is trained on as well.
    """
    sources = {"text": settings.text, "validation_text": settings.validation_text, **(more or {})}
    _refuse_overlap(sources)
    return {part: content_hash(files) for part, files in sources.items() if files}


def _refuse_overlap(sources: Mapping[str, Sequence[str]]) -> None:
    """Refuses held-out text that is text of training: its figures would be too good."""
    for held_out in _HELD_OUT_TEXTS:
        for trained in _TRAINING_TEXTS:
            both = _places(sources.get(held_out, ())) & _places(sources.get(trained, ()))
            if both:
                raise InputError(
                    f"{min(both)}: is in --{held_out.replace('_', '-')} and in "
                    f"--{trained.replace('_', '-')}; text to measure on must not be trained on, "
                    "leave it out of one of them"
                )


def _places(sources: Sequence[str]) -> set[str]:
    """The files that sources name, and data sets of the Hub by their names."""
    hub = {source for source in sources if source.startswith("hub:")}
    files = [source for source in sources if source not in hub]
    found = resolve(files) if files else []
    return hub | {str(Path(source.name).resolve()) for source in found}


def cache_folder(cache: str | None) -> Path:
    """The given cache folder, or prunella/ in the user's."""
    return Path(cache) if cache else user_cache()
