"""What sub-networks compute on given text: layer outputs, and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.errors import InputError
from prunella.quiet import hush
from prunella.study.about import About
from prunella.study.records import reads_pairs, same_task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from prunella.checkpoint import Checkpoint

ABOUT = About(
    "Linear CKA compares what two sub-networks compute after each layer, over all tokens of the "
    "text: 1 if the outputs are the same up to rotation and scale, near 0 if they have nothing in "
    "common. Special tokens ([CLS], [SEP]) are left out: in short texts they are a fifth of all, "
    "and change it much (0.45 with them and 0.58 without, in one trial). Same answers is the share "
    "of texts for which two models of one task predict the same label, or, where there may be "
    "several, the same set of labels (each from a probability of 0.5); r is the correlation of "
    "predicted numbers. One task means: by their records the same kind, the same labels and the "
    "same rows to train or to validate on.",
    "Kornblith et al. 2019, Similarity of Neural Network Representations Revisited (arXiv "
    "1905.00414), for features: |Y'X|^2 / (|X'X| |Y'Y|), columns centred.",
    "A few directions of large variance decide it, and they are where encoders have outliers; so "
    "it stays high while predictions differ (Davari et al. 2022, arXiv 2210.16156). With fewer "
    "tokens than a few times the width it is too high.",
)
_BATCH = 16
_MOST_TOKENS = 128


@dataclass(frozen=True)
class Likeness:
    """Of one pair.

    Attributes:
        first, second: Indices of the two.
        cka: After the embeddings and after each layer.
        same_answers: Share of texts with the same label or set of labels; None without a task of
            labels in common.
        r: Pearson's correlation of predicted numbers; None without a task of numbers in common.
    """

    first: int
    second: int
    cka: Sequence[float]
    same_answers: float | None
    r: float | None


@dataclass(frozen=True)
class Outputs:
    """What was computed.

    Attributes:
        texts: How many.
        tokens: Of them, special ones not counted.
        pairs: Every two of those that compute.
        unasked: Why the predictions of a model were not compared, by its index.
    """

    texts: int
    tokens: int
    pairs: Sequence[Likeness]
    unasked: Mapping[int, str]

    def told(self, names: Sequence[str]) -> list[str]:
        """What is not compared, and why, in sentences; `names` are those of all sub-networks."""
        computed = {number for pair in self.pairs for number in (pair.first, pair.second)}
        idle = [name for number, name in enumerate(names) if number not in computed]
        found = [f"Masks and packed files compute nothing here: {', '.join(idle)}."] if idle else []
        for reason in dict.fromkeys(self.unasked.values()):
            whose = ", ".join(names[n] for n, said in self.unasked.items() if said == reason)
            found.append(f"No predictions of {whose} are compared: {reason}.")
        return found


@dataclass(frozen=True)
class _Computed:
    """One sub-network on the text.

    Attributes:
        layers: Centred outputs, [tokens, width] each.
        labels: What its answers mean; None of numbers.
        answers: [texts] labels or numbers, or [texts, labels] of yes and no; None if unasked.
    """

    layers: list[Tensor]
    labels: tuple[str, ...] | None
    answers: np.ndarray | None


def outputs(paths: Sequence[Path], file: str, count: int) -> Outputs:
    """Compares what checkpoints compute on the first texts of a file.

    Masks alone and packed files compute nothing here, and are left out.

    Args:
        paths: Of all sub-networks.
        file: A text a line, or any rows with a column "text" or "sentence".
        count: How many texts to take.

    Raises:
        InputError: If there are no texts, or models read other tokens than the first.
    """
    hush()  # before the first import of transformers

    from prunella.checkpoint import open_checkpoint
    from prunella.models import check_same_vocabulary, load_tokenizer

    folders = {number: path for number, path in enumerate(paths) if path.is_dir()}
    if len(folders) < 2:
        raise InputError(
            "--text compares what checkpoint folders compute, and there are fewer than two; apply "
            "masks first (prunella mask apply), unpack packed files (prunella unpack)"
        )
    texts = _texts(file, count)
    checkpoints = {number: open_checkpoint(path) for number, path in folders.items()}
    first = next(iter(checkpoints))
    tokenizer = load_tokenizer(checkpoints[first])
    for number, checkpoint in checkpoints.items():
        if number != first:
            other = load_tokenizer(checkpoint)
            named = {"first": folders[first], "other": folders[number]}
            check_same_vocabulary(tokenizer, other, named)
    length = min(_MOST_TOKENS, *(_positions(checkpoint) for checkpoint in checkpoints.values()))
    batches = [
        tokenizer(
            texts[i : i + _BATCH],
            truncation=True,
            max_length=length,
            padding=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        for i in range(0, len(texts), _BATCH)
    ]
    tokens = sum(int((b["special_tokens_mask"] == 0).sum()) for b in batches)
    if not tokens:
        raise InputError(f"{file}: the tokenizer makes no tokens of its texts; give other ones")
    found = {number: _unasked(checkpoint) for number, checkpoint in checkpoints.items()}
    unasked = {number: reason for number, reason in found.items() if reason}
    computed = {
        number: _compute(checkpoint, batches, asked=number not in unasked)
        for number, checkpoint in checkpoints.items()
    }
    records = {number: checkpoint.provenance or {} for number, checkpoint in checkpoints.items()}
    pairs = [
        _likeness((i, j), computed[i], computed[j], same_task(records[i], records[j]))
        for i, j in combinations(computed, 2)
    ]
    return Outputs(len(texts), tokens, pairs, unasked)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of centred features, [samples, width] each; the widths may differ."""
    shared = (y.T @ x).square().sum()
    own = (x.T @ x).norm() * (y.T @ y).norm()
    return float(shared / own) if own > 0 else 0.0


