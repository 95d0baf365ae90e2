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
        np.array([_best(figure, a, p, version_2) for a, p in zip(gold, predictions, strict=True)])
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


def normalize_answer(text: str) -> str:
    """A text as SQuAD compares it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


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
