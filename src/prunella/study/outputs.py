"""What sub-networks compute on given text: layer outputs, and predictions."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, islice
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


class Products:
    """What linear CKA needs of the outputs of several models, added up batch by batch.

    So the tokens need no memory: width^2 float64 a layer, for each model and for every two.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._products: dict[tuple[int, int, int], Tensor] = {}

    def add(self, outputs: Mapping[int, Sequence[Tensor]]) -> None:
        """Adds a batch: for each model its layers' outputs, [tokens, width] each."""
        doubled = {number: [layer.double() for layer in found] for number, found in outputs.items()}
        self._tokens += len(next(iter(doubled.values()))[0])
        for number, layers in doubled.items():
            for depth, x in enumerate(layers):
                _add(self._sums, (number, depth), x.sum(0))
        for i, j in combinations_with_replacement(doubled, 2):
            for depth, (x, y) in enumerate(zip(doubled[i], doubled[j], strict=True)):
                _add(self._products, (i, j, depth), x.T @ y)

    def cka(self, i: int, j: int) -> list[float]:
        """Linear CKA of every layer of two models, added in this order."""
        depths = sum(1 for number, _ in self._sums if number == i)
        return [self._cka(i, j, depth) for depth in range(depths)]

    def _cka(self, i: int, j: int, depth: int) -> float:
        own = self._centred(i, i, depth).norm() * self._centred(j, j, depth).norm()
        shared = self._centred(i, j, depth).square().sum()
        return float(shared / own) if own > 0 else 0.0

    def _centred(self, i: int, j: int, depth: int) -> Tensor:
        import torch

        whole = self._products[i, j, depth]
        centred = whole - self._sums[i, depth].outer(self._sums[j, depth]) / self._tokens
        # Of outputs that never vary the difference leaves rounding errors alone.
        return centred if centred.norm() > 1e-12 * whole.norm() else torch.zeros_like(centred)


def _add(totals: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    totals[key] = totals[key] + value if key in totals else value


@dataclass(frozen=True)
class _Answers:
    """Of one sub-network.

    Attributes:
        labels: What they mean; None of numbers.
        values: [texts] labels or numbers, or [texts, labels] of yes and no.
    """

    labels: tuple[str, ...] | None
    values: np.ndarray


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
    products, answers = _compute(checkpoints, batches, unasked)
    records = {number: checkpoint.provenance or {} for number, checkpoint in checkpoints.items()}
    pairs = [
        Likeness(i, j, products.cka(i, j), *_agreement(answers.get(i), answers.get(j)))
        if same_task(records[i], records[j])
        else Likeness(i, j, products.cka(i, j), None, None)
        for i, j in combinations(checkpoints, 2)
    ]
    return Outputs(len(texts), tokens, pairs, unasked)


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


def _compute(
    checkpoints: Mapping[int, Checkpoint], batches: Sequence[Any], unasked: Container[int]
) -> tuple[Products, dict[int, _Answers]]:
    """All models read a batch before the next one is read."""
    import torch

    from prunella.models import load_encoder, load_finished, takes_token_types, task_head

    classifies = {n for n, c in checkpoints.items() if task_head(c) == "SequenceClassification"}
    models: dict[int, Any] = {
        number: load_finished(checkpoint)
        if number in classifies
        else load_encoder(checkpoint).eval()
        for number, checkpoint in checkpoints.items()
    }
    products = Products()
    logits: dict[int, list[Tensor]] = {
        n: [] for n in models if n in classifies and n not in unasked
    }
    with torch.inference_mode():
        for batch in batches:
            # It marks padding as well.
            real = batch["special_tokens_mask"] == 0
            layers: dict[int, list[Tensor]] = {}
            for number, model in models.items():
                left_out = {"special_tokens_mask"}
                if not takes_token_types(model.config):
                    left_out.add("token_type_ids")
                given = {name: value for name, value in batch.items() if name not in left_out}
                found = model(**given, output_hidden_states=True)
                layers[number] = [hidden[real] for hidden in found.hidden_states]
                if number in logits:
                    logits[number].append(found.logits)
            products.add(layers)
    answers = {n: _answers(models[n].config, torch.cat(parts)) for n, parts in logits.items()}
    return products, answers


def _answers(config: Any, scores: Tensor) -> _Answers:
    names = tuple(str(config.id2label[i]) for i in range(scores.shape[1]))
    if config.problem_type == "multi_label_classification":
        return _Answers(names, (scores.sigmoid() >= 0.5).numpy())
    if scores.shape[1] == 1:
        return _Answers(None, scores[:, 0].double().numpy())
    return _Answers(names, scores.argmax(1).numpy())


def _agreement(a: _Answers | None, b: _Answers | None) -> tuple[float | None, float | None]:
    """Share of same answers, or correlation of numbers, of two models of one task."""
    import numpy as np

    if a is None or b is None or a.labels != b.labels:
        return None, None
    if a.labels is not None:
        same = (a.values == b.values).reshape(len(a.values), -1).all(axis=1)
        return float(same.mean()), None
    if len(a.values) > 1 and a.values.std() > 0 and b.values.std() > 0:
        return None, float(np.corrcoef(a.values, b.values)[0, 1])
    return None, None
