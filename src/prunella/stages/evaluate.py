"""evaluate: the official metrics of a fine-tuned model on labelled rows, with an interval; of two
models, their difference."""

from __future__ import annotations

import difflib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunella.data.metrics import bootstrap, main_metric, metric_names, metrics
from prunella.data.presets import official_metric
from prunella.data.scoring.entities import entity_figures
from prunella.errors import InputError
from prunella.settings import EvaluateSettings
from prunella.stages.askable import Askable, askable
from prunella.stages.comparison import Answers, Comparison, compare
from prunella.stages.examples import Examples, decided, oddities, open_for_evaluation
from prunella.tasks import Predictions


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on labelled rows.

    Attributes:
        model: The model.
        data: Where the rows are.
        kind: Of task.
        rows: How many.
        metrics: All metrics of the kind.
        main: The metric that decides.
        interval: That of the main metric.
        level: Of the interval.
        counts: What was odd about the rows ("rows_cut"), and how often.
        by_type: For each type of entity precision, recall, f1 and numbers; None elsewhere.
        seconds: That the model took.
        predictions: File that was written, if any.
    """

    model: str
    data: str
    kind: str
    rows: int
    metrics: dict[str, float]
    main: str
    interval: tuple[float, float]
    level: float
    counts: dict[str, int]
    by_type: dict[str, dict[str, float]] | None
    seconds: float
    predictions: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Asked:
    """What a model said, and what it was asked."""

    examples: Examples
    predictions: Predictions
    metrics: dict[str, float]
    main: str
    seconds: float


def evaluate(settings: EvaluateSettings) -> Evaluation | Comparison:
    """Scores a fine-tuned checkpoint or a packed file; a quantised one computes in 8 bits.

    Returns:
        The figures of the model; with `against`, those of both and their difference.

    Raises:
        InputError: If a model has no task head, or the rows do not fit it.
    """
    _check_target(settings)
    if settings.against is None:
        return evaluate_alone(settings)
    return _compared(settings, _ask(settings, settings.model), _ask(settings, settings.against))


def evaluate_alone(settings: EvaluateSettings) -> Evaluation:
    """The figures of `settings.model`, whatever there may be to compare it with."""
    asked = _ask(settings, settings.model)
    kind, gold, values = asked.examples.kind.name, asked.examples.gold, asked.predictions.values
    interval = bootstrap(
        kind,
        gold,
        values,
        asked.main,
        classes=asked.examples.classes,
        resamples=settings.resamples,
        seed=settings.seed,
        level=settings.level,
    )
    if settings.predictions:
        _write(Path(settings.predictions), asked.predictions.details)
    return Evaluation(
        settings.model,
        settings.data,
        kind,
        len(asked.examples),
        asked.metrics,
        asked.main,
        interval,
        settings.level,
        oddities(asked.examples),
        entity_figures(gold, values) if kind == "token-classification" else None,
        asked.seconds,
        settings.predictions,
    )


def _ask(settings: EvaluateSettings, name: str) -> _Asked:
    """Puts the rows to a model, read as its training did unless told otherwise."""
    with askable(name, batch_size=settings.batch_size, threads=settings.threads) as model:
        examples, deciding = open_for_evaluation(settings, model.checkpoint, model.config)
        main = _main_metric(settings, model, examples)  # what is mistyped shows at once
        begun = time.monotonic()
        found = decided(model.logits(examples), examples, deciding)
        seconds = round(time.monotonic() - begun, 3)
    figures = metrics(
        examples.kind.name, examples.gold, found.values, found.logits, classes=examples.classes
    ) | {**found.further}
    return _Asked(examples, found, figures, main, seconds)


def _main_metric(settings: EvaluateSettings, model: Askable, examples: Examples) -> str:
    """The metric that is asked for; else that of the data, of the training, of the kind."""
    kind = examples.kind.name
    known = metric_names(kind, examples.gold)
    if settings.metric is not None:
        if settings.metric in known:
            return settings.metric
        close = difflib.get_close_matches(settings.metric, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
        raise InputError(f"{kind} has no metric '{settings.metric}'; {hint}")
    record = (model.checkpoint.provenance or {}).get("task") or {}
    trained = record.get("metric") if record.get("kind") == kind else None
    official = official_metric(kind, settings.data)
    return next((m for m in (official, trained) if m in known), None) or main_metric(kind)


def _compared(settings: EvaluateSettings, a: _Asked, b: _Asked) -> Comparison:
    if a.examples.kind.name != b.examples.kind.name:
        raise InputError(
            f"{settings.model} is for {a.examples.kind.name}, {settings.against} for "
            f"{b.examples.kind.name}; compare models of one task"
        )
    first, second = (
        Answers(
            model,
            asked.examples.rows.names,
            asked.examples.gold,
            said.values,
            asked.metrics,
            oddities(asked.examples),
        )
        for model, asked, said in (
            (settings.model, a, a.predictions),
            (str(settings.against), b, b.predictions),
        )
    )
    comparison = compare(
        a.examples.kind.name,
        settings.data,
        first,
        second,
        a.main,
        resamples=settings.resamples,
        seed=settings.seed,
        level=settings.level,
        predictions=settings.predictions,
    )
    if settings.predictions:
        both = zip(a.predictions.details, b.predictions.details, strict=True)
        rows = [{**mine, "against": theirs["prediction"]} for mine, theirs in both]
        _write(Path(settings.predictions), rows)
    return comparison


def _check_target(settings: EvaluateSettings) -> None:
    """Refuses to write predictions over what is read."""
    if settings.predictions is None:
        return
    path = Path(settings.predictions)
    for read in (settings.data, settings.model, settings.against):
        if read is not None and path.exists() and Path(read).exists() and path.samefile(read):
            raise InputError(f"{path}: is what is read; choose another file for --predictions")


def _write(path: Path, details: list[dict[str, Any]]) -> None:
    rows = ({"index": i, **row} for i, row in enumerate(details))
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        draft.write_text("".join(lines), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{path}: predictions cannot be written ({error.strerror})") from error
