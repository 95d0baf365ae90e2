"""mask: adapt a frozen model to a task by choosing which of its connections stay."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.mask_application import MASK_FILE, entropy_bytes, save_mask
from prunella.packed.mask_file import open_mask
from prunella.roles import is_embedding, role_of
from prunella.settings import MaskSettings, PruningSettings
from prunella.sparsity.gradual import resolve_schedule
from prunella.sparsity.learned import METHODS, LearnedMasks, Method
from prunella.sparsity.learning import DriftingMasks, ScheduledMasks
from prunella.sparsity.schedules import linear_factor
from prunella.sparsity.targets import find_targets, pruned_parameters
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.task import (
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
from prunella.training.loop import MaskUpdate
from prunella.workspace import Workspace


def mask(settings: MaskSettings) -> Result:
    """Learns masks and a head for a task; the backbone's weights stay (arXiv 2105.03343).

    Raises:
        InputError: If data, model, teacher or settings do not fit each other.
    """
    _check(settings)
    source = fetch(settings.model)
    teacher = fetch(settings.teacher) if settings.teacher else None
    return run_stage(
        "mask",
        settings,
        {"model": source, "teacher": teacher},
        task_hashes(settings),
        lambda workspace: _mask(settings, source, teacher, workspace),
    )


def _check(settings: MaskSettings) -> None:
    """Refuses settings that the method does not have."""
    if settings.frozen:
        raise InputError(
            "frozen: the weights that are masked stay as they are in any case; leave it out, and "
            "--exclude what is to stay whole"
        )
    if settings.preset and settings.method != "abp":
        raise InputError(
            f"preset: {settings.preset} is of method abp; leave --preset or --method out"
        )
    if settings.drift is not None and settings.method != "abp":
        raise InputError(f"drift: method {settings.method} has none; leave it out, or take abp")
    if settings.method == "zhao" and "kept" in settings.model_fields_set:
        raise InputError(
            "kept: method zhao keeps what its fixed threshold leaves; leave --kept out, or take smp"
        )
    if settings.method == "zhao" or settings.drift is not None:
        idle = {"growth_end", "freeze"} & settings.model_fields_set
        if settings.scope not in (None, "global"):
            idle.add("scope")
        if idle:
            raise InputError(
                f"{min(idle)}: has no meaning here, as one threshold for all matrices decides "
                f"({'method zhao' if settings.method == 'zhao' else '--drift'}); leave it out"
            )


def _mask(
    settings: MaskSettings, source: Checkpoint, teacher: Checkpoint | None, workspace: Workspace
) -> Outcome:
    task = open_task(settings, source, teacher)
    set_seed(settings.seed)  # the new head
    model: Any = load_task_model(source, task)
    method = method_of(settings)
    masked = masked_parameters(model, settings, source)
    _check_density(masked, settings, source)
    masks = LearnedMasks(masked, method, settings.seed, settings.recovery)
    trained = freeze_backbone(model, set(masked), settings, source)
    summary = fine_tune(
        model,
        task,
        settings,
        source,
        teacher,
        workspace,
        label="mask",
        masks=masks,
        learning=_update(settings, masks, count_steps(task, settings)),
        optimizer=lambda: masks.optimizer(trained, settings.learning_rate, settings.weight_decay),
    )
    figures = validation_figures(model, task)
    figures |= {"kept": 1 - masks.total_sparsity(), "recovered": masks.recovered()}
    figures |= summary_figures(summary)
    scheduled = settings.drift is None and method.threshold is None
    notes = _notes(settings, method, figures["kept"], count_steps(task, settings))
    record, data = task_record(task), settings.train

    def save(draft: Path) -> None:
        """Writes task.mask beside the weights, and checks it against them."""
        saved = open_checkpoint(draft)
        path = draft / MASK_FILE
        said = {
            "method": settings.method,
            "task": record,
            "data": data if data.startswith("hub:") else Path(data).name,
            "data_sha256": workspace.identity["data"],
        }
        save_mask(path, saved, source, set(masked), said)
        _verify(path, masks)
        figures["mask_bytes"] = path.stat().st_size
        figures["entropy_bytes"] = entropy_bytes(masks.counts().values())

    return Outcome(
        model,
        task.tokenizer,
        figures,
        masks,
        asked=(1 - settings.kept, _rounding(masks)) if scheduled else None,
        more={"task": record, "scores": asdict(method), "notes": notes},
        save=save,
    )


def _notes(settings: MaskSettings, method: Method, kept: float, steps: int) -> list[str]:
    """What somebody who reads the figures should know."""
    if settings.drift is not None and kept > settings.kept + 1e-6:
        return [
            f"The threshold rose too little for --kept {settings.kept:g}: raise --drift, or train "
            "longer."
        ]
    warmup = round(settings.warmup * steps)
    reach = sum(linear_factor(step, warmup, steps) for step in range(steps))
    if reach < method.head_start:
        return [
            f"In {steps} steps, most at a lower rate, a score moves by {reach:.0f} full steps at "
            f"most, and large weights begin {method.head_start:g} ahead (--head-start): these are "
            "nearly the masks of magnitude. Train longer."
        ]
    return []


def method_of(settings: MaskSettings) -> Method:
    """The method with what the settings change of it."""
    changes = {
        "rate": settings.mask_learning_rate,
        "regularizer": settings.regularizer,
        "scope": settings.scope,
        "head_start": settings.head_start,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(METHODS[settings.method], **given)


def masked_parameters(
    model: nn.Module, settings: MaskSettings, source: Checkpoint
) -> dict[str, nn.Parameter]:
    """What is masked: matrices of the roles asked for, that the backbone has, and its tables.

    Raises:
        InputError: If nothing is left.
    """
    targets = find_targets(model, settings.roles, settings.exclude)
    found = pruned_parameters(model, targets)
    if settings.embeddings:
        prefix = getattr(model, "base_model_prefix", "")
        tables = ((n, p) for n, p in model.named_parameters() if n.startswith(f"{prefix}."))
        found |= {name: p for name, p in tables if p.ndim == 2 and is_embedding(name)}
    stored, pooler = stored_names(model, source), "pooler" in settings.also_train
    found = {
        name: parameter
        for name, parameter in found.items()
        if name in stored and not (pooler and role_of(name) == "pooler")
    }
    if not found:
        raise InputError(
            f"{source.path}: nothing to mask; --roles and --exclude leave no matrix of the model"
        )
    return found


def freeze_backbone(
    model: nn.Module, masked: set[str], settings: MaskSettings, source: Checkpoint
) -> list[nn.Parameter]:
    """Freezes all that is neither masked nor trained; returns what is trained as ever.

    That is the head, what else the backbone lacks (a pooler), and the parts asked for.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stored = stored_names(model, source)
    trained: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name in masked:
            continue
        own = not name.startswith(prefix) or name not in stored
        if own or _part(name) in settings.also_train:
            trained.append(parameter)
        else:
            parameter.requires_grad_(False)
    return trained


