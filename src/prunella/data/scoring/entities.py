"""Entities in tagged sentences, scored as the CoNLL script does (Tjong Kim Sang & Buchholz 2000).

An entity counts as found if its first word, its last word and its type are all right. The tags may
be IOB2, IOB1 (B- only where two entities of a type touch), IOBES or BILOU: one rule reads them
all. An entity begins at B-, S- or U-; at I-, E- or L- of another type than before, or behind O or
the end of an entity; and goes on until the next one begins or O comes. For malformed tags, such
as an I- behind O, that is what the CoNLL script and seqeval do (seqeval's strict mode drops them).

Tags without a prefix are types themselves: neighbours of a type are one entity where O occurs;
where it does not, as in part-of-speech tags, every word is one of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prunella.data.scoring.counts import Statistic, check_number, f1_of, share

Tags = Sequence[Sequence[str]]
Span = tuple[int, int, str]  # first word, last word, type
_BEGINS, _ENDS = "BSU", "ESLU"
_PREFIXES = frozenset("BIESLUM")


def token_classification(gold: Tags, predictions: Tags) -> dict[str, Statistic]:
    """Tags of the words of n sentences: f1, precision and recall of entities (micro), and the
    accuracy of the words' tags."""
    _check(gold, predictions)
    whole = _are_whole_words(gold)
    pairs = list(zip(gold, predictions, strict=True))
    sums = np.array([_agreement(_spans(g, whole), _spans(p, whole)) for g, p in pairs], np.float64)
    hits, labelled, predicted = sums.T
    right = np.array([sum(a == b for a, b in zip(g, p, strict=True)) for g, p in pairs])
    words = np.array([len(g) for g, _ in pairs])

    def f1(counts: np.ndarray) -> np.ndarray:
        return f1_of(counts @ hits, counts @ labelled, counts @ predicted)

    return {
        "f1": f1,
        "precision": share(hits, predicted),
        "recall": share(hits, labelled),
        "accuracy": share(right, words),
    }


def entity_figures(gold: Tags, predictions: Tags) -> dict[str, dict[str, float]]:
    """For each type of entity, in alphabetic order: precision, recall, f1, and how many there are
    in gold ("entities") and in the predictions ("predicted")."""
    _check(gold, predictions)
    whole = _are_whole_words(gold)
    hits: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for sentence, guess in zip(gold, predictions, strict=True):
        truth, found = _spans(sentence, whole), _spans(guess, whole)
        for counter, spans in ((labelled, truth), (predicted, found), (hits, truth & found)):
            counter.update(kind for _, _, kind in spans)
    return {
        kind: {
            "precision": hits[kind] / max(predicted[kind], 1),
            "recall": hits[kind] / max(labelled[kind], 1),
            "f1": 2 * hits[kind] / (labelled[kind] + predicted[kind]),
            "entities": labelled[kind],
            "predicted": predicted[kind],
        }
        for kind in sorted(labelled | predicted)
    }


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence in order: first word, last word, type."""
    spans: list[Span] = []
    first, before = 0, ("O", "")
    for i, tag in enumerate([*tags, "O"]):
        prefix, kind = _parts(tag)
        begins = _begins(prefix, kind, *before)
        if before[0] != "O" and (prefix == "O" or begins):
            spans.append((first, i - 1, before[1]))
        if begins:
            first = i
        before = prefix, kind
    return spans


def _begins(prefix: str, kind: str, prefix_before: str, kind_before: str) -> bool:
    if prefix == "O":
        return False
    outside = prefix_before == "O" or prefix_before in _ENDS
    return prefix in _BEGINS or outside or kind != kind_before


def _parts(tag: str) -> tuple[str, str]:
    """Prefix and type; a tag without a prefix is inside an entity of that type."""
    if tag == "O":
        return "O", ""
    prefix, hyphen, kind = tag.partition("-")
    if prefix not in _PREFIXES:
        return "I", tag
    return (prefix, kind) if hyphen else (tag, "")


def _spans(tags: Sequence[str], whole_words: bool) -> set[Span]:
    if whole_words:
        return {(i, i, tag) for i, tag in enumerate(tags)}
    return set(spans_of(tags))


def _are_whole_words(gold: Tags) -> bool:
    """Whether tags name no entities, as parts of speech do: no O, and no prefix anywhere."""
    present = {tag for tags in gold for tag in tags}
    return not any(tag == "O" or tag.partition("-")[0] in _PREFIXES for tag in present)


def _agreement(gold: set[Span], predicted: set[Span]) -> tuple[int, int, int]:
    return len(gold & predicted), len(gold), len(predicted)


def _check(gold: Tags, predictions: Tags) -> None:
    if len(gold) != len(predictions):
        raise ValueError(f"{len(gold)} sentences, but predictions for {len(predictions)}")
    check_number(len(gold))
    for i, (tags, guess) in enumerate(zip(gold, predictions, strict=True)):
        if len(tags) != len(guess):
            raise ValueError(f"sentence {i} has {len(tags)} tags, its prediction {len(guess)}")
