"""Fine-tuning on a task: its loss with a teacher's signals, and the predictions of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunella.data.task_batches import EncodedTask, eval_batches, only, places
from prunella.distillation import Wanted, distillation_loss, forward
from prunella.settings import DistillationSettings
from prunella.tasks import Kind
from prunella.teacher_cache import TeacherCache


class TaskLoss:
    """weight * loss on the labels + the teacher's signals, on one micro-batch.

    Args:
        kind: Kind of the task: what the losses are.
        weight: Weight of the loss on the labels.
        wanted: What to collect of the student.
        signals: Weights of the teacher's signals.
        cache: The teacher's outputs; None for plain fine-tuning.
        heads: Relation heads of the attention signal.
        class_weights: From the kind; None to count every row alike.
        labelled: So many sequences, the first ones, have labels; None if all have.
    """

    def __init__(
        self,
        kind: Kind[Any],
        weight: float,
        wanted: Wanted,
        signals: DistillationSettings,
        cache: TeacherCache | None,
        heads: int,
        class_weights: Tensor | None = None,
        labelled: int | None = None,
    ) -> None:
        self.kind, self.weight, self.signals = kind, weight, signals
        self.labelled = labelled
        self.wanted = Wanted(True, wanted.hidden, wanted.relation)
        self.cache, self.heads, self.class_weights = cache, heads, class_weights

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        student = forward(model, inputs, self.wanted)
        assert student.logits is not None
        losses: dict[str, Tensor] = {}
        if self.weight:
            losses["labels"] = self.weight * self._of_labels(student.logits, inputs)
        if self.cache is not None:
            losses |= distillation_loss(
                student,
                self.cache.features(inputs),
                self.signals,
                inputs["attention_mask"],
                self.heads,
                lambda ours, theirs, t: self.kind.distillation(ours, theirs, inputs, t),
            )
        return losses

    def _of_labels(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The loss on the labels: a mean over the batch, 0 for what has no label."""
        share = 1.0
        if self.labelled is not None:
            known = inputs["index"] < self.labelled
            logits, inputs, share = only(logits, inputs, known)
            if not share:
                return logits.float().sum() * 0
        weights = self.class_weights
        weights = None if weights is None else weights.to(logits.device)
        return share * self.kind.loss(logits, inputs, weights)


@torch.no_grad()
def predict_logits(model: Any, encoded: EncodedTask, *, batch_size: int, pad_id: int) -> np.ndarray:
    """Logits of every sequence, or of every watched token: [n, outputs] float32, in order."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    batches = eval_batches(encoded, batch_size, pad_id)
    offsets = encoded.output_offsets
    out = np.zeros((int(offsets[-1]), model.config.num_labels), np.float32)
    for position in range(len(batches)):
        batch = {key: value.to(device) for key, value in batches[position].items()}
        seen = forward(model, batch, Wanted(logits=True))
        assert seen.logits is not None
        out[places(offsets, batch["index"].cpu().numpy())] = seen.logits.float().cpu().numpy()
    model.train(was_training)
    return out