def _part(name: str) -> str | None:
    """Which of the parts that `also_train` names a parameter of the backbone belongs to."""
    lowered = name.lower()
    if "layernorm" in lowered or "layer_norm" in lowered:
        return "norms"
    if role_of(name.removesuffix(".bias")) == "pooler":
        return "pooler"
    return "biases" if name.endswith(".bias") else None


def _check_density(
    masked: dict[str, nn.Parameter], settings: MaskSettings, source: Checkpoint
) -> None:
    """Refuses to keep more than a backbone that is sparse itself has."""
    if METHODS[settings.method].threshold is not None:
        return
    counts = [(int(p.detach().count_nonzero()), p.numel()) for p in masked.values()]
    total = sum(found for found, _ in counts) / sum(n for _, n in counts)
    scope = "global" if settings.drift is not None else method_of(settings).scope
    uniform = scope != "global"
    densest = min(found / n for found, n in counts) if uniform else total
    if settings.kept > densest:
        raise InputError(
            f"{source.path}: is sparse, so that only {100 * densest:.1f} % of "
            f"{'a matrix' if uniform else 'its weights'} can be kept; lower --kept"
        )


def _update(settings: MaskSettings, masks: LearnedMasks, steps: int) -> MaskUpdate:
    """What chooses the masks in a run of so many steps."""
    schedule = resolve_schedule(
        PruningSettings(
            sparsity=1 - settings.kept,
            initial_sparsity=min(masks.total_sparsity(), 1 - settings.kept),
            growth_end=settings.growth_end,
            freeze=settings.freeze,
            update_every=settings.update_every,
        ),
        steps,
        0.0,
    )
    if masks.method.threshold is not None:
        return DriftingMasks(masks, masks.method.threshold, 0.0, None, schedule.every)
    if settings.drift is not None:
        return DriftingMasks(masks, 0.0, settings.drift, settings.kept, schedule.every)
    return ScheduledMasks(masks, schedule)


def _rounding(masks: LearnedMasks) -> float:
    """How far rounding to whole weights, and one kept a matrix at least, may lead."""
    return sum(1 / max(1, p.numel()) for p in masks.parameters.values())


def _verify(path: Path, masks: LearnedMasks) -> None:
    """Checks the written file against the masks.

    Raises:
        RuntimeError: If it says otherwise.
    """
    found = open_mask(path)
    for name in masks.parameters:
        if (found.kept(name) != masks.kept(name).cpu().numpy()).any():
            raise RuntimeError(f"{path}: holds another mask of {name} than was learned")
