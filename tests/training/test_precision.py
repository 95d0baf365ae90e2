"""bf16 autocast holds in every training of a model, not only in the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunella.settings import TeachSettings
from prunella.stages import teach as stage


def test_a_model_trains_in_bf16_after_its_new_head_did(
    tiny_checkpoint: Callable[..., Path],
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []
    load = stage.load_masked_lm

    def watched(checkpoint: Any) -> Any:
        model, had_head = load(checkpoint)
        query = model.base_model.encoder.layer[0].attention.self.query
        query.register_forward_hook(
            lambda module, inputs, output: seen.append(output.dtype) if module.training else None
        )
        return model, had_head

    monkeypatch.setattr(stage, "load_masked_lm", watched)
    stage.teach(
        TeachSettings(
            model=str(tiny_checkpoint("bert", "base")),
            text=(str(corpus_file),),
            out=str(tmp_path / "out"),
            cache=str(tmp_path / "cache"),
            head_steps=2,
            steps=3,
            length=16,
            batch_tokens=64,
            precision="bf16",
            threads=1,
        )
    )
    assert seen == [torch.bfloat16] * 5
