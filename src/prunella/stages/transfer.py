"""transfer: fine-tune on a labelled task, pattern locked, taught by a dense model of the task."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import set_seed

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import task_head
from prunella.settings import PruningSettings, TransferSettings
from prunella.sparsity.criterion import criterion_kind
from prunella.sparsity.gradual import make_pruning, targets_to_prune
from prunella.sparsity.masks import Masks
from prunella.sparsity.pruning import Pruning
from prunella.sparsity.removal import finish
from prunella.sparsity.targets import (
    find_targets,
    freeze_sparse_tables,
    pattern_parameters,
    pruned_parameters,
)
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.task import (
    Task,
    count_steps,
    fine_tune,
    load_task_model,
    open_task,
    stored_names,
    summary_figures,
    task_hashes,
    task_record,
    validation_figures,
)
from prunella.validation import flags_below
from prunella.workspace import Workspace

# Below this share a few zeros are chance, not a pattern.
_SPARSE = 0.01


def transfer(settings: TransferSettings) -> Result:
    """Fine-tunes a checkpoint on a task (Prune OFA, section 3.3).

    Raises:
        InputError: If data, model, teacher or settings do not fit each other.
    """
    source = fetch(settings.model)
    teacher = fetch(settings.teacher) if settings.teacher else None
    return run_stage(
        "transfer",
        settings,
        {"model": source, "teacher": teacher},
        task_hashes(settings),
        lambda workspace: _transfer(settings, source, teacher, workspace),
    )


def _transfer(
    settings: TransferSettings,
    source: Checkpoint,
    teacher: Checkpoint | None,
    workspace: Workspace,
) -> Outcome:
    task = open_task(settings, source, teacher, new_head=settings.new_head)
    set_seed(settings.seed)  # the new head
    model = load_task_model(source, task, new_head=settings.new_head)
    with flags_below("prune", PruningSettings):
        pruning = _pruning(model, task, settings)
        masks = pruning.masks if pruning else _locked(model, settings, source)
        summary = fine_tune(
            model,
            task,
            settings,
            source,
            teacher,
            workspace,
            label="transfer",
            masks=masks,
            pruning=pruning,
        )
    figures = validation_figures(model, task)
    removed = finish(model, pruning)
    return Outcome(
        model,
        task.tokenizer,
        figures | summary_figures(summary),
        None if removed else masks,
        asked=pruning.asked if pruning else None,
        more={
            "task": task_record(task),
            "notes": _notes(settings, source),
            **removed,
            **_new_matrices(model, masks, source),
        },
    )


def _notes(settings: TransferSettings, source: Checkpoint) -> list[str]:
    """What somebody who reads the figures should know."""
    pruned = settings.prune
    new = settings.new_head or task_head(source) is None
    if pruned and pruned.one_shot and criterion_kind(pruned.score).gradients and new:
        return [
            "The head was new when the masks were chosen, so the gradients behind them were those "
            "of a random head: fine-tune first, then prune the result."
        ]
    return []


def _new_matrices(model: nn.Module, masks: Masks | None, source: Checkpoint) -> dict[str, Any]:
    """What a sparse model has new for the task, and dense, such as a pooler: it counts as well."""
    if masks is None:
        return {}
    stored = stored_names(model, source)
    matrices = pruned_parameters(model, find_targets(model))
    new = [name for name in matrices if name not in stored and name not in masks.parameters]
    return {"new_matrices": new} if new else {}


def _pruning(model: nn.Module, task: Task, settings: TransferSettings) -> Pruning | None:
    """What moves the masks of a run that prunes at task time."""
    if settings.prune is None:
        return None
    targets = targets_to_prune(model, settings.prune)
    freeze_sparse_tables(model)
    masks = Masks.of_zeros(pruned_parameters(model, targets))
    steps = count_steps(task, settings)
    return make_pruning(model, masks, targets, settings.prune, steps=steps, seed=settings.seed)


def _locked(model: nn.Module, settings: TransferSettings, source: Checkpoint) -> Masks | None:
    """The locked zeros of a run that does not prune."""
    if settings.lock == "off":
        return None
    # A matrix that this model has new (a pooler, say) holds no pattern of its own.
    stored = stored_names(model, source)
    parameters = {
        name: weight for name, weight in pattern_parameters(model).items() if name in stored
    }
    masks = Masks.of_zeros(parameters)
    if masks.total_sparsity() >= _SPARSE:
        return masks
    if settings.lock == "on":
        raise InputError(
            f"{source.path}: --lock on, but the model is dense (sparsity "
            f"{masks.total_sparsity():.4f}); prune it first, or leave --lock at auto"
        )
    return None
