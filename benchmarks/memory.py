"""Peak memory of pruning against the plain Trainer's.

The plain Trainer is that of transformers with the model's own loss. Every variant sees the same
batches in a process of its own; its figure is the largest resident size of that process.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from benchmarks.common import Figure, Options, run, write_result
from benchmarks.relay import Run, call
from benchmarks.workloads import mlm_run, prepare
from prunella.report.tables import human_bytes
from prunella.settings import DistillationSettings
from prunella.training.loop import train, uses_bf16

_STEPS = 6
_VARIANTS: dict[str, dict[str, Any]] = {
    "our loop, no pruning": {"pruned": False},
    "pruning": {"pruned": True},
    "pruning, hidden states taught": {
        "pruned": True,
        "mlm": 0.0,
        "signals": DistillationSettings(hidden=1.0),
    },
    "pruning, logits taught": {
        "pruned": True,
        "mlm": 0.5,
        "signals": DistillationSettings(logits=0.5),
    },
}


@dataclass(frozen=True)
class Peak:
    """Bytes: the process's largest resident size, and what the issue allows on top of plain."""

    peak: int
    masks: int
    teacher: int


def memory(options: Options) -> list[Figure]:
    plain = call(plain_peak, options)
    peaks = {name: call(our_peak, options, name) for name in _VARIANTS}
    figures = [_figure(f"peak memory: {name}", peak, plain) for name, peak in peaks.items()]
    body = {
        "steps": _STEPS,
        "plain_trainer_bytes": plain,
        "variants": {
            name: {**vars(peak), "allowed": plain + peak.masks + peak.teacher}
            for name, peak in peaks.items()
        },
    }
    write_result("memory", figures, body, options)
    return figures


def _figure(what: str, peak: Peak, plain: int) -> Figure:
    allowed = plain + peak.masks + peak.teacher
    above = f"plain Trainer {human_bytes(plain)}"
    return Figure(what, human_bytes(peak.peak), above, f"<= {human_bytes(allowed)}")


def our_peak(options: Options, name: str) -> Peak:
    """Trains a variant in our loop."""
    run = mlm_run(options, _STEPS, options.folder / "memory" / name, **_VARIANTS[name])
    held: Any = run.plan.masks
    masks = sum(code.nbytes for code in held.codes.values()) if held else 0
    teacher: Any = getattr(run.plan.loss, "teacher", None)
    frozen = sum(p.nbytes for p in teacher.model.parameters()) if teacher else 0
    train(run.model, run.plan, run.settings)
    return Peak(_resident(), masks, frozen)


def plain_peak(options: Options) -> int:
    """Trains the same model on the same batches in the Trainer of transformers."""
    run = mlm_run(options, _STEPS, options.folder / "memory" / "plain", pruned=False)
    torch.set_num_threads(options.threads)
    _plain_trainer(run, options.folder / "memory" / "plain").train()
    return _resident()


def _plain_trainer(run: Run, folder: Path) -> Trainer:
    batches: Any = run.plan.batches
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=_STEPS,
        per_device_train_batch_size=1,  # one ready micro-batch
        bf16=uses_bf16(run.settings.precision),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    model: Any = run.model
    return Trainer(
        model=model, args=args, train_dataset=batches, data_collator=lambda rows: rows[0]
    )


def _resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    run(__doc__, partial(call, prepare), memory)
