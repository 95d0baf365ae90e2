"""Fine-tuning on a task: its loss with a teacher's signals, and the predictions of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunella.data.metrics import metrics
from prunella.data.task_batches import EncodedTask, eval_batches
from prunella.distillation import Wanted, distillation_loss, forward
from prunella.settings import DistillationSettings
from prunella.teacher_cache import TeacherCache


class TaskLoss:
    """weight * loss on the labels + the teacher's signals, on one micro-batch.

    Args:
        kind: "classification" (cross-entropy) or "regression" (mean squared error).
        weight: Weight of the loss on the labels.
        wanted: What to collect of the student.
        signals: Weights of the teacher's signals.
        cache: The teacher's outputs; None for plain fine-tuning.
        heads: Relation heads of the attention signal.
    """

    def __init__(
        self,
        kind: str,
        weight: float,
        wanted: Wanted,
        signals: DistillationSettings,
        cache: TeacherCache | None,
        heads: int,
    ) -> None:
        self.kind, self.weight, self.signals = kind, weight, signals
        self.wanted = Wanted(True, wanted.hidden, wanted.relation)
        self.cache, self.heads = cache, heads

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        student = forward(model, inputs, self.wanted)
        assert student.logits is not None
        losses: dict[str, Tensor] = {}
        if self.weight:
            losses["labels"] = self.weight * label_loss(self.kind, student.logits, inputs["labels"])
        if self.cache is not None:
            losses |= distillation_loss(
                student,
                self.cache.features(inputs),
                self.signals,
                inputs["attention_mask"],
                self.heads,
            )
        return losses


def label_loss(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, or the mean squared error of a regression."""
    if kind == "regression":
        return F.mse_loss(logits.float().squeeze(-1), labels.float())
    return F.cross_entropy(logits.float(), labels)


@torch.no_grad()
def predict_logits(
    model: Any, encoded: EncodedTask, *, batch_size: int, pad_id: int, bf16: bool = False
) -> np.ndarray:
    """Logits of every example, [n, outputs] float32, in the order of the examples."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    batches = eval_batches(encoded, batch_size, pad_id)
    out = np.zeros((len(encoded), model.config.num_labels), np.float32)
    for position in range(len(batches)):
        batch = {key: value.to(device) for key, value in batches[position].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            seen = forward(model, batch, Wanted(logits=True))
        assert seen.logits is not None
        out[batch["index"].cpu().numpy()] = seen.logits.float().cpu().numpy()
    model.train(was_training)
    return out


def predictions_of(kind: str, logits: np.ndarray) -> np.ndarray:
    """Class ids, or scores of a regression."""
    return logits[:, 0] if kind == "regression" else logits.argmax(axis=1)


def score(kind: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics from logits."""
    shown = logits if kind == "classification" else None
    return metrics(kind, labels, predictions_of(kind, logits), logits=shown)
