"""What sub-networks compute on given text: layer outputs, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.errors import InputError
from prunella.study.about import About

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ABOUT = About(
    "Linear CKA compares what two sub-networks compute after each layer, over all tokens of the "
    "text: 1 if the outputs are the same up to rotation and scale, near 0 if they have nothing in "
    "common. Same answers is the share of texts for which two models of one task predict the same "
    "label; r is the correlation of predicted numbers.",
    "Kornblith et al. 2019, Similarity of Neural Network Representations Revisited (arXiv "
    "1905.00414), equation 5 for features: |Y'X|^2 / (|X'X| |Y'Y|), columns centred.",
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
        same_answers: Share of texts with the same label; None without labels in common.
        r: Pearson's correlation of predicted numbers; None for other tasks.
    """

    first: int
    second: int
    cka: Sequence[float]
    same_answers: float | None
    r: float | None


@dataclass(frozen=True)
class Outputs:
    """On how many texts and tokens, and every pair of those that compute."""

    texts: int
    tokens: int
    pairs: Sequence[Likeness]


@dataclass(frozen=True)
class _Computed:
    """One sub-network on the text: centred layer outputs, [tokens, width], and answers [texts]."""

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
    batches = [
        tokenizer(
            texts[i : i + _BATCH],
            truncation=True,
            max_length=_MOST_TOKENS,
            padding=True,
            return_tensors="pt",
        )
        for i in range(0, len(texts), _BATCH)
    ]
    computed = {number: _compute(each, batches) for number, each in checkpoints.items()}
    pairs = [_likeness((i, j), computed[i], computed[j]) for i, j in combinations(computed, 2)]
    return Outputs(len(texts), int(sum(b["attention_mask"].sum() for b in batches)), pairs)


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


def _column(record: dict[str, Any]) -> str | None:
    return next((str(record[key]) for key in ("text", "sentence") if record.get(key)), None)


def _compute(checkpoint: Any, batches: Sequence[Any]) -> _Computed:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from prunella.models import load_encoder, load_finished, takes_token_types, task_head

    disable_progress_bar()  # there is one for the whole study
    classifies = task_head(checkpoint) == "SequenceClassification"
    model: Any = load_finished(checkpoint) if classifies else load_encoder(checkpoint).eval()
    layers: list[list[Tensor]] = []
    logits: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            given = dict(batch)
            if not takes_token_types(model.config):
                given.pop("token_type_ids", None)
            found = model(**given, output_hidden_states=True)
            real = batch["attention_mask"].bool()
            for depth, hidden in enumerate(found.hidden_states):
                if depth == len(layers):
                    layers.append([])
                layers[depth].append(hidden[real])
            if classifies:
                logits.append(found.logits)
    centred = [(x := torch.cat(parts).double()) - x.mean(0) for parts in layers]
    if not classifies:
        return _Computed(centred, None, None)
    scores = torch.cat(logits)
    if scores.shape[1] == 1:
        return _Computed(centred, None, scores[:, 0].double().numpy())
    names = tuple(str(model.config.id2label[i]) for i in range(scores.shape[1]))
    return _Computed(centred, names, scores.argmax(1).numpy())


def _likeness(pair: tuple[int, int], a: _Computed, b: _Computed) -> Likeness:
    import numpy as np

    cka = [linear_cka(x, y) for x, y in zip(a.layers, b.layers, strict=True)]
    same = r = None
    if a.answers is not None and b.answers is not None and a.labels == b.labels:
        if a.labels is not None:
            same = float((a.answers == b.answers).mean())
        elif len(a.answers) > 1 and a.answers.std() > 0 and b.answers.std() > 0:
            r = float(np.corrcoef(a.answers, b.answers)[0, 1])
    return Likeness(*pair, cka, same, r)
