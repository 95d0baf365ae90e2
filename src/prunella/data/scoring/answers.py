"""Answers to questions, scored as SQuAD's official scripts do (Rajpurkar et al. 2016, 2018).

A prediction takes the best figure over the accepted answers, after lower-casing, dropping ASCII
punctuation and English articles, and joining white space. Where some question has no answer, the
rules of version 2 hold: "" is right for those alone, accepted answers of which nothing is left
are ignored, and two texts of which nothing is left agree in f1 as well.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from prunella.data.scoring.counts import Statistic, check_number, mean_of, share

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def question_answering(
    gold: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, Statistic]:
    """Accepted answers of n questions (none: it has no answer), and a prediction for each ("": no
    answer): f1, exact; where some have no answer also has_answer_f1, has_answer_exact, and
    no_answer_accuracy, the share of those that were seen to have none."""
    if len(gold) != len(predictions):
        raise ValueError(f"{len(gold)} questions, but predictions for {len(predictions)}")
    check_number(len(gold))
    has_answer = np.array([bool(answers) for answers in gold])
    version_2 = not has_answer.all()
    exact, f1 = (
        _figures(figure, gold, predictions, version_2)
        for figure in (_exact, _f1_version_2 if version_2 else _f1)
    )
    statistics = {"f1": mean_of(f1), "exact": mean_of(exact)}
    if version_2:
        statistics |= {
            "has_answer_f1": share(f1 * has_answer, has_answer),
            "has_answer_exact": share(exact * has_answer, has_answer),
            "no_answer_accuracy": share(exact * ~has_answer, ~has_answer),
        }
    return statistics


def best_threshold(
    gold: Sequence[Sequence[str]], texts: Sequence[str], margins: Sequence[float]
) -> dict[str, float]:
    """Where the score of "no answer" had best lie, as version 2's official script searches it.

    A question has no answer where its margin is above the threshold. It is chosen on the very rows
    it is scored on, so the figures are an upper bound; take the threshold from rows set aside.

    Args:
        gold: Accepted answers of n questions, none where there is no answer.
        texts: The best stretch of each context.
        margins: The score of "no answer" less that of this stretch.

    Returns:
        best_f1, best_exact, each at its own best threshold, and best_f1_threshold.
    """
    order = np.argsort(np.asarray(margins, dtype=np.float64), kind="stable")
    levels = np.asarray(margins, dtype=np.float64)[order]
    found: dict[str, float] = {}
    for name, figure in (("best_f1", _f1_version_2), ("best_exact", _exact)):
        given, silent = (
            _figures(figure, gold, said, version_2=True)[order]
            for said in (texts, [""] * len(gold))
        )
        # The first k in order are answered: from none of them to all.
        totals = silent.sum() + np.concatenate([[0.0], np.cumsum(given - silent)])
        allowed = np.concatenate([[True], levels[1:] > levels[:-1], [True]])  # equal ones together
        most = int(np.where(allowed, totals, -1.0).argmax())
        found[name] = float(totals[most]) / len(gold)
        if name == "best_f1":
            below = np.nextafter(levels[0], -np.inf)
            found["best_f1_threshold"] = float(levels[most - 1] if most else below)
    return found


def normalize_answer(text: str) -> str:
    """A text as SQuAD compares it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _figures(
    figure: Callable[[str, str], float],
    gold: Sequence[Sequence[str]],
    predictions: Sequence[str],
    version_2: bool,
) -> np.ndarray:
    """The figure of each question, [n]."""
    pairs = zip(gold, predictions, strict=True)
    return np.array([_best(figure, answers, said, version_2) for answers, said in pairs])


def _best(
    figure: Callable[[str, str], float], answers: Sequence[str], prediction: str, version_2: bool
) -> float:
    normalized = [normalize_answer(answer) for answer in answers]
    if version_2:
        normalized = [answer for answer in normalized if answer] or [""]
    return max(figure(answer, normalize_answer(prediction)) for answer in normalized)


def _exact(answer: str, prediction: str) -> float:
    return float(answer == prediction)


def _f1(answer: str, prediction: str) -> float:
    """F1 of the two bags of words."""
    words, guess = answer.split(), prediction.split()
    common = sum((Counter(words) & Counter(guess)).values())
    return 2 * common / (len(words) + len(guess)) if common else 0.0


def _f1_version_2(answer: str, prediction: str) -> float:
    return _f1(answer, prediction) if answer and prediction else _exact(answer, prediction)
