"""What the benchmarks train: a model, text and task rows, put together as the stages do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from transformers import AutoModelForMaskedLM, BertConfig

from benchmarks.common import Options
from benchmarks.relay import Run
from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.data.readers import read_table
from prunella.data.task_batches import EncodedTask, TaskBatches
from prunella.data.vocabulary import train_wordpiece
from prunella.distillation import Wanted, relation_heads, wanted_features
from prunella.models import (
    load_for_task,
    load_masked_lm,
    load_tokenizer,
    pad_id,
    takes_token_types,
)
from prunella.settings import DistillationSettings, PruneSettings, TransferSettings
from prunella.sparsity.gradual import make_pruning, targets_to_prune
from prunella.sparsity.learned import METHODS, LearnedMasks
from prunella.sparsity.learning import ScheduledMasks
from prunella.sparsity.masks import Masks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.schedules import PruningSchedule, linear_factor
from prunella.sparsity.targets import find_targets, pruned_parameters
from prunella.stages.common import eval_mode
from prunella.stages.text import open_text
from prunella.tasks import Columns, Reading
from prunella.tasks.classification import Classification
from prunella.tasks.texts import TextRows
from prunella.teacher_cache import TeacherCache
from prunella.training.loop import Plan, uses_bf16
from prunella.training.mlm import MlmLoss, Teacher
from prunella.training.task import TaskLoss

# layers, width, width of the feed-forward network, vocabulary
_SHAPES = {
    "tiny": (2, 64, 128, 2000),
    "small": (6, 384, 1536, 30522),
    "base": (12, 768, 3072, 30522),
}
# Words of SST-2's 67,349 training phrases at every tenth of them, from the shortest to the longest.
_SST2_WORDS = (1, 2, 3, 4, 5, 7, 9, 12, 15, 21, 52)
NO_SIGNAL = DistillationSettings()
_KIND = Classification()


def prepare(options: Options) -> None:
    """Writes text, model and tokenised corpus where the runs find them."""
    corpus = _corpus(options)
    corpus.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    if options.model is None:
        layers, width, inner, vocabulary = _SHAPES[options.shape]
        tokenizer = train_wordpiece([str(corpus)], vocabulary)
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(2, width // 64),
            intermediate_size=inner,
            pad_token_id=pad_id(tokenizer),
        )
        AutoModelForMaskedLM.from_config(config).save_pretrained(options.folder / "model")
        tokenizer.save_pretrained(options.folder / "model")
    settings = prune_settings(options)
    tokenizer = load_tokenizer(source(options))
    open_text(settings, tokenizer, load_masked_lm(source(options))[0].config, token_types=True)


def source(options: Options) -> Checkpoint:
    """The checkpoint that every run starts from."""
    return open_checkpoint(options.model or options.folder / "model")


def prune_settings(options: Options, **more: Any) -> PruneSettings:
    """Pruning over 1,000 steps by the defaults, of which a benchmark only does the first ones."""
    return PruneSettings(
        model=str(source(options).path),
        out=str(options.folder / "out"),
        text=(str(_corpus(options)),),
        cache=str(options.folder / "cache"),
        batch_tokens=options.tokens,
        steps=1000,
        update_every=options.update_every,
        threads=options.threads,
        **more,
    )


def mlm_run(
    options: Options,
    steps: int,
    folder: Path,
    *,
    pruned: bool,
    signals: DistillationSettings = NO_SIGNAL,
    mlm: float = 1.0,
    precision: str = "auto",
) -> Run:
    """Masked language modelling, with or without pruning and a teacher: the model itself."""
    settings = prune_settings(options, distillation=signals, mlm=mlm, precision=precision)
    model, _ = load_masked_lm(source(options))
    teacher = None
    if signals.active:
        frozen = eval_mode(load_masked_lm(source(options))[0])
        teacher = Teacher(frozen, signals, uses_bf16(settings.precision))
    text = open_text(
        settings, load_tokenizer(source(options)), model.config, takes_token_types(model.config)
    )
    plan = Plan(
        label="benchmark",
        batches=text.batches(steps, settings.seed),
        loss=MlmLoss(model.config, mlm, teacher),
        steps=steps,
        factor=lambda step: linear_factor(step, 50, settings.steps),
        folder=folder,
        log=_log(folder),
    )
    clocks: dict[str, list[float]] = {}
    if pruned:
        targets = targets_to_prune(model, settings)
        masks = Masks.of_zeros(pruned_parameters(model, targets))
        pruning = make_pruning(model, masks, targets, settings, steps=settings.steps, seed=0)
        plan = replace(plan, masks=masks, update=_Clocked(pruning, clocks))
        for name in ("zero_weights", "zero_gradients"):
            setattr(masks, name, _clocked(getattr(masks, name), name, clocks))
    return Run(model, plan, settings, clocks)


def task_run(
    options: Options,
    steps: int,
    folder: Path,
    *,
    rows: int,
    bucket: bool = True,
    signals: DistillationSettings = NO_SIGNAL,
    cached: bool = True,
    masked: bool = False,
) -> Run:
    """Fine-tuning on labelled rows, with or without a teacher: the model itself.

    With `masked` its weights stay, and masks learn; half of the weights are to be kept.
    """
    settings = TransferSettings(
        model=str(source(options).path),
        out=str(options.folder / "out"),
        train=options.data or "made",
        bucket=bucket,
        distillation=signals,
        threads=options.threads,
    )
    tokenizer = load_tokenizer(source(options))
    model: Any = _classifier(options)
    reading = Reading(tokenizer, _KIND.usual_length, token_types=takes_token_types(model.config))
    encoded = _KIND.encode(_rows(options, rows), reading)
    batches = TaskBatches(
        encoded,
        batch_size=settings.batch_size,
        epochs=None,
        steps=steps,
        seed=settings.seed,
        bucket=bucket,
        pad_id=pad_id(tokenizer),
    )
    plan = Plan(
        label="benchmark",
        batches=batches,
        loss=_task_loss(options, model, encoded, settings, folder, cached),
        steps=steps,
        factor=lambda step: linear_factor(step, 50, 1000),
        folder=folder,
        log=_log(folder),
    )
    if masked:
        plan = _learning(model, plan, settings)
    return Run(model, plan, settings)


def _learning(model: Any, plan: Plan, settings: TransferSettings) -> Plan:
    """The plan with masks that learn, as the stage `mask` makes it."""
    parameters = pruned_parameters(model, find_targets(model))
    masks = LearnedMasks(parameters, METHODS["smp"], settings.seed)
    trained = []
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{model.base_model_prefix}."):
            trained.append(parameter)
        elif name not in parameters:
            parameter.requires_grad_(False)
    schedule = PruningSchedule(0.0, 0.5, 0, 500, 600, 1000, 5)
    return replace(
        plan,
        masks=masks,
        update=ScheduledMasks(masks, schedule),
        optimizer=lambda: masks.optimizer(trained, settings.learning_rate, settings.weight_decay),
    )


def _task_loss(
    options: Options,
    model: Any,
    encoded: EncodedTask,
    settings: TransferSettings,
    folder: Path,
    cached: bool,
) -> TaskLoss:
    signals = settings.distillation
    if not signals.active:
        return TaskLoss(_KIND, 1.0, Wanted(True), signals, None, 1)
    dense: Any = eval_mode(_classifier(options))
    ours, theirs = wanted_features(signals, model.config, dense.config)
    teacher = Teacher(dense, signals, uses_bf16(settings.precision))
    gigabytes = settings.cache_gigabytes if cached else 0.0
    cache = TeacherCache(teacher, theirs, encoded, folder / "teacher", gigabytes)
    heads = relation_heads(model.config, dense.config)
    return TaskLoss(_KIND, settings.labels, ours, signals, cache, heads)


def _classifier(options: Options) -> Any:
    return load_for_task(source(options), _KIND.head, 2, [], _KIND.problem)


def _rows(options: Options, count: int) -> TextRows:
    """`count` rows drawn from the data, or phrases as short as those of SST-2."""
    random = np.random.default_rng(0)
    if options.data:
        data = _KIND.read(read_table(options.data), Columns(), None, options.data)
        chosen = random.choice(len(data), size=min(count, len(data)), replace=False)
        pairs = [data.pairs[i] for i in chosen] if data.pairs else None
        labels = np.array(data.labels)[chosen] % 2
        return TextRows([data.texts[i] for i in chosen], pairs, labels, data.names)
    texts = [phrase for phrase, _ in zip(_phrases(random), range(count), strict=False)]
    labels = random.integers(2, size=count)
    return TextRows(texts, None, labels, ["0", "1"])


def _phrases(random: np.random.Generator) -> Iterator[str]:
    """Pieces of Python's language reference with as many words as phrases of SST-2 have."""
    words = re.findall(r"[A-Za-z]+", " ".join(topics[name] for name in sorted(topics)))
    while True:
        length = int(np.interp(random.random() * 10, range(11), _SST2_WORDS))
        begin = int(random.integers(len(words) - length))
        yield " ".join(words[begin : begin + length])


class _Clocked:
    """Pruning whose choices of masks are clocked."""

    def __init__(self, pruning: Pruning, clocks: dict[str, list[float]]) -> None:
        self._pruning, self._clocks = pruning, clocks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pruning, name)

    def __call__(self, step: int) -> None:
        begun = time.perf_counter()
        self._pruning(step)
        if self._pruning.schedule.updates_at(step):
            self._clocks.setdefault("choice", []).append(time.perf_counter() - begun)


def _clocked(
    action: Callable[..., None], name: str, clocks: dict[str, list[float]]
) -> Callable[..., None]:
    """The same action, its seconds noted."""

    def run(*arguments: Any) -> None:
        begun = time.perf_counter()
        action(*arguments)
        clocks.setdefault(name, []).append(time.perf_counter() - begun)

    return run


def _corpus(options: Options) -> Path:
    return options.folder / "corpus.txt"


def _log(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "log.jsonl"