def _texts(file: str, count: int) -> list[str]:
    from prunella.rows import Rows

    found: list[str] = []
    with closing(Rows(file)) as rows:
        for row in islice(rows, count):
            if isinstance(row.record, InputError):
                raise row.record
            text = row.record if isinstance(row.record, str) else _column(row.record)
            if text is None:
                raise InputError(
                    f"{file}, line {row.line}: has neither a column 'text' nor 'sentence'; give a "
                    "file with a text a line"
                )
            found.append(text)
    if not found:
        raise InputError(f"{file}: no text in it")
    return found


def _positions(checkpoint: Checkpoint) -> int:
    from prunella.models import load_config, positions

    return positions(load_config(checkpoint)) or _MOST_TOKENS


def _column(record: dict[str, Any]) -> str | None:
    return next((str(record[key]) for key in ("text", "sentence") if record.get(key)), None)


def _unasked(checkpoint: Checkpoint) -> str | None:
    """Why a model is not asked for predictions; None if it is, or if it makes none of texts."""
    from prunella.models import task_head

    if task_head(checkpoint) != "SequenceClassification":
        return None
    pairs = reads_pairs(checkpoint.provenance or {})
    if pairs:
        return "the task reads pairs of texts, and these are single ones"
    return None if pairs is False else "no record says that the task reads single texts"


def _compute(checkpoint: Checkpoint, batches: Sequence[Any], *, asked: bool) -> _Computed:
    import torch

    from prunella.models import load_encoder, load_finished, takes_token_types, task_head

    classifies = task_head(checkpoint) == "SequenceClassification"
    model: Any = load_finished(checkpoint) if classifies else load_encoder(checkpoint).eval()
    layers: list[list[Tensor]] = []
    logits: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            given = dict(batch)
            # It marks padding as well.
            real = given.pop("special_tokens_mask") == 0
            if not takes_token_types(model.config):
                given.pop("token_type_ids", None)
            found = model(**given, output_hidden_states=True)
            for depth, hidden in enumerate(found.hidden_states):
                if depth == len(layers):
                    layers.append([])
                layers[depth].append(hidden[real])
            if classifies:
                logits.append(found.logits)
    centred = [(x := torch.cat(parts).double()) - x.mean(0) for parts in layers]
    if not classifies or not asked:
        return _Computed(centred, None, None)
    scores = torch.cat(logits)
    names = tuple(str(model.config.id2label[i]) for i in range(scores.shape[1]))
    if model.config.problem_type == "multi_label_classification":
        return _Computed(centred, names, (scores.sigmoid() >= 0.5).numpy())
    if scores.shape[1] == 1:
        return _Computed(centred, None, scores[:, 0].double().numpy())
    return _Computed(centred, names, scores.argmax(1).numpy())


def _likeness(pair: tuple[int, int], a: _Computed, b: _Computed, one_task: bool) -> Likeness:
    import numpy as np

    cka = [linear_cka(x, y) for x, y in zip(a.layers, b.layers, strict=True)]
    same = r = None
    if one_task and a.answers is not None and b.answers is not None and a.labels == b.labels:
        if a.labels is not None:
            texts = len(a.answers)
            same = float((a.answers == b.answers).reshape(texts, -1).all(axis=1).mean())
        elif len(a.answers) > 1 and a.answers.std() > 0 and b.answers.std() > 0:
            r = float(np.corrcoef(a.answers, b.answers)[0, 1])
    return Likeness(*pair, cka, same, r)
