"""Small things that many tests share: made-up English, a tokenizer of it, models in miniature.

Everything is made once a session and shared: tests must not change the files. Heavy libraries are
imported by the fixtures that need them, so that tests of the light half stay light.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import BertTokenizer

# A machine that also trains is slow now and then; that is no fault of an example.
settings.register_profile("prunella", deadline=None)
settings.load_profile("prunella")

PEOPLE = "baker captain doctor engine farmer gardener hunter judge king lawyer miller neighbour officer painter queen runner sailor teacher uncle visitor widow".split()
VERBS = "admires builds carries delivers examines finds guards hides inspects joins keeps loses mends notices offers paints questions repairs sells throws understands values wants".split()
THINGS = "apple basket candle diamond envelope fiddle garment hammer instrument jacket kettle lantern mirror necklace oven parcel quilt ribbon saddle table umbrella vase whistle box yacht zither".split()
PLACES = "attic bridge castle desert estate forest garden harbour island jungle kitchen library market orchard palace quarry river square tower valley workshop".split()
TIMES = "at dawn, before noon, after the storm, every autumn, during the feast, last winter, in the evening, once a year, on quiet days, until midnight".split(
    ", "
)
LOOKS = "ancient broken crimson dusty elegant fragile golden heavy important jolly known large modern narrow odd precious quiet rusty simple tiny unusual velvet wooden young".split()
GOOD = "wonderful delightful splendid charming brilliant".split()
BAD = "dreadful tedious horrible boring miserable".split()


def _sentence(rng: random.Random) -> str:
    who, whom, verb, thing = (
        rng.choice(PEOPLE),
        rng.choice(PEOPLE),
        rng.choice(VERBS),
        rng.choice(THINGS),
    )
    look, place, time = rng.choice(LOOKS), rng.choice(PLACES), rng.choice(TIMES)
    shape = rng.randrange(4)
    if shape == 0:
        return f"The {who} {verb} the {look} {thing} in the {place} {time}."
    if shape == 1:
        return f"{time.capitalize()}, a {look} {thing} waits for the {who} near the {place}."
    if shape == 2:
        return f"Nobody in the {place} knows why the {who} {verb} a {thing}, but the {whom} does."
    return f"When the {whom} leaves the {place}, the {look} {who} {verb} the {thing}."


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 60 KB of English: a paragraph a line, a blank line between documents."""
    rng = random.Random(7)
    documents: list[str] = []
    while sum(map(len, documents)) < 60_000:
        paragraphs = [
            " ".join(_sentence(rng) for _ in range(rng.randint(1, 6)))
            for _ in range(rng.randint(1, 4))
        ]
        documents.append("\n".join(paragraphs) + "\n")
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(corpus_file: Path) -> BertTokenizer:
    """A WordPiece tokenizer of 120 entries."""
    from prunella.data.vocabulary import train_wordpiece

    tokenizer = train_wordpiece([str(corpus_file)], 120)
    tokenizer.model_max_length = 64
    return tokenizer


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes model directories of random weights, with the tokenizer, for up to 64 tokens.

    `tiny_checkpoint(family, head="mlm", layers=2, hidden=32, labels=2, seed=0)`: `family` is one
    of bert, roberta, distilbert, electra; `head` one of mlm, base, classifier.
    """
    made: dict[tuple[Any, ...], Path] = {}

    def make(
        family: str,
        head: str = "mlm",
        *,
        layers: int = 2,
        hidden: int = 32,
        labels: int = 2,
        seed: int = 0,
    ) -> Path:
        key = (family, head, layers, hidden, labels, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{head}")
            model = _tiny_model(family, head, len(tiny_tokenizer), layers, hidden, labels, seed)
            model.save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


def _tiny_model(
    family: str, head: str, vocabulary: int, layers: int, hidden: int, labels: int, seed: int
) -> Any:
    import torch
    from transformers import (
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        BertConfig,
        DistilBertConfig,
        ElectraConfig,
        RobertaConfig,
    )

    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 72,
        "initializer_range": 0.1,  # else all outputs of so narrow a model are alike
        "num_labels": labels,
        "pad_token_id": 0,
    }
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
    }
    config: Any
    if family == "bert":
        config = BertConfig(**common, **sizes)
    elif family == "roberta":
        config = RobertaConfig(**common, **sizes, type_vocab_size=1, bos_token_id=2, eos_token_id=3)
    elif family == "electra":
        config = ElectraConfig(**common, **sizes, embedding_size=16)
    elif family == "distilbert":
        config = DistilBertConfig(
            **common, dim=hidden, n_layers=layers, n_heads=2, hidden_dim=2 * hidden
        )
    else:
        raise ValueError(family)
    kinds: dict[str, Any] = {
        "mlm": AutoModelForMaskedLM,
        "base": AutoModel,
        "classifier": AutoModelForSequenceClassification,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kinds[head].from_config(config)


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Labelled rows by kind ("single", "pair", "regression") and split ("train", "validation").

    single: sentence and label "bad" or "good". pair: sentence1, sentence2 and label "other" or
    "same" (place). regression: sentence1, sentence2 and score, half the number of shared parts.
    """
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(11)
    makers = {"single": _single_row, "pair": _pair_row, "regression": _regression_row}
    files: dict[str, dict[str, Path]] = {}
    for kind, make in makers.items():
        files[kind] = {}
        for split, count in (("train", 96), ("validation", 48)):
            path = folder / f"{kind}-{split}.jsonl"
            rows = [json.dumps(make(rng, i)) for i in range(count)]
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
            files[kind][split] = path
    return files


def _single_row(rng: random.Random, i: int) -> dict[str, Any]:
    word = rng.choice(GOOD if i % 2 else BAD)
    text = f"What a {word} {rng.choice(THINGS)}, said the {rng.choice(PEOPLE)}. {_sentence(rng)}"
    return {"sentence": text[: rng.randint(40, 90)], "label": "good" if i % 2 else "bad"}


def _pair_row(rng: random.Random, i: int) -> dict[str, Any]:
    first, second = rng.sample(PLACES, 2)
    return {
        "sentence1": f"The {rng.choice(PEOPLE)} sleeps in the {first}.",
        "sentence2": f"Is there a {rng.choice(THINGS)} in the {first if i % 2 else second}?",
        "label": "same" if i % 2 else "other",
    }


def _regression_row(rng: random.Random, i: int) -> dict[str, Any]:
    first = [rng.choice(words) for words in (LOOKS, PEOPLE, VERBS, THINGS)]
    other = [rng.choice(words) for words in (LOOKS, PEOPLE, VERBS, THINGS)]
    shared = i % 5
    second = first[:shared] + other[shared:]
    return {
        "sentence1": "The {} {} {} the {}.".format(*first),
        "sentence2": "A {} {} {} one {}.".format(*second),
        "score": sum(a == b for a, b in zip(first, second, strict=True)) / 2,
    }
