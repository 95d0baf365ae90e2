"""Of several GPUs one process takes one: torchrun starts a process for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from prunella.settings import TransferSettings
from prunella.stages.transfer import transfer


class Refused:
    def __init__(self, *_: Any) -> None:
        raise AssertionError("its copies would have none of our hooks")


def test_the_model_is_not_copied_to_all_gpus(
    tiny_checkpoint: Callable[..., Path],
    task_files: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_up = TrainingArguments.__post_init__

    def with_four(arguments: Any) -> None:
        set_up(arguments)
        arguments._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_four)
    monkeypatch.setattr(torch.nn, "DataParallel", Refused)
    rows = {split: str(path) for split, path in task_files["single"].items()}
    out = str(tmp_path / "out")
    model = str(tiny_checkpoint("bert"))
    result = transfer(TransferSettings(model=model, out=out, steps=2, threads=1, **rows))
    assert result.metrics["steps"] == 2
