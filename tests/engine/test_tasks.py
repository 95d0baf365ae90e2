"""Results of every task, beside those of transformers' pipelines on the same tiny models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine.conftest import FAMILIES, Tiny

from prunella.engine.results import (
    Choice,
    Classification,
    Embedding,
    Entities,
    FilledMask,
    MultiLabel,
    Regression,
)
from prunella.errors import InputError

Tinies = Callable[..., Tiny]
TEXTS = [
    "The captain finds a golden lantern in the attic.",
    "",
    "Nobody knows!",
    "When the queen leaves the palace, the old farmer paints the table at dawn.",
    "unaffordable Zürich 42",
]
NEAR: dict[str, Any] = {"rel": 1e-4, "abs": 1e-5}


def pipeline(subject: Tiny, task: str, **settings: Any) -> Any:
    import transformers

    return transformers.pipeline(
        task, model=subject.torch(), tokenizer=subject.tokenizer(), device="cpu", **settings
    )


# -------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("family", FAMILIES)
def test_classification(tiny: Tinies, family: str) -> None:
    subject = tiny(family, "SequenceClassification", id2label={0: "bad", 1: "good", 2: "odd"})
    expected = pipeline(subject, "text-classification", top_k=None)(TEXTS)
    found = subject.model()(TEXTS, top_k=None)
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, Classification)
        assert [label.label for label in ours.scores] == [row["label"] for row in theirs]
        assert [s.score for s in ours.scores] == pytest.approx([r["score"] for r in theirs], **NEAR)
        assert (ours.label, ours.score) == (ours.scores[0].label, ours.scores[0].score)
    best = subject.model()(TEXTS[0])
    assert best.to_json() == {"label": best.label, "score": best.score}
    assert len(subject.model()(TEXTS[0], top_k=2).to_json()["scores"]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_multiple_choice(tiny: Tinies, family: str) -> None:
    import torch

    subject = tiny(family, "MultipleChoice")
    choices = ["in the attic", "a golden lantern finds the old farmer at dawn", ""]
    pairs = [[TEXTS[0]] * 3, choices]
    read = subject.tokenizer()(*pairs, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = subject.torch()(**{name: tensor[None] for name, tensor in read.items()}).logits[0]
    found = subject.model()({"text": TEXTS[0], "choices": choices})
    assert isinstance(found, Choice)
    assert found.scores == pytest.approx(logits.softmax(0).tolist(), **NEAR)
    best = int(logits.argmax())
    assert (found.text, found.index, found.score) == (choices[best], best, found.scores[best])
    assert found.to_json().keys() == {"text", "index", "score", "scores"}
    lists = subject.model()([(TEXTS[0], choices), (TEXTS[3], choices[:2])])
    assert lists[0].scores == pytest.approx(found.scores, **NEAR) and len(lists[1].scores) == 2
    for bad in ("text", ("text", "choice"), ("text", ["one"]), ("text", [1, 2]), {"text": "a"}):
        with pytest.raises(InputError, match="choice"):
            subject.model()(bad)


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs(tiny: Tinies, family: str) -> None:
    subject = tiny(family, "SequenceClassification", id2label={0: "bad", 1: "good", 2: "odd"})
    long = " ".join(TEXTS) + " "
    pairs = [(TEXTS[0], TEXTS[3]), (long * 2, TEXTS[0]), (TEXTS[0], long * 3), (long * 2, long)]
    score = pipeline(subject, "text-classification", top_k=None, truncation=True)
    found = subject.model()(pairs, top_k=None)
    for ours, (one, two) in zip(found, pairs, strict=True):
        theirs = score({"text": one, "text_pair": two})
        assert [label.label for label in ours.scores] == [row["label"] for row in theirs]
        assert [s.score for s in ours.scores] == pytest.approx([r["score"] for r in theirs], **NEAR)
    dictionaries = [{"text": one, "text_pair": two} for one, two in pairs]
    assert subject.model()(dictionaries, top_k=None) == found


def test_texts_are_as_many_as_in_training(tiny: Tinies) -> None:
    model = tiny("bert", "SequenceClassification").model()
    text, pair = TEXTS[0], (TEXTS[0], TEXTS[1])
    assert model.pairs is None and len(model([text, pair])) == 2  # not recorded: both will do
    model.card = replace(model.card, record={"pairs": True})
    with pytest.raises(InputError, match="^a single text, the model was trained on pairs of texts"):
        model(text)
    with pytest.raises(InputError, match="^input 1: a single text, "):
        model([pair, text])
    model.card = replace(model.card, record={"pairs": False})
    with pytest.raises(InputError, match="^a pair of texts, the model was trained on single texts"):
        model({"text": text, "text_pair": text})
    assert model(text).label
    embedding = tiny("bert", "SequenceClassification").model(task="embedding")
    embedding.card = replace(embedding.card, record={"pairs": True})
    assert embedding.pairs is None and embedding(text).vector is not None


def test_multi_label(tiny: Tinies) -> None:
    names = {0: "red", 1: "green", 2: "blue"}
    problem = "multi_label_classification"
    subject = tiny("bert", "SequenceClassification", id2label=names, problem_type=problem)
    expected = pipeline(subject, "text-classification", top_k=None)(TEXTS)
    model = subject.model()
    assert model.task.name == "multi-label"
    for ours, theirs in zip(model(TEXTS), expected, strict=True):
        assert isinstance(ours, MultiLabel)
        assert [label.label for label in ours.scores] == [row["label"] for row in theirs]
        assert [s.score for s in ours.scores] == pytest.approx([r["score"] for r in theirs], **NEAR)
        assert ours.labels == tuple(r["label"] for r in theirs if r["score"] >= 0.5)
    assert model(TEXTS[0], threshold=0.0).labels == tuple(s.label for s in model(TEXTS[0]).scores)
    assert model(TEXTS[0], threshold=1.01, top_k=1).labels == ()
    assert len(model(TEXTS[0], top_k=1).scores) == 1


def test_regression(tiny: Tinies) -> None:
    subject = tiny("roberta", "SequenceClassification", num_labels=1, problem_type="regression")
    expected = pipeline(subject, "text-classification")(TEXTS)
    for ours, theirs in zip(subject.model()(TEXTS), expected, strict=True):
        assert isinstance(ours, Regression)
        assert ours.value == pytest.approx(theirs["score"], **NEAR)
        assert ours.to_json() == {"value": ours.value}
    several = tiny("bert", "SequenceClassification", num_labels=3, problem_type="regression")
    result = several.model()("a text")
    assert len(result.values) == 3 and result.to_json()["values"] == list(result.values)


def test_one_output_alone_is_a_number(tiny: Tinies) -> None:
    subject = tiny("bert", "SequenceClassification", num_labels=1)
    assert subject.model().task.name == "regression"
    sigmoid = subject.model(task="multi-label")("a text").scores[0].score
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-subject.model()("a text").value)))


# ------------------------------------------------------------------------------ entities


@pytest.mark.parametrize("how", ["first", "average", "max", "simple"])
@pytest.mark.parametrize("family", FAMILIES)
def test_entities(tiny: Tinies, family: str, how: str) -> None:
    subject = tiny(family, "TokenClassification")
    texts = [text for text in TEXTS if text]
    expected = pipeline(subject, "token-classification", aggregation_strategy=how)(texts)
    found = subject.model()(texts, aggregation=how)
    assert sum(map(len, found)) > 5
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        assert isinstance(ours, Entities)
        assert [(e.label, e.start, e.end) for e in ours] == [
            (row["entity_group"], row["start"], row["end"]) for row in theirs
        ]
        assert [e.score for e in ours] == pytest.approx([float(r["score"]) for r in theirs], **NEAR)
        assert all(entity.text == text[entity.start : entity.end] for entity in ours)


def test_no_entities_in_an_empty_text(tiny: Tinies) -> None:
    found = tiny("bert", "TokenClassification").model()("")
    assert found.entities == () and found.to_json() == {"entities": []}


def test_entities_of_a_long_text_come_from_windows(tiny: Tinies) -> None:
    subject = tiny("bert", "TokenClassification")
    model = subject.model()
    text = " ".join(TEXTS * 6)
    found = model(text, stride=20)
    assert max(entity.end for entity in found) > len(text) * 0.9
    for entity in found:
        assert entity.text == text[entity.start : entity.end]
    tokens = subject.tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) > 2 * model.max_length
    # Each token's tag is that of the window in which it has the most around it.
    logits = window_logits(subject, tokens, room=model.max_length - 2, stride=20)
    entity = found[len(found) // 2]
    offsets = subject.tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    first = next(i for i, (start, _) in enumerate(offsets) if start == entity.start)
    assert model.labels[int(logits[first].argmax())].split("-")[-1] == entity.label


def window_logits(subject: Tiny, tokens: Sequence[int], room: int, stride: int) -> np.ndarray:
    """Logits of each token of a long text from its most central window, by transformers."""
    import torch

    model, tokenizer = subject.torch(), subject.tokenizer()
    best: dict[int, tuple[int, np.ndarray]] = {}
    begin = 0
    while True:
        part = tokens[begin : begin + room]
        ids = [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        for place in range(len(part)):
            around = min(place, len(part) - 1 - place)
            if begin == 0:
                around = len(part) - 1 - place
            if begin + room >= len(tokens):
                around = place
            if begin + place not in best or around > best[begin + place][0]:
                best[begin + place] = around, logits[place + 1]
        if begin + room >= len(tokens):
            return np.stack([best[i][1] for i in range(len(tokens))])
        begin += room - stride


# ----------------------------------------------------------------------------- fill-mask


@pytest.mark.parametrize("family", FAMILIES)
def test_fill_mask(tiny: Tinies, family: str) -> None:
    subject = tiny(family, "MaskedLM")
    texts = ["The [MASK] finds a lantern.", "the queen in the [MASK]"]
    expected = pipeline(subject, "fill-mask", top_k=7)(texts)
    found = subject.model()(texts, top_k=7)
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        assert isinstance(ours, FilledMask)
        assert [c.id for c in ours.candidates] == [row["token"] for row in theirs]
        assert [c.token for c in ours.candidates] == [row["token_str"] for row in theirs]
        scores = [c.score for c in ours.candidates]
        assert scores == pytest.approx([row["score"] for row in theirs], **NEAR)
        assert ours.candidates[0].text == text.replace("[MASK]", ours.candidates[0].token)


def test_several_masks(tiny: Tinies) -> None:
    subject = tiny("bert", "MaskedLM")
    text = "The [MASK] finds a [MASK] at dawn."
    expected = pipeline(subject, "fill-mask")(text)
    found = subject.model()(text)
    assert [[c.id for c in mask] for mask in found.masks] == [
        [row["token"] for row in mask] for mask in expected
    ]
    assert found.masks[1][0].text == f"The [MASK] finds a {found.masks[1][0].token} at dawn."
    assert len(found.to_json()["masks"]) == 2
    assert len(subject.model()(text, top_k=None).candidates) == subject.model().runner.width


# ---------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("head", [None, "SequenceClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings(tiny: Tinies, family: str, head: str | None) -> None:
    import torch
    import transformers

    subject = tiny(family, head)
    encoder = transformers.AutoModel.from_pretrained(subject.folder).eval()
    tokenizer = subject.tokenizer()
    model = subject.model(task="embedding") if head else subject.model()
    assert model.task.name == "embedding"
    found = model(TEXTS)
    assert np.asarray(found).shape == (len(TEXTS), 32)
    assert np.asarray(found).dtype == np.float32
    first = model(TEXTS, pooling="cls", normalize=True)
    for text, mean, cls in zip(TEXTS, found, first, strict=True):
        with torch.no_grad():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            states = encoder(ids).last_hidden_state[0].numpy()
        assert isinstance(mean, Embedding)
        np.testing.assert_allclose(mean.vector, states.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(cls.vector, states[0] / np.linalg.norm(states[0]), atol=1e-5)
        assert mean.to_json() == {"embedding": mean.vector.tolist()}
