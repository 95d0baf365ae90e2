"""teach: masked language modelling of a dense model on raw text, which prepares the teacher."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from prunella.checkpoint import Checkpoint
from prunella.data.vocabulary import train_wordpiece
from prunella.errors import InputError, first_line
from prunella.models import (
    fetch,
    keep_pooler,
    load_masked_lm,
    load_tokenizer,
    set_dropout,
    takes_token_types,
)
from prunella.processes import world_size
from prunella.settings import TeachSettings
from prunella.sparsity.masks import Masks
from prunella.sparsity.schedules import linear_factor
from prunella.sparsity.targets import find_targets, pruned_parameters
from prunella.stages.common import Outcome, Result, main_first, run_stage
from prunella.stages.text import Text, open_text, text_hashes
from prunella.training.loop import Plan, Summary, train, uses_bf16
from prunella.training.mlm import MlmLoss, held_out
from prunella.workspace import Workspace


def teach(settings: TeachSettings) -> Result:
    """Trains a model by masked language modelling (BERT; Prune OFA's teacher preparation).

    Raises:
        InputError: If there is no model or configuration, or the text cannot be read.
    """
    if (settings.model is None) == (settings.config is None):
        raise InputError("teach starts from either --model or --config; give exactly one")
    source = fetch(settings.model) if settings.model else None
    data = text_hashes(settings)
    if isinstance(settings.config, str):
        values = json.dumps(_read_configuration(settings.config), sort_keys=True, default=str)
        data["config"] = hashlib.sha256(values.encode()).hexdigest()
    return run_stage(
        "teach",
        settings,
        {"model": source},
        data,
        lambda workspace: _teach(settings, source, workspace),
    )


def _teach(settings: TeachSettings, source: Checkpoint | None, workspace: Workspace) -> Outcome:
    set_seed(settings.seed)  # new weights
    if source is None:
        model, tokenizer = _from_configuration(settings, workspace)
        had_head = True
    else:
        model, had_head = load_masked_lm(source)
        tokenizer = load_tokenizer(source)
    text = open_text(settings, tokenizer, model.config, takes_token_types(model.config))
    masks = Masks.of_zeros(pruned_parameters(model, find_targets(model)))
    locked = masks if masks.total_sparsity() > 0 else None
    set_dropout(model, settings.dropout)
    summaries = []
    if not had_head:
        summaries.append(_train_head(model, text, settings, workspace))
    summaries.append(_train(model, text, settings, workspace, locked))
    metrics: dict[str, Any] = held_out(
        model,
        text.held_out(),
        has_head=True,
        teacher=None,
        bf16=uses_bf16(settings.precision),
        device=next(model.parameters()).device,
    )
    metrics |= {
        "tokens": sum(s.tokens for s in summaries),
        "seconds": sum(s.seconds for s in summaries),
        "steps": sum(s.steps for s in summaries),
    }
    return Outcome(model, tokenizer, metrics, locked, more={"text": text.figures()})


def _train_head(model: Any, text: Text, settings: TeachSettings, workspace: Workspace) -> Summary:
    """Trains a new MLM head first, so that its noise does not reach the encoder."""
    steps = settings.head_steps
    steps = max(1, settings.steps // 10) if steps is None else steps
    if steps == 0:
        return Summary(0, 0.0, 0, {})
    model.base_model.requires_grad_(False)
    only_head = settings.model_copy(update={"learning_rate": settings.head_learning_rate})
    # Tied to the embeddings, the output matrix stays as frozen as they are.
    summary = train(
        model,
        _plan("head", steps, model, text, settings, workspace, None),
        only_head,
    )
    model.base_model.requires_grad_(True)
    return summary


def _train(
    model: Any, text: Text, settings: TeachSettings, workspace: Workspace, masks: Masks | None
) -> Summary:
    plan = _plan("teach", settings.steps, model, text, settings, workspace, masks)
    return train(model, plan, settings)


def _plan(
    label: str,
    steps: int,
    model: Any,
    text: Text,
    settings: TeachSettings,
    workspace: Workspace,
    masks: Masks | None,
) -> Plan:
    warmup = round(settings.warmup * steps)
    # The head sees other batches than the encoder does later.
    seed = settings.seed + (1_000_003 if label == "head" else 0)
    return Plan(
        label=label,
        batches=text.batches(steps * settings.accumulation * world_size(), seed),
        loss=MlmLoss(model.config, 1.0, None),
        steps=steps,
        factor=lambda step: linear_factor(step, warmup, steps),
        folder=workspace.partial / f"states-{label}",
        log=workspace.log,
        masks=masks,
    )


def _from_configuration(
    settings: TeachSettings, workspace: Workspace
) -> tuple[Any, PreTrainedTokenizerFast]:
    """A new model, and a WordPiece vocabulary of the training text."""
    folder = workspace.partial / "tokenizer"

    def tokenizer() -> PreTrainedTokenizerFast:
        from transformers import AutoTokenizer

        if not (folder / "tokenizer.json").exists():
            made = train_wordpiece(settings.text, settings.vocabulary_size)
            made.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)

    made = main_first(tokenizer)
    values = dict(_read_configuration(settings.config))
    kind = values.pop("model_type", "bert")
    given = values.setdefault("vocab_size", len(made))
    if given < len(made):
        raise InputError(
            f"config: vocab_size {given} is below the {len(made)} entries of the vocabulary; "
            "leave it out or lower --vocabulary-size"
        )
    values["pad_token_id"] = made.pad_token_id
    try:
        config = AutoConfig.for_model(kind, **values)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = AutoModelForMaskedLM.from_config(config)
            keep_pooler(model, AutoModel.from_config(config))
            return model, made
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"config: transformers cannot build this model ({first_line(error)})"
        ) from error


def _read_configuration(config: dict[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    path = Path(str(config))
    try:
        content = path.read_text(encoding="utf-8")
        values = json.loads(content) if path.suffix == ".json" else yaml.safe_load(content)
    except OSError as error:
        raise InputError(f"config: {path}: {error.strerror}") from None
    except (UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"config: {path}: neither JSON nor YAML ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"config: {path}: expected a mapping of configuration values")
    return values
