"""Loading models for a stage, with the reasons when that fails in words a user can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from prunella.checkpoint import Checkpoint
from prunella.errors import InputError, first_line
from prunella.quantization import load_scales, restore

_HEADS: dict[str, Any] = {
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
    "QuestionAnswering": AutoModelForQuestionAnswering,
    "MultipleChoice": AutoModelForMultipleChoice,
}
# RoBERTa and its like count positions from behind the padding index.
_POSITIONS_BEHIND_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"}


def load_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """The checkpoint's configuration, defaults filled in."""
    with _explained(checkpoint):
        return AutoConfig.from_pretrained(checkpoint.path)


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The checkpoint's fast tokenizer."""
    with _quiet(), _explained(checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    if not tokenizer.is_fast:
        raise InputError(f"{checkpoint.path}: needs a fast tokenizer (tokenizer.json)")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of no file
        raise InputError(f"{checkpoint.path}: no tokenizer in this folder; save it there as well")
    return tokenizer


def load_encoder(checkpoint: Checkpoint) -> nn.Module:
    """The bare encoder in fp32, without a pooler if the checkpoint has none."""
    with _quiet(), _explained(checkpoint):
        model, info = AutoModel.from_pretrained(
            checkpoint.path, dtype=torch.float32, output_loading_info=True
        )
    missing = set(info["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        model.pooler = None  # a random one is nothing to learn from, nor to prune
    _refuse_missing(checkpoint, (n for n in missing if not n.startswith("pooler.")))
    return model


def load_masked_lm(checkpoint: Checkpoint) -> tuple[nn.Module, bool]:
    """The model with its MLM head in fp32, and whether the checkpoint had that head.

    The MLM classes have no pooler; one that the checkpoint holds is kept, so that a task can use
    it later.
    """
    with _quiet(), _explained(checkpoint):
        model, info = AutoModelForMaskedLM.from_pretrained(
            checkpoint.path, dtype=torch.float32, output_loading_info=True
        )
    if any("pooler." in tensor.name for tensor in checkpoint.tensors):
        keep_pooler(model, load_encoder(checkpoint))
    prefix = model.base_model_prefix + "."
    head = [name for name in info["missing_keys"] if not name.startswith(prefix)]
    _refuse_missing(checkpoint, (n for n in info["missing_keys"] if n.startswith(prefix)))
    return model, not head


def copy_head(model: Any, other: Checkpoint) -> bool:
    """Gives a masked language model the MLM head of another checkpoint of the same vocabulary.

    What the head shares with the embeddings stays the model's own. Returns whether the other one
    has a head of this shape; without one nothing is changed.
    """
    source, has_head = load_masked_lm(other)
    prefix = model.base_model_prefix + "."
    mine = {n: p for n, p in model.named_parameters() if not n.startswith(prefix)}
    theirs = dict(source.named_parameters())
    fits = all(name in theirs and theirs[name].shape == p.shape for name, p in mine.items())
    if not has_head or not fits:
        return False
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(theirs[name])
    return True


def _refuse_missing(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    missing = sorted(names)
    if missing:
        raise InputError(f"{checkpoint.path}: the weights lack {', '.join(missing[:4])}")


def keep_pooler(model: Any, encoder: Any) -> None:
    """Gives a masked language model the pooler of `encoder`, which its class leaves out.

    A task uses it later, so it is pruned and saved with the rest.
    """
    if getattr(model.base_model, "pooler", ()) is None:
        model.base_model.pooler = encoder.pooler


def load_for_task(
    checkpoint: Checkpoint,
    head: str,
    labels: int,
    names: list[str],
    problem: str | None,
    *,
    new_head: bool = False,
) -> nn.Module:
    """The model with a task head, new unless the checkpoint has that head.

    Args:
        checkpoint: Any encoder.
        head: The transformers class behind "AutoModelFor", one of those of `task_head`.
        labels: Outputs of the head.
        names: What they are called, if they have names.
        problem: `problem_type` of the configuration.
        new_head: Leave behind the head that the checkpoint has.

    Raises:
        InputError: If transformers cannot load it.
    """
    config: Any = load_config(checkpoint)
    config.num_labels = labels
    config.problem_type = problem
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
    if new_head:
        return _with_encoder(checkpoint, _HEADS[head].from_config(config, dtype=torch.float32))
    with _quiet(), _explained(checkpoint):
        return _HEADS[head].from_pretrained(checkpoint.path, config=config, dtype=torch.float32)


def _with_encoder(checkpoint: Checkpoint, model: Any) -> nn.Module:
    """A model that was drawn at random, with the checkpoint's encoder for its own."""
    encoder, stored = model.base_model, load_encoder(checkpoint).state_dict()
    known = {name: tensor for name, tensor in stored.items() if name in encoder.state_dict()}
    missing = encoder.load_state_dict(known, strict=False).missing_keys
    _refuse_missing(checkpoint, (n for n in missing if not n.startswith("pooler.")))
    return model


def load_finished(checkpoint: Checkpoint) -> nn.Module:
    """A fine-tuned model as it predicts: a quantised one computes in 8 bits.

    Raises:
        InputError: If the checkpoint has no task head.
    """
    head = task_head(checkpoint)
    if head is None:
        raise InputError(
            f"{checkpoint.path}: has no task head; fine-tune it first with `prunella transfer`"
        )
    with _quiet(), _explained(checkpoint):
        model = _HEADS[head].from_pretrained(checkpoint.path, dtype=torch.float32)
    scales = load_scales(checkpoint.path)
    if scales is not None:
        restore(model, scales)
    return model.eval().requires_grad_(False)


def task_head(checkpoint: Checkpoint) -> str | None:
    """The head of a fine-tuned checkpoint ("SequenceClassification", ...); None without one."""
    architecture = (checkpoint.config.get("architectures") or [""])[0]
    return next((head for head in _HEADS if architecture.endswith(f"For{head}")), None)


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The padding token's id; attention masks hide it, so 0 serves where there is none."""
    found = tokenizer.pad_token_id
    return found if isinstance(found, int) else 0


def check_length(setting: str, length: int, config: Any) -> None:
    """Refuses rows that are longer than a model has positions.

    Raises:
        InputError: Naming the setting to lower.
    """
    most = positions(config)
    if most is not None and length > most:
        raise InputError(
            f"{setting} {length}: the model has {most} positions; lower "
            f"--{setting.replace('_', '-')}"
        )


def positions(config: Any) -> int | None:
    """Tokens that a model takes at most; None if nothing limits them."""
    found = getattr(config, "max_position_embeddings", None)
    if found and config.model_type in _POSITIONS_BEHIND_PADDING:
        found -= (config.pad_token_id or 0) + 1
    return found or None


def takes_token_types(config: Any) -> bool:
    """Whether a model tells first and second segment apart."""
    return getattr(config, "type_vocab_size", 0) > 1


def check_same_vocabulary(
    student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, paths: Mapping[str, Path]
) -> None:
    """Refuses a teacher that reads other token ids than its student."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = [t for t, i in sorted(ours.items(), key=lambda x: x[1]) if theirs.get(t) != i]
    example = f"'{differing[0]}'" if differing else "entries that only the teacher has"
    raise InputError(
        f"teacher {paths['teacher']} and student {paths['model']} have different vocabularies "
        f"({len(theirs)} and {len(ours)} entries, first difference {example}); distillation needs "
        "the same one: take a teacher of the same tokenizer"
    )


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Sets every dropout module to `probability`; None leaves the model's own."""
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the load report of transformers: a missing head is what a stage expects."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _explained(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{checkpoint.path}: transformers cannot load it ({first_line(error)})"
        ) from error
