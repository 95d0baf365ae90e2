"""Live progress on standard error: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback

from prunella.report.tables import human_duration

_SECONDS_BETWEEN_LINES = 30.0


class Progress(TrainerCallback):
    """Shows step, loss, sparsity and time left of one run."""

    def __init__(self, label: str, steps: int) -> None:
        self.label, self.steps = label, steps
        self.console = Console(stderr=True)
        self.bar: Bar | None = None
        self.detail = ""
        self.last_line = 0.0
        self.begun, self.first = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last_line = self.begun = time.monotonic()
        self.first = state.global_step
        if not self.console.is_terminal:
            return
        self.bar = Bar(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self.bar.start()
        self.task = self.bar.add_task(
            self.label, total=self.steps, completed=state.global_step, detail=""
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs = logs or {}
        parts = [f"loss {logs['loss']:.3f}"] if "loss" in logs else []
        if "sparsity" in logs:
            parts.append(f"{100 * logs['sparsity']:.1f} % zeros")
        self.detail = ", ".join(parts) or self.detail

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, detail=self.detail)
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.console.print(self._line(state.global_step), soft_wrap=True)

    def _line(self, step: int) -> str:
        spent = time.monotonic() - self.begun
        left = spent / (step - self.first) * (self.steps - step)
        parts = [self.detail, f"{human_duration(left)} left"]
        return f"{self.label}: {step}/{self.steps} {', '.join(filter(None, parts))}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
