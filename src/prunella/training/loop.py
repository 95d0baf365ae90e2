"""The one training loop: the transformers Trainer with our loss, our masks and exact resumption.

Everything that decides a run is a pure function of the step (batches, sparsity, learning rate) or
part of the saved state (weights, optimiser, masks, random state), so a run that was killed at any
moment ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from prunella.engine import _native
from prunella.errors import InputError, failed_to_write, first_line
from prunella.processes import is_main, rank, world_size
from prunella.settings import OutputSettings, TrainingSettings
from prunella.together import join, main_only, share
from prunella.training.attention import cpu_attention
from prunella.training.dropout import cpu_dropout
from prunella.training.progress import Progress
from prunella.validation import suggestion

_COMPLETE = "complete"
_MASKS = "masks.safetensors"
_PRUNING = "pruning.safetensors"

LossFunction = Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From (model, micro-batch) to the weighted terms of the loss, by name."""


class BatchSource(Protocol):
    """Micro-batches of a whole run; each a pure function of its position."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Tensor]: ...


class MaskUpdate(Protocol):
    """What chooses masks anew while a model trains. Optimiser steps are counted from 1."""

    def before_step(self, step: int) -> None: ...
    def before_forward(self, inputs: Mapping[str, Tensor]) -> None: ...

    def after_backward(self, step: int) -> None:
        """When the gradients of a whole step are there, before they are clipped."""
        ...

    def __call__(self, step: int) -> None:
        """After the optimiser has moved the weights."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs; called on all processes."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class MaskState(Protocol):
    """Masks that are held through a run: `sparsity.masks.Masks`, or those that learn."""

    def zero_gradients(self) -> None: ...
    def zero_weights(self) -> None: ...
    def total_sparsity(self) -> float: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """One training run.

    `factor` maps an optimiser step (from 0) to a share of the peak learning rate. `update` chooses
    masks anew; without it they are locked. `optimizer` makes one that steps other things than the
    model's parameters, once these are where they stay. `folder` takes the states; `label` names the
    run in progress and log.
    """

    label: str
    batches: BatchSource
    loss: LossFunction
    steps: int
    factor: Callable[[int], float]
    folder: Path
    log: Path
    masks: MaskState | None = None
    update: MaskUpdate | None = None
    optimizer: Callable[[], torch.optim.Optimizer] | None = None


@dataclass(frozen=True)
class Summary:
    """What a run took: `seconds` over all of its parts when it was interrupted."""

    steps: int
    seconds: float
    tokens: int
    losses: Mapping[str, float]


def uses_bf16(precision: str) -> bool:
    """Whether to train under bf16 autocast: asked for, or auto and the hardware is fast at it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def train(model: nn.Module, plan: Plan, settings: TrainingSettings) -> Summary:
    """Trains `model` in place, from the newest saved state if there is one.

    Raises:
        InputError: If the loss stops being finite, a state cannot be written, or the newest one is
            of another number of processes and `overwrite` is not set.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    _freeze(model, settings.frozen)
    join()
    anew = isinstance(settings, OutputSettings) and settings.overwrite
    state = share(main_only(lambda: _state_to_resume(plan.folder, anew)))
    trainer = _make_trainer(model, plan, settings)
    trainer.start = _step_of(state) if state else 0
    _cut_log(plan.log, plan.label, trainer.start)
    try:
        with (
            warnings.catch_warnings(),
            cpu_attention(model, uses_bf16(settings.precision)),
            cpu_dropout(model),
        ):
            # DDP's search for unused parameters costs little and some heads do go unused.
            warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
            trainer.train(resume_from_checkpoint=str(state) if state else None)
    except Exception as error:
        if not failed_to_write(error):
            raise
        raise InputError(
            f"{plan.folder}: cannot write the training state ({_reason(error)}); free some space "
            "and repeat the command: it resumes from the last complete state"
        ) from error
    finally:
        trainer.progress.stop()
    if state and _step_of(state) == plan.steps:
        trainer.restore_masks(state)
    # accelerate leaves autocast around the model's forward; its own undoing of that also takes
    # away the decorators of transformers, which collect the hidden states. Its mark goes as well,
    # or the next training of this model (the head's before the model's) would be in fp32.
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    return trainer.summary()


def _make_trainer(model: nn.Module, plan: Plan, settings: TrainingSettings) -> _Trainer:
    try:
        return _Trainer(model, plan, settings)
    except (ImportError, RuntimeError, ValueError) as error:
        if not settings.report_to:
            raise
        trackers = ", ".join(settings.report_to)
        raise InputError(f"--report-to {trackers}: the Trainer refuses it ({error})") from error


