"""What every stage that trains does alike: open, run, verify, publish."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerFast

from prunella.checkpoint import (
    PROVENANCE,
    Checkpoint,
    open_checkpoint,
    provenance,
    write_json,
)
from prunella.errors import InputError, failed_to_write
from prunella.processes import is_main, world_size
from prunella.settings import OutputSettings
from prunella.sparsity.masks import Masks
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
    asked for, None where it is whatever the model had. `more` goes into the provenance, and
    `save` adds files to the checkpoint.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    metrics: dict[str, Any]
    masks: Masks | None = None
    asked: float | None = None
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
    """
    hashes = {part: parent.weights_hash for part, parent in parents.items() if parent}
    identity = identity_of(stage, settings, hashes, data)
    workspace = _open_together(settings, identity)
    if workspace.finished:
        found = json.loads((workspace.out / PROVENANCE).read_text(encoding="utf-8"))
        return Result(workspace.out, found, finished_before=True)
    try:
        begun = time.monotonic()
        outcome = body(workspace)
        record: dict[str, Any] = {}
        if is_main():
            record = _save(stage, settings, parents, workspace, outcome, time.monotonic() - begun)
        _wait()
    finally:
        workspace.close()
    return Result(workspace.out, record)


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
        outcome.tokenizer.save_pretrained(draft)
        if outcome.save:
            outcome.save(draft)
        saved = open_checkpoint(draft)
        verify_pattern(saved, outcome.masks, outcome.asked)
        record = provenance(
            stage,
            settings.model_dump(mode="json"),
            parents=parents,
            sparsity=saved.sparsity(),
            metrics=outcome.metrics,
            seconds=outcome.metrics.pop("seconds", seconds),
            identity={key: workspace.identity[key] for key in ("sha256", "data")},
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


def verify_pattern(saved: Checkpoint, masks: Masks | None, asked: float | None) -> None:
    """Checks the written weights against the masks, and the masks against what was asked.

    Raises:
        RuntimeError: If a pruned weight is not zero, or the sparsity is not the one asked for.
    """
    if masks is None:
        return
    stored = {name: array for name, _, array in saved.arrays() if name in masks.codes}
    missing = masks.codes.keys() - stored.keys()
    if missing:
        raise RuntimeError(f"the checkpoint lacks pruned matrices: {sorted(missing)[:4]}")
    for name, array in stored.items():
        unlocked = int((torch.from_numpy(array.copy()).ne(0) & ~masks.kept(name).cpu()).sum())
        if unlocked:
            raise RuntimeError(f"{name}: {unlocked} pruned weights are not zero")
    found = masks.total_sparsity()
    # Rounding to whole weights, and at least one weight kept a matrix.
    slack = sum(1 / max(1, c.numel()) for c in masks.codes.values())
    if asked is not None and abs(found - asked) > slack + 1e-9:
        raise RuntimeError(f"asked for sparsity {asked:g}, reached {found:.6f}")


def _open_together(settings: OutputSettings, identity: Mapping[str, Any]) -> Workspace:
    """The first process opens the working folder; the others learn what it found."""
    if world_size() == 1:
        return open_workspace(settings.out, identity, overwrite=settings.overwrite)
    PartialState(cpu=not torch.cuda.is_available())
    answer: list[Any] = [None]
    workspace: Workspace | None = None
    if is_main():
        try:
            workspace = open_workspace(settings.out, identity, overwrite=settings.overwrite)
            answer = [workspace.finished]
        except InputError as error:
            answer = [str(error)]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], str):
        raise InputError(answer[0])
    final = Path(settings.out).absolute()
    partial = final.with_name(final.name + ".partial")
    return workspace or Workspace(final, partial, identity, finished=answer[0])


def main_first(action: Callable[[], Any]) -> Any:
    """Runs `action` on the first process, then on the others, which find its cache."""
    if world_size() == 1:
        return action()
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        return action()


def _wait() -> None:
    if world_size() > 1:
        PartialState().wait_for_everyone()


def eval_mode(model: nn.Module) -> nn.Module:
    """Freezes a model for inference."""
    return model.eval().requires_grad_(False)
