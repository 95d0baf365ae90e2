"""quantize: 8-bit quantisation-aware training of a transferred model, pattern locked."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from prunella import grid
from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import task_head
from prunella.quantization import finish, prepare, save_scales
from prunella.settings import QuantizeSettings
from prunella.sparsity.masks import Masks
from prunella.sparsity.targets import find_targets, pruned_parameters, sparse_tables
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.task import (
    fine_tune,
    load_task_model,
    open_task,
    summary_figures,
    task_hashes,
    task_record,
    validation_figures,
)
from prunella.workspace import Workspace


def quantize(settings: QuantizeSettings) -> Result:
    """Quantises the encoder of a fine-tuned checkpoint to 8 bits (Prune OFA, section 3.4).

    The written weights are ordinary fp32 that lie on the int8 grid, so stock transformers loads
    them; the grid itself is in `quantization.safetensors`.

    Raises:
        InputError: If the checkpoint is not fine-tuned or is quantised already.
    """
    source = fetch(settings.model)
    teacher = fetch(settings.teacher) if settings.teacher else None
    if task_head(source) is None:
        raise InputError(
            f"{source.path}: has no task head; quantize comes after `prunella transfer`"
        )
    if (source.path / grid.SCALES_FILE).exists():
        raise InputError(f"{source.path}: is quantised already")
    return run_stage(
        "quantize",
        settings,
        {"model": source, "teacher": teacher},
        task_hashes(settings),
        lambda workspace: _quantize(settings, source, teacher, workspace),
    )


def _quantize(
    settings: QuantizeSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
) -> Outcome:
    task = open_task(settings, source, teacher)
    set_seed(settings.seed)
    model = load_task_model(source, task)
    layers = pruned_parameters(model, find_targets(model))
    masks = Masks.of_zeros(layers | sparse_tables(model))
    before = validation_figures(model, task)
    prepare(model, [name.removesuffix(".weight") for name in layers])
    figures: dict[str, Any] = {}
    if settings.epochs or settings.steps:
        summary = fine_tune(
            model, task, settings, source, teacher, workspace, label="quantize", masks=masks
        )
        figures = summary_figures(summary)
    scales = finish(model)
    _check_zeros(masks)
    figures = validation_figures(model, task) | figures
    return Outcome(
        model,
        task.tokenizer,
        figures,
        masks,
        more={
            "task": task_record(task),
            "quantization": {"scheme": grid.SCHEME, "matrices": len(scales), "before": before},
        },
        save=lambda folder: save_scales(folder, scales),
    )


def _check_zeros(masks: Masks) -> None:
    for name, parameter in masks.parameters.items():
        if bool(parameter.detach()[~masks.kept(name)].ne(0).any()):
            raise RuntimeError(f"{name}: rounding to 8 bits moved a zero")