def newest_state(folder: Path) -> Path | None:
    """The newest complete training state in a folder; the others are removed."""
    states = sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True)
    complete = [state for state in states if (state / _COMPLETE).exists()]
    for state in states:
        if state not in complete[:1]:
            shutil.rmtree(state, ignore_errors=True)
    return complete[0] if complete else None


def _state_to_resume(folder: Path, anew: bool) -> Path | None:
    """The newest state, if as many processes wrote it: with others, its steps took other batches.

    Args:
        folder: Of the states.
        anew: Discard a state of another number of processes.

    Raises:
        InputError: If there is one, and it is not to be discarded.
    """
    state = newest_state(folder)
    if state is None:
        return None
    written_by = json.loads((state / _COMPLETE).read_text())["world"]
    if written_by == world_size():
        return state
    if anew:
        shutil.rmtree(state)
        return None
    raise InputError(
        f"{state}: was written by {written_by} processes and cannot be resumed by "
        f"{world_size()}, as a step would take {world_size()} micro-batches instead of "
        f"{written_by}; use the same number, or --overwrite to start anew"
    )


class _Trainer(Trainer):
    """Our batches, loss, masks and learning rate inside the transformers loop."""

    def __init__(self, model: nn.Module, plan: Plan, settings: TrainingSettings) -> None:
        bf16 = uses_bf16(settings.precision)
        on_cpu = not torch.cuda.is_available()
        args = TrainingArguments(
            output_dir=str(plan.folder),
            max_steps=plan.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            gradient_accumulation_steps=settings.accumulation,
            bf16=bf16,
            use_cpu=on_cpu,
            seed=settings.seed,
            logging_steps=settings.log_every,
            logging_nan_inf_filter=False,
            save_steps=settings.save_every,
            ignore_data_skip=True,  # our batches know their position
            disable_tqdm=True,
            report_to=list(settings.report_to) or "none",
            remove_unused_columns=False,
            ddp_backend="gloo" if on_cpu and world_size() > 1 else None,
            ddp_find_unused_parameters=world_size() > 1,
            dataloader_pin_memory=False,
        )
        # Without torchrun one GPU is used: copies of the model by DataParallel lack our hooks.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(model=model, args=args)
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.plan = plan
        self.start = 0
        self.terms: dict[str, float] = {}
        self.counted = 0
        self.tokens = 0  # of this process
        self.tokens_before = 0  # of all of them, up to the state
        self.seconds_before = 0.0
        self.begun = time.monotonic()
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(_MaskCallback(plan))
        self.add_callback(_OwnDropout())
        self.add_callback(_LastLine())
        self.progress = Progress(plan.label, plan.steps)
        if is_main():
            self.add_callback(self.progress)

    def get_train_dataloader(self) -> DataLoader:
        rank, world = self.args.process_index, self.args.world_size
        micro = self.plan.steps * self.args.gradient_accumulation_steps
        begin = self.start * self.args.gradient_accumulation_steps
        return DataLoader(
            _Share(self.plan.batches, rank, world, micro),
            batch_size=None,
            sampler=_From(begin, micro),
            generator=torch.Generator(),  # or the loader would draw from the global one
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.plan.optimizer is None:
            return super().create_optimizer(model)
        if self.optimizer is None:
            self.optimizer = self.plan.optimizer()
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        target = cast(torch.optim.Optimizer, optimizer or self.optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(target, self.plan.factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        if self.plan.update is not None:
            self.plan.update.before_forward(inputs)
        terms = self.plan.loss(model, inputs)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            found = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise InputError(
                f"{self.plan.label}: the loss is not finite at step {self.state.global_step + 1} "
                f"({found}). Lower --learning-rate, or raise --warmup; the last saved state stays "
                f"in {self.plan.folder}"
            )
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value.item()
        self.counted += 1
        self.tokens += int(inputs["attention_mask"].sum())
        return total

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            if self.plan.update is not None:
                self.plan.update.after_backward(self.state.global_step + 1)
            if self.plan.masks is not None:
                self.plan.masks.zero_gradients()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs:  # the Trainer's closing line; ours is in the provenance
            return
        # Batches of many lengths leave glibc's heap in pieces: 5 GB of it for 1 GB in use at 384
        # tokens after some 100 steps. Most of these pages are free, and only this returns them.
        _native.trim()
        if self.counted:
            sums = self._summed([*self.terms.values(), self.counted])
            self.last_losses = {n: s / sums[-1] for n, s in zip(self.terms, sums, strict=False)}
            logs |= {f"loss_{name}": mean for name, mean in self.last_losses.items()}
            self.terms, self.counted = {}, 0
        if self.plan.masks is not None:
            logs["sparsity"] = self.plan.masks.total_sparsity()
        super().log(logs, start_time)
        tokens = self._tokens()
        if is_main():
            row = {"run": self.plan.label, "step": self.state.global_step, **logs}
            row.pop("epoch", None)  # the Trainer takes the whole run for one
            row |= {"tokens": tokens, "seconds": round(self._seconds(), 2)}
            with self.plan.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        tokens = self._tokens()  # of all processes, so it waits for what they write
        pruning = self.plan.update.state_dict() if self.plan.update is not None else {}
        if not is_main():
            return
        folder = self.plan.folder / f"checkpoint-{self.state.global_step}"
        if self.plan.masks is not None:
            save_file(self.plan.masks.state_dict(), folder / _MASKS)
        if pruning:
            save_file(pruning, folder / _PRUNING)
        record = {"tokens": tokens, "seconds": self._seconds(), "world": self.args.world_size}
        draft = folder / f"{_COMPLETE}.tmp"
        draft.write_text(json.dumps(record))
        os.replace(draft, folder / _COMPLETE)
        newest_state(self.plan.folder)  # removes the older ones

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.restore_masks(Path(checkpoint))

    def restore_masks(self, state: Path) -> None:
        record = json.loads((state / _COMPLETE).read_text())
        self.tokens_before, self.seconds_before = record["tokens"], record["seconds"]
        if self.plan.masks is not None:
            self.plan.masks.load_state_dict(load_file(state / _MASKS))
        if self.plan.update is not None and (state / _PRUNING).exists():
            self.plan.update.load_state_dict(load_file(state / _PRUNING))

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begun

    def _tokens(self) -> int:
        """Tokens that all processes trained on."""
        return self.tokens_before + int(self._summed([self.tokens])[0])

    def _summed(self, values: list[float]) -> list[float]:
        """Each value, summed over the processes."""
        if self.args.world_size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        dist.all_reduce(total)
        return total.tolist()

    def summary(self) -> Summary:
        return Summary(
            steps=self.state.global_step,
            seconds=self._seconds(),
            tokens=self._tokens(),
            losses=getattr(self, "last_losses", {}),
        )


class _MaskCallback(TrainerCallback):
    """After each optimiser step: put the zeros back, and choose masks anew when it is time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plan.update is not None:
            self.plan.update.before_step(state.global_step + 1)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plan.masks is None:
            return
        self.plan.masks.zero_weights()
        if self.plan.update is not None:
            self.plan.update(state.global_step + 1)


class _OwnDropout(TrainerCallback):
    """Each process draws dropout of its own; the first as if it were alone.

    A resumed run takes the states of its generators from disk, after this.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank() > 0:
            torch.manual_seed(args.seed + 7_919 * rank())


class _LastLine(TrainerCallback):
    """The last step is always logged, so that a run shorter than log_every has a log too."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class _Share(Dataset[dict[str, Tensor]]):
    """The micro-batches of one of `world` processes: every world-th of the source."""

    def __init__(self, source: BatchSource, rank: int, world: int, count: int) -> None:
        if len(source) < count * world:
            raise InputError(
                f"the data makes {len(source)} micro-batches, but one step of {world} processes "
                f"takes {count * world}; lower --batch-size, --accumulation or the number of "
                "processes"
            )
        self.source, self.rank, self.world, self.count = source, rank, world, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.source[position * self.world + self.rank]


class _From(Sampler[int]):
    """Positions from `begin`; its length is that of the whole run, which the Trainer counts in."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end

    def __len__(self) -> int:
        return self.end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.begin, self.end))


def _freeze(model: nn.Module, frozen: tuple[str, ...]) -> None:
    base = str(getattr(model, "base_model_prefix", ""))
    for part in frozen:
        # A bare encoder leaves out the prefix that the same encoder has under a head.
        spellings = (part, f"{base}.{part}", part.removeprefix(f"{base}."))
        names = next(filter(None, (_named(model, spelling) for spelling in spellings)), [])
        if not names:
            parts = {
                ".".join(n.split(".")[:i]) for n, _ in model.named_parameters() for i in (1, 2)
            }
            longer = sorted(known for known in parts if known.endswith(f".{part}"))
            hint = f"did you mean '{longer[0]}'?" if longer else suggestion(part, sorted(parts))
            raise InputError(
                f"frozen: '{part}' names no parameter of {type(model).__name__}; {hint}"
            )
        for name in names:
            model.get_parameter(name).requires_grad_(False)


def _named(model: nn.Module, part: str) -> list[str]:
    """The parameters of a module, by its name."""
    return [n for n, _ in model.named_parameters() if n == part or n.startswith(part + ".")]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _step_of(state: Path) -> int:
    return int(state.name.rsplit("-", 1)[1])


def _cut_log(log: Path, label: str, step: int) -> None:
    """Removes the lines of this run beyond the step that it resumes from."""
    if not log.exists() or not is_main():
        return
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a killed run
            continue
        if row["run"] != label or row["step"] <= step:
            rows.append(line)
    log.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
