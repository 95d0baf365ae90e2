"""What every stage that trains does alike: open, run, verify, publish."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from prunella.checkpoint import (
    PROVENANCE,
    Checkpoint,
    open_checkpoint,
    provenance,
    refuse_own_inputs,
    rename_old,
    write_json,
)
from prunella.errors import InputError, failed_to_write
from prunella.models import task_head
from prunella.processes import is_main, rank, refuse_sharded_models
from prunella.settings import OutputSettings
from prunella.sparsity.learned import LearnedMasks
from prunella.sparsity.masks import Masks
from prunella.together import main_only, share
from prunella.training.loop import uses_bf16
from prunella.workspace import Workspace, identity_of, open_workspace


@dataclass(frozen=True)
class Result:
    """What a stage made: the checkpoint's folder and its provenance."""

    out: Path
    provenance: Mapping[str, Any]
    finished_before: bool = False

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.provenance["metrics"]


@dataclass
class Outcome:
    """What the body of a stage hands over to be verified, saved and published.

    `masks` are the weights that must be zero; `asked` the sparsity over all of them that was
    asked for and what rounding may change of it, None where it is whatever the model had. `more`
    goes into the provenance, and `save` adds files to the checkpoint.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    metrics: dict[str, Any]
    masks: Masks | LearnedMasks | None = None
    asked: tuple[float, float] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    save: Callable[[Path], None] | None = None


def run_stage(
    stage: str,
    settings: OutputSettings,
    parents: Mapping[str, Checkpoint | None],
    data: Mapping[str, str],
    body: Callable[[Workspace], Outcome],
) -> Result:
    """Runs a stage in its working folder and publishes its checkpoint, whole or not at all.

    Args:
        stage: The verb.
        settings: Its settings.
        parents: The models it starts from, by their part.
        data: Hashes of the contents of the files that it reads, by the setting that names them: a
            run on a file that was edited since is another run.
        body: Does the work.

    Raises:
        InputError: If OUT is taken, or accelerate is set to share out the weights.
    """
    refuse_sharded_models()
    there = {part: parent for part, parent in parents.items() if parent}
    hashes = {part: parent.weights_hash for part, parent in there.items()}
    # Apart from the weights: their hash is what masks and children know a model by.
    hashes |= {f"{part} tokenizer": parent.tokenizer_hash for part, parent in there.items()}
    refuse_own_inputs(settings.out, {part: parent.path for part, parent in there.items()})
    identity = identity_of(stage, settings, hashes, data)
    workspace = _open_together(settings, identity)
    if workspace.finished:
        found = main_only(lambda: _read_record(workspace.out))
        return Result(workspace.out, share(found) or {}, finished_before=True)
    try:
        begun = time.monotonic()
        outcome = body(workspace)
        seconds = time.monotonic() - begun
        record = main_only(lambda: _save(stage, settings, parents, workspace, outcome, seconds))
        record = share(record) or {}
    except InputError:
        if is_main():  # no collective: the others may not have failed
            workspace.abandon()
        raise
    finally:
        workspace.close()
    return Result(workspace.out, record)


def _read_record(out: Path) -> dict[str, Any]:
    return json.loads((out / PROVENANCE).read_text(encoding="utf-8"))


def _arithmetic(settings: OutputSettings) -> dict[str, str]:
    """What a training computed in, which its setting `auto` leaves to the machine."""
    precision = getattr(settings, "precision", None)
    return {"arithmetic": "bf16" if uses_bf16(precision) else "fp32"} if precision else {}


def _save(
    stage: str,
    settings: OutputSettings,
    parents: Mapping[str, Checkpoint | None],
    workspace: Workspace,
    outcome: Outcome,
    seconds: float,
) -> dict[str, Any]:
    draft = workspace.draft
    try:
        outcome.model.save_pretrained(draft)
        rename_old(draft)
        outcome.tokenizer.save_pretrained(draft)
        if outcome.save:
            outcome.save(draft)
        saved = open_checkpoint(draft)
        verify_pattern(saved, outcome.masks, outcome.asked)
        record = provenance(
            stage,
            settings.model_dump(mode="json"),
            parents=parents,
            sparsity=saved.sparsity(outcome.masks.parameters if outcome.masks else ()),
            metrics=outcome.metrics,
            seconds=outcome.metrics.pop("seconds", seconds),
            identity={key: workspace.identity[key] for key in ("sha256", "data")},
            **_arithmetic(settings),
            **_dropped_head(parents["model"], saved),
            **outcome.more,
        )
        roles = [t for t in saved.tensors if t.role]
        total = sum(t.size for t in roles)
        record["sparsity"]["total"] = 1 - sum(t.nonzeros for t in roles) / max(1, total)
        write_json(draft / PROVENANCE, record)
        workspace.publish()
    except Exception as error:
        if not failed_to_write(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{workspace.out}: cannot write the checkpoint ({reason}); free some space and repeat "
            "the command: the training is not lost"
        ) from error
    return record


def _dropped_head(before: Checkpoint | None, saved: Checkpoint) -> dict[str, str]:
    """The head of a fine-tuned model, if what became of it has none such."""
    head = task_head(before) if before else None
    return {"dropped_head": head} if head and task_head(saved) != head else {}


def verify_pattern(
    saved: Checkpoint, masks: Masks | LearnedMasks | None, asked: tuple[float, float] | None
) -> None:
    """Checks the written weights against the masks, and the masks against what was asked.

    Args:
        saved: As written.
        masks: What must be zero.
        asked: The sparsity over all masks, and what rounding to whole groups may change of it.

    Raises:
        RuntimeError: If a pruned weight is not zero, or the sparsity is not the one asked for.
    """
    if masks is None:
        return
    stored = {name: array for name, _, array in saved.arrays() if name in masks.parameters}
    missing = masks.parameters.keys() - stored.keys()
    if missing:
        raise RuntimeError(f"the checkpoint lacks pruned matrices: {sorted(missing)[:4]}")
    for name, array in stored.items():
        unlocked = int((torch.from_numpy(array.copy()).ne(0) & ~masks.kept(name).cpu()).sum())
        if unlocked:
            raise RuntimeError(f"{name}: {unlocked} pruned weights are not zero")
    found = masks.total_sparsity()
    if asked is not None and abs(found - asked[0]) > asked[1] + 1e-9:
        raise RuntimeError(f"asked for sparsity {asked[0]:g}, reached {found:.6f}")


def _open_together(settings: OutputSettings, identity: Mapping[str, Any]) -> Workspace:
    """The first process opens the working folder; the others learn what it found.

    Raises:
        InputError: As `open_workspace`, or if processes were given different things.
    """
    if share(identity["sha256"]) != identity["sha256"]:
        raise InputError(
            f"process {rank()} was started with other settings, models or data than the first one; "
            "give all the same command, and the same files on every machine"
        )
    opened = main_only(lambda: open_workspace(settings.out, identity, overwrite=settings.overwrite))
    finished = share(opened.finished if opened else False)
    final = Path(os.path.abspath(settings.out))
    partial = final.with_name(final.name + ".partial")
    return opened or Workspace(final, partial, identity, finished=finished)


def eval_mode(model: nn.Module) -> nn.Module:
    """Freezes a model for inference."""
    return model.eval().requires_grad_(False)
