"""evaluate: the official metrics of a fine-tuned checkpoint on labelled rows, with an interval."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prunella.checkpoint import Checkpoint
from prunella.data.metrics import bootstrap, main_metric
from prunella.data.task_batches import encode
from prunella.data.tasks import TaskData, load_task
from prunella.errors import InputError
from prunella.models import fetch, load_finished, load_tokenizer, pad_id, takes_token_types
from prunella.settings import EvaluateSettings
from prunella.stages.task import hub_split
from prunella.training.task import predict_logits, predictions_of, score


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on labelled rows; `interval` is that of the main metric."""

    model: str
    data: str
    rows: int
    metrics: dict[str, float]
    main: str
    interval: tuple[float, float]
    level: float
    seconds: float
    predictions: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Scores a fine-tuned checkpoint; a quantised one computes in 8 bits.

    Raises:
        InputError: If the checkpoint has no task head, or the rows do not fit it.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    checkpoint = fetch(settings.model)
    model: Any = load_finished(checkpoint)
    rows = read_rows(settings, checkpoint, model.config)
    tokenizer = load_tokenizer(checkpoint)
    token_types = takes_token_types(model.config)
    encoded = encode(rows, tokenizer, _max_length(settings, checkpoint), token_types=token_types)
    begun = time.monotonic()
    logits = predict_logits(
        model, encoded, batch_size=settings.batch_size, pad_id=pad_id(tokenizer)
    )
    seconds = time.monotonic() - begun
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    main = main_metric(rows.kind, len(names))
    interval = bootstrap(
        rows.kind,
        rows.labels,
        predictions_of(rows.kind, logits),
        main,
        resamples=settings.resamples,
        seed=settings.seed,
        level=settings.level,
    )
    if settings.predictions:
        _write(Path(settings.predictions), rows, logits, names)
    return Evaluation(
        settings.model,
        settings.data,
        len(rows),
        score(rows.kind, logits, rows.labels),
        main,
        interval,
        settings.level,
        round(seconds, 3),
        settings.predictions,
    )


def read_rows(settings: EvaluateSettings, checkpoint: Checkpoint, config: Any) -> TaskData:
    """The labelled rows, read as the checkpoint's training did unless told otherwise."""
    task = (checkpoint.provenance or {}).get("task", {})
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    regression = config.num_labels == 1
    unnamed = names == [f"LABEL_{i}" for i in range(len(names))]
    known = [str(i) for i in range(len(names))] if unnamed else names
    kind: Literal["auto", "classification", "regression"] = settings.kind
    if kind == "auto":
        kind = "regression" if regression else "classification"
    return load_task(
        settings.data,
        text=settings.text or task.get("text"),
        pair=settings.pair or task.get("pair"),
        label=settings.label or task.get("label"),
        kind=kind,
        label_names=None if regression else known,
        split=hub_split(settings.data, settings.split),
    )


def _max_length(settings: EvaluateSettings, checkpoint: Checkpoint) -> int:
    task = (checkpoint.provenance or {}).get("task", {})
    return min(settings.max_length, task.get("max_length", settings.max_length))


def _write(path: Path, rows: TaskData, logits: np.ndarray, names: list[str]) -> None:
    lines = []
    for i, predicted in enumerate(predictions_of(rows.kind, logits)):
        if rows.kind == "regression":
            row = {"index": i, "prediction": float(predicted), "label": float(rows.labels[i])}
        else:
            row = {
                "index": i,
                "prediction": names[predicted],
                "label": names[int(rows.labels[i])],
                "logits": [round(float(x), 6) for x in logits[i]],
            }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: predictions cannot be written ({error.strerror})") from error
