"""Masked language modelling: its loss with a teacher's signals, and its held-out figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunella.distillation import (
    Features,
    Wanted,
    distillation_loss,
    forward,
    hidden_loss,
    relation_heads,
    wanted_features,
)
from prunella.settings import DistillationSettings
from prunella.training.loop import BatchSource


@dataclass(frozen=True)
class Teacher:
    """A frozen model and the signals taken from it."""

    model: Any
    signals: DistillationSettings
    bf16: bool

    def features(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Wanted,
        tokens: Tensor | None,
        *,
        before_logits: bool = False,
    ) -> Features:
        device = inputs["input_ids"].device
        if next(self.model.parameters()).device != device:  # a trainer moves the student alone
            self.model.to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return forward(self.model, inputs, wanted, tokens=tokens, before_logits=before_logits)


class MlmLoss:
    """weight * MLM + the teacher's signals, on one micro-batch.

    Args:
        config: The student's configuration.
        weight: Weight of the masked-language-modelling loss.
        teacher: Signals besides; None for plain MLM.
    """

    def __init__(self, config: Any, weight: float, teacher: Teacher | None) -> None:
        self.weight, self.teacher = weight, teacher
        self.ours = self.theirs = Wanted(logits=False)
        self.heads = 1
        if teacher is not None:
            self.ours, self.theirs = wanted_features(teacher.signals, config, teacher.model.config)
            self.heads = relation_heads(config, teacher.model.config)

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = inputs["labels"].reshape(-1)
        tokens = self._tokens(inputs["attention_mask"].reshape(-1), labels)
        # Logits of all tokens would take more memory than the rest of the training.
        student = forward(model, inputs, self.ours, tokens=tokens, before_logits=self.ours.logits)
        losses: dict[str, Tensor] = {}
        if self.weight and tokens is not None:
            losses["mlm"] = self.weight * _mlm_loss(student, labels[tokens])
        if self.teacher is not None:
            shown = self.teacher.features(
                inputs, self.theirs, tokens if self.theirs.logits else None, before_logits=True
            )
            losses |= distillation_loss(
                student, shown, self.teacher.signals, inputs["attention_mask"], self.heads
            )
        return losses

    def _tokens(self, mask: Tensor, labels: Tensor) -> Tensor | None:
        """The tokens whose logits are needed: all real ones to distil, else the masked ones."""
        if self.ours.logits:
            return mask.nonzero().squeeze(1)
        if self.weight:
            return (labels != -100).nonzero().squeeze(1)
        return None


def _mlm_loss(student: Features, labels: Tensor) -> Tensor:
    """Cross-entropy of the tokens that have a label; the others carry -100."""
    if student.head is not None:
        rows = (labels != -100).nonzero().squeeze(1)
        return F.cross_entropy(student.head.logits(rows).float(), labels[rows])
    assert student.logits is not None
    return F.cross_entropy(student.logits.float(), labels)


@torch.no_grad()
def held_out(
    model: nn.Module,
    batches: BatchSource,
    *,
    has_head: bool,
    teacher: Teacher | None,
    bf16: bool,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Figures on held-out text: MLM loss (nats a masked token), perplexity, accuracy, and the
    hidden-state distance to the teacher (share of its variance that is not reproduced)."""
    was_training = model.training
    model.eval()
    config: Any = model.config
    sums = {"loss": 0.0, "hits": 0.0, "masked": 0.0, "hidden": 0.0}
    for position in range(len(batches)):
        inputs = {k: v.to(device) for k, v in batches[position].items()}
        labels = inputs["labels"].reshape(-1)
        tokens = (labels != -100).nonzero().squeeze(1) if has_head else None
        wanted = _hidden_wanted(config, teacher)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            seen = forward(model, inputs, wanted[0], tokens=tokens)
        if tokens is not None and seen.logits is not None:
            goal = labels[tokens]
            sums["loss"] += F.cross_entropy(seen.logits.float(), goal, reduction="sum").item()
            sums["hits"] += (seen.logits.argmax(-1) == goal).sum().item()
            sums["masked"] += len(goal)
        if teacher is not None and wanted[0].hidden:
            shown = teacher.features(inputs, wanted[1], None)
            sums["hidden"] += hidden_loss(seen.hidden, shown.hidden).item()
    model.train(was_training)
    figures: dict[str, float] = {}
    if sums["masked"]:
        loss = sums["loss"] / sums["masked"]
        figures |= {
            "mlm_loss": loss,
            "perplexity": math.exp(min(loss, 50.0)),
            "mlm_accuracy": sums["hits"] / sums["masked"],
        }
    if teacher is not None and _hidden_wanted(config, teacher)[0].hidden:
        figures["hidden_distance"] = sums["hidden"] / len(batches)
    return figures


def _hidden_wanted(config: Any, teacher: Teacher | None) -> tuple[Wanted, Wanted]:
    if teacher is None or config.hidden_size != teacher.model.config.hidden_size:
        return Wanted(False), Wanted(False)
    return wanted_features(DistillationSettings(hidden=1.0), config, teacher.model.config)
