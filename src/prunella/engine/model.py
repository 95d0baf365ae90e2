"""A packed file, ready to answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from tokenizers import Encoding

from prunella.engine.batching import micro_batches
from prunella.engine.card import Card, read_card
from prunella.engine.inputs import Example, is_lone
from prunella.engine.kinds import make_task, task_name, trained_on_pairs, usual_reading
from prunella.engine.matrices import Arithmetic
from prunella.engine.options import Options, choose
from prunella.engine.results import Result
from prunella.engine.runner import Floats, Runner
from prunella.engine.tasks import Task
from prunella.engine.tokenizer_files import longest_input, read_tokenizer
from prunella.engine.tokens import TextEncoder, Window
from prunella.errors import InputError
from prunella.packed.backbone import check_whole
from prunella.packed.mask_file import is_mask
from prunella.packed.read import Weights, open_packed

if TYPE_CHECKING:
    from prunella.engine.many import Models

BATCH_TOKENS = 2048
# Inputs that are tokenised at once; bounds the memory of long lists.
_AT_ONCE = 2048


@dataclass(frozen=True)
class Outcome:
    """A result, and what it took.

    Attributes:
        result: The answer.
        tokens: Tokens that the model read for it.
        cut: Tokens that were left out because the text was too long.
    """

    result: Result
    tokens: int
    cut: int


@dataclass(frozen=True)
class _Job:
    """An example on its way: its tokens and its windows."""

    example: Example
    texts: Sequence[Encoding]
    windows: Sequence[Window]


class Model:
    """A model that answers for texts; see `prunella.load`. Safe to call from several threads.

    Attributes:
        card: What the packed file says of the model.
        task: What it is used for.
        runner: The compiled model.
    """

    def __init__(
        self,
        packed: Weights,
        runner: Runner,
        *,
        task: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Set up; most users call `prunella.load`.

        Args:
            packed: For configuration and tokenizer.
            runner: The same model, compiled.
            task: Use the model for this instead of what its head is for.
            batch_tokens: Tokens that run through the model at once, at most.

        Raises:
            InputError: If the file lacks a part, or the head cannot serve the task.
        """
        if batch_tokens < 1:
            raise InputError(f"batch_tokens must be above 0, not {batch_tokens}")
        self.card: Card = read_card(packed)
        self.runner = runner
        self.batch_tokens = batch_tokens
        name = task_name(self.card, task)
        tokenizer, settings = read_tokenizer(packed.files, packed.path)
        self.task: Task = make_task(name, self.card, tokenizer, settings)
        positions = min(self.card.positions, longest_input(settings) or self.card.positions)
        length, stride = usual_reading(name, self.card)
        self._encoder = TextEncoder(
            tokenizer,
            positions,
            token_types=self.card.token_types,
            usual=length,
            stride=stride,
        )
        self._check_vocabulary(packed, tokenizer.get_vocab_size(with_added_tokens=True))
        self._check_labels()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the head's outputs."""
        return self.card.labels

    @property
    def pairs(self) -> bool | None:
        """Whether the model was trained on pairs of texts; None if that is not known."""
        return trained_on_pairs(self.task.name, self.card.record)

    @property
    def max_length(self) -> int:
        """Tokens of a sequence that the model takes at most, special ones included.

        Where a call does not ask for as many, with its own `max_length`, a task reads what its
        training read.
        """
        return self._encoder.positions

    @overload
    def __call__(self, inputs: str | tuple[str, str] | dict[str, str], **options: Any) -> Any: ...
    @overload
    def __call__(self, inputs: Iterable[Any], **options: Any) -> list[Any]: ...
    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Results in the order of the inputs; a lone input gives a lone result.

        Args:
            inputs: A text; a pair of texts as a tuple or as {"text": ..., "text_pair": ...}; for
                question answering {"question": ..., "context": ...} or such a tuple; for multiple
                choice {"text": ..., "choices": [...]} or such a tuple; or an iterable of these.
            **options: See `prunella.engine.options`; which there are depends on the task.

        Returns:
            Results of the task's class in `prunella.engine.results`, one or a list.

        Raises:
            InputError: If an input or an option is not what the task takes. None of the inputs
                gets a result then; `attempt` answers for the others.
        """
        if is_lone(inputs):
            return _result(self.attempt([inputs], **options)[0], "")
        found: list[Any] = []
        waiting = iter(inputs)
        while piece := list(islice(waiting, _AT_ONCE)):
            outcomes = self.attempt(piece, **options)
            found += [
                _result(outcome, f"input {number}: ")
                for number, outcome in enumerate(outcomes, start=len(found))
            ]
        if not found:
            choose(self.task.options, options, self.task.name)
        return found

    def attempt(self, inputs: Sequence[Any], **options: Any) -> list[Outcome | InputError]:
        """An outcome for each input, or the error that it deserves.

        Raises:
            InputError: If an option is not one of the task's.
        """
        chosen = choose(self.task.options, options, self.task.name)
        if chosen.max_length is not None:
            self._encoder.limit(chosen.max_length, False)
        examples = [self._read(value) for value in inputs]
        texts = iter(self._encode([e for e in examples if isinstance(e, Example)]))
        jobs = [
            example if isinstance(example, InputError) else self._job(example, next(texts), chosen)
            for example in examples
        ]
        windows = [w for job in jobs if isinstance(job, _Job) for w in job.windows]
        parts = iter(self._run(windows, chosen))
        return [
            job
            if isinstance(job, InputError)
            else self._finish(job, list(islice(parts, len(job.windows))), chosen)
            for job in jobs
        ]

    def describe(self) -> list[dict[str, Any]]:
        """The kernel chosen for each matrix."""
        return self.runner.describe()

    def __repr__(self) -> str:
        return f"<prunella.Model {self.card.path}: {self.card.architecture}, {self.task.name}>"

    def _read(self, value: Any) -> Example | InputError:
        try:
            example = self.task.read(value)
        except InputError as error:
            return error
        pairs = self.pairs
        if pairs is None or pairs == (example.second is not None):
            return example
        if pairs:
            return InputError(
                "a single text, the model was trained on pairs of texts; give a tuple of two"
            )
        return InputError("a pair of texts, the model was trained on single texts; give one string")

    def _encode(self, examples: Sequence[Example]) -> list[list[Encoding] | InputError]:
        """The tokens of each example's texts; one by one if a text is none."""
        try:
            flat = iter(self._encoder.encode([text for e in examples for text in e.texts]))
            return [list(islice(flat, len(example.texts))) for example in examples]
        except InputError as error:
            if len(examples) == 1:
                return [error]
            return [self._encode([example])[0] for example in examples]

    def _job(
        self, example: Example, texts: list[Encoding] | InputError, options: Options
    ) -> _Job | InputError:
        if isinstance(texts, InputError):
            return texts
        try:
            return _Job(example, texts, self.task.windows(texts, self._encoder, options))
        except InputError as error:
            return error
        except OverflowError:
            return InputError(f"{self.card.path}: its tokenizer makes ids beyond any table")

    def _run(self, windows: Sequence[Window], options: Options) -> list[Any]:
        """What the task keeps of each window's outputs."""
        parts: list[Any] = [None] * len(windows)
        for batch in micro_batches([len(window) for window in windows], self.batch_tokens):
            chosen = [windows[i] for i in batch]
            outputs = self._outputs(chosen)
            for i, window, output in zip(batch, chosen, outputs, strict=True):
                parts[i] = self.task.reduce(window, output, options)
        return parts

    def _outputs(self, windows: Sequence[Window]) -> list[Floats]:
        """The outputs of each window's rows."""
        ids = np.concatenate([window.ids for window in windows])
        types = np.concatenate([window.types for window in windows])
        lengths = np.array([len(window) for window in windows], np.int32)
        rows = [self.task.rows(window) for window in windows] if self.task.uses_head else []
        try:
            if self.task.uses_head:
                starts = np.cumsum(lengths) - lengths
                places = [r + start for r, start in zip(rows, starts, strict=True)]
                flat = np.concatenate(places).astype(np.int32)
                outputs = self.runner.run(ids, types, lengths, flat)
            else:
                outputs = self.runner.hidden_states(ids, types, lengths)
        except ValueError as error:  # ids that the tokenizer makes and the tables lack
            raise InputError(
                f"{self.card.path}: its tokenizer and its tables do not fit ({error}); "
                "pack the checkpoint again"
            ) from None
        if not np.isfinite(outputs).all():
            raise InputError(
                f"{self.card.path}: its outputs are no numbers, so its weights are damaged; "
                "pack the checkpoint again"
            )
        counts = [len(r) for r in rows] if self.task.uses_head else lengths
        return np.split(outputs, np.cumsum(counts)[:-1])

    def _finish(self, job: _Job, parts: list[Any], options: Options) -> Outcome:
        result = self.task.finish(job.example, job.texts, job.windows, parts, options)
        tokens = sum(len(window) for window in job.windows)
        return Outcome(result, tokens, sum(window.cut for window in job.windows))

    def _check_labels(self) -> None:
        named = self.task.name not in ("fill-mask", "embedding", "multiple-choice")
        if named and len(self.card.labels) != self.runner.width:
            raise InputError(
                f"{self.card.path}: its config.json names {len(self.card.labels)} labels, the head "
                f"has {self.runner.width} outputs; pack the checkpoint again"
            )

    def _check_vocabulary(self, packed: Weights, tokens: int) -> None:
        """A token id beyond the table of embeddings would read foreign memory."""
        tables = [n for n in packed.names if n.endswith("embeddings.word_embeddings.weight")]
        rows = packed.info(tables[0]).shape[0] if tables else 0
        if tokens > rows:
            raise InputError(
                f"{packed.path}: its tokenizer has {tokens} tokens, its table of embeddings "
                f"{rows}; they belong to different models"
            )


