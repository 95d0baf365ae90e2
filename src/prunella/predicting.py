"""predict: answers for texts on the command line, or for a file of them. No torch needed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from prunella.columns import Layout, check_pairs, find_columns, pick
from prunella.engine.model import BATCH_TOKENS, Model, Outcome, load
from prunella.errors import InputError
from prunella.prediction_files import Meter, Target, open_target
from prunella.rows import Row, Rows, name_of
from prunella.settings import PredictSettings

# Rows, and characters, that are read before the model runs: enough to batch texts of one length,
# few enough to show progress every second or so.
_ROWS, _CHARACTERS = 1024, 1 << 16
_OPTIONS = ("top_k", "max_length", "threshold", "pooling", "normalize", "no_answer")


@dataclass(frozen=True)
class Predictions:
    """What a run of `predict` did.

    Attributes:
        model: The packed file.
        task: What it was used for.
        out: Where the results are: a file, "-" for standard output, None if in `results`.
        texts: Results made.
        tokens: Tokens that the model read.
        seconds: From the first row to the last result; loading is not in it.
        bad: Rows passed over.
        cut: Texts whose ends were cut because they were too long.
        earlier: Results of an interrupted run that were kept.
        results: Those of texts on the command line.
    """

    model: str
    task: str
    out: str | None
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bad: int = 0
    cut: int = 0
    earlier: int = 0
    results: tuple[dict[str, Any], ...] = ()

    @property
    def texts_per_second(self) -> float:
        return self.texts / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        rates = {
            "texts_per_second": self.texts_per_second,
            "tokens_per_second": self.tokens_per_second,
        }
        document = {**asdict(self), **rates}
        document["results"] = list(self.results)
        if self.out is not None:
            del document["results"]
        return document

    def show(self, console: Console) -> None:
        """Prints the results that are in no file, and the throughput."""
        for result in self.results:
            console.print(json.dumps(result, ensure_ascii=False), markup=False, soft_wrap=True)
        if self.out in (None, "-"):  # standard output holds results and nothing else
            console = Console(stderr=True, highlight=False)
        if self.out is not None:
            console.print(f"predict -> {self.out}  ({self.task})", markup=False, soft_wrap=True)
            console.print(
                f"{self.texts:,} texts in {self.seconds:.2f} s: "
                f"{self.texts_per_second:,.1f} texts/s, {self.tokens_per_second:,.0f} tokens/s",
                soft_wrap=True,
            )
        notes = {
            "kept from an interrupted run": self.earlier,
            "bad rows passed over": self.bad,
            "texts cut because they were too long": self.cut,
        }
        for note, count in notes.items():
            if count:
                console.print(f"{note}: {count:,}")


def predict(settings: PredictSettings) -> Predictions:
    """Answers for texts.

    Results of a file go to OUT.partial, line by line, and become OUT when all are there: so OUT is
    whole or absent, and what an interrupted run has answered is kept. The same command goes on
    behind it.

    Raises:
        InputError: If the settings contradict each other, the model or a file cannot be read, or
            a row is bad and bad rows are not to be passed over.
    """
    _check(settings)
    model = load(
        settings.model,
        threads=settings.threads,
        task=settings.task,
        batch_tokens=settings.batch_tokens or BATCH_TOKENS,
    )
    options = {name: getattr(settings, name) for name in _OPTIONS}
    # Not `in (None, False)`: a threshold of 0 equals False.
    options = {k: value for k, value in options.items() if value is not None and value is not False}
    if settings.file is None:
        return _predict_texts(model, settings, options)
    try:
        return _predict_file(model, settings, options)
    except BrokenPipeError:  # as by `| head`; the interpreter must not flush into it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError("standard output was closed before all results were written") from None


def _check(settings: PredictSettings) -> None:
    if bool(settings.text) == (settings.file is not None):
        raise InputError("give exactly one of --text and --file")
    if settings.text_pair and len(settings.text_pair) != len(settings.text):
        raise InputError(
            f"{len(settings.text)} --text and {len(settings.text_pair)} --text-pair; a pair has "
            "one of each"
        )
    if settings.file is None and settings.out is not None:
        raise InputError("--out is for the results of --file")
    if settings.file is not None and settings.out is None:
        raise InputError('--file needs --out: the file for the results, or "-"')
    if len(settings.columns) > 2:
        raise InputError(f"--columns names {len(settings.columns)} columns; a model reads 1 or 2")


def _predict_texts(model: Model, settings: PredictSettings, options: dict[str, Any]) -> Predictions:
    paired = bool(settings.text_pair)
    advice = "leave --text-pair out" if paired else "give --text-pair with each --text"
    with _named("--text-pair" if paired else "--text"):
        check_pairs(paired, model.pairs, advice)
    inputs: Sequence[Any] = settings.text
    if settings.text_pair:
        inputs = list(zip(settings.text, settings.text_pair, strict=True))
    begun = time.perf_counter()
    outcomes = model.attempt(inputs, **options)
    seconds = time.perf_counter() - begun
    results: list[dict[str, Any]] = []
    done = Predictions(settings.model, model.task.name, None, seconds=seconds)
    for number, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, Outcome):
            results.append(outcome.result.to_json())
            done = _counted(done, outcome)
        elif settings.skip_bad:
            results.append({"error": str(outcome)})
            done = replace(done, bad=done.bad + 1)
        else:
            raise InputError(f"text {number}: {outcome}")
    return replace(done, results=tuple(results))


def _predict_file(model: Model, settings: PredictSettings, options: dict[str, Any]) -> Predictions:
    assert settings.file is not None and settings.out is not None
    rows = Rows(settings.file, settings.format)
    done = Predictions(settings.model, model.task.name, settings.out)
    try:
        with open_target(settings, settings.out) as target, Meter("predict", rows) as meter:
            done = replace(done, earlier=target.earlier)
            begun = time.perf_counter()
            layout: Layout | None = None
            for chunk in _chunks(iter(rows), target.last_line):
                layout = layout or _layout(model, settings, chunk)
                done = _answer(model, settings, options, chunk, layout, target, done)
                done = replace(done, seconds=time.perf_counter() - begun)
                meter.update(done.texts, done.tokens_per_second)
    finally:
        rows.close()
    return done


def _layout(model: Model, settings: PredictSettings, chunk: Sequence[Row]) -> Layout | None:
    """The columns, from the first row that has any; None where all rows are mere texts."""
    for row in chunk:
        with _named(f"{name_of(str(settings.file))}, line {row.line}"):
            if isinstance(row.record, dict):
                return find_columns(
                    row.record,
                    given=settings.columns,
                    task=model.task.name,
                    trained=model.card.record,
                )
            if isinstance(row.record, str):
                check_pairs(False, model.pairs, "give a file with a column for each")
    return None


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Says of an error where it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _answer(
    model: Model,
    settings: PredictSettings,
    options: dict[str, Any],
    chunk: Sequence[Row],
    layout: Layout | None,
    target: Target,
    done: Predictions,
) -> Predictions:
    """Writes the results of some rows, in their order, up to the first bad one that counts."""
    inputs = [_input(row, layout, model) for row in chunk]
    good = [value for value in inputs if not isinstance(value, InputError)]
    outcomes = iter(model.attempt(good, **options))
    for row, value in zip(chunk, inputs, strict=True):
        outcome = value if isinstance(value, InputError) else next(outcomes)
        if isinstance(outcome, Outcome):
            target.write({"line": row.line, **outcome.result.to_json()})
            done = _counted(done, outcome)
            continue
        where = f"{name_of(str(settings.file))}, line {row.line}: {outcome}"
        if not settings.skip_bad:
            raise InputError(f"{where}; repair it, or pass --skip-bad")
        console = Console(stderr=True, highlight=False)
        console.print(f"passed over: {where}", markup=False, soft_wrap=True)
        done = replace(done, bad=done.bad + 1)
    target.flush()
    return done


def _input(row: Row, layout: Layout | None, model: Model) -> Any:
    if isinstance(row.record, InputError) or layout is None:
        return row.record
    words = model.task.name == "token-classification"
    try:
        return pick(row.record, layout, words=words, pairs=model.pairs)
    except InputError as error:
        return error


def _chunks(rows: Iterator[Row], behind: int) -> Iterator[list[Row]]:
    """Rows behind a line, some at a time."""
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        if row.line <= behind:
            continue
        chunk.append(row)
        characters += _size(row)
        if len(chunk) == _ROWS or characters > _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _size(row: Row) -> int:
    if isinstance(row.record, str):
        return len(row.record)
    if isinstance(row.record, dict):
        return sum(len(value) for value in row.record.values() if isinstance(value, str))
    return 0


def _counted(done: Predictions, outcome: Outcome) -> Predictions:
    return replace(
        done,
        texts=done.texts + 1,
        tokens=done.tokens + outcome.tokens,
        cut=done.cut + bool(outcome.cut),
    )