@overload
def load(
    path: str | Path,
    *,
    masks: None = None,
    threads: int | None = None,
    task: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    isa: str | None = None,
    weights: Arithmetic | None = None,
) -> Model: ...
@overload
def load(
    path: str | Path,
    *,
    masks: Sequence[str | Path] | Mapping[str, str | Path],
    resident: int = 1,
    threads: int | None = None,
    task: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    isa: str | None = None,
    weights: Arithmetic | None = None,
) -> Models: ...
def load(
    path: str | Path,
    *,
    masks: Sequence[str | Path] | Mapping[str, str | Path] | None = None,
    resident: int = 1,
    threads: int | None = None,
    task: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    isa: str | None = None,
    weights: Arithmetic | None = None,
) -> Model | Models:
    """Loads a packed file and compiles it for this machine.

    Args:
        path: The file, as `prunella pack` writes it.
        masks: Masks that `prunella mask` learned on it, each a task: files, called by their names
            (a task.mask by its folder's), or a mapping from names to files.
        resident: How many tasks stay compiled; another one takes a fraction of a second to come
            back, and the memory of none but these is needed.
        threads: CPU threads; by default one for each core that this process may use.
        task: Use the model for this instead of what its head is for; "embedding" always works.
        batch_tokens: Tokens that run through the model at once, at most.
        isa: Instruction set to use, instead of the best one.
        weights: Arithmetic of the encoder matrices ("int8", "bf16", "fp32"), instead of what the
            file holds.

    Returns:
        A model to call with texts; with masks a mapping from task names to such models.

    Raises:
        InputError: If a file is missing or damaged, a mask is another backbone's, or the engine
            cannot run it.
    """
    from prunella.engine.compiled import compile_model

    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number above 0, not {threads}")
    if Path(path).is_dir():
        raise InputError(
            f"{path}: is a folder; `prunella pack --model {path} --out MODEL.prn` makes one "
            "file of a checkpoint"
        )
    packed = open_packed(path)
    check_whole(packed)
    if is_mask(packed):
        raise InputError(
            f"{path}: is the mask of a task; `prunella mask apply BACKBONE {path} --out FOLDER` "
            f"makes a model of it, prunella.load(BACKBONE, masks=[{str(path)!r}]) runs it as it is"
        )
    if masks is not None:
        from prunella.engine.many import load_tasks

        return load_tasks(
            packed,
            masks,
            threads=threads or _cores(),
            resident=resident,
            task=task,
            batch_tokens=batch_tokens,
            isa=isa,
            weights=weights,
        )
    task_name(read_card(packed), task)  # before the work of compiling
    runner = compile_model(packed, threads or _cores(), isa=isa, weights=weights)
    return Model(packed, runner, task=task, batch_tokens=batch_tokens)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _result(outcome: Outcome | InputError, where: str) -> Result:
    if isinstance(outcome, InputError):
        raise InputError(f"{where}{outcome}")
    return outcome.result
