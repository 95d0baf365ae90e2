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
from prunella.hub import fetch
from prunella.models import (
    keep_pooler,
    load_masked_lm,
    load_tokenizer,
    set_dropout,
    takes_token_types,
)
from prunella.settings import TeachSettings
from prunella.sparsity.masks import Masks
from prunella.stages.common import Outcome, Result, run_stage
from prunella.stages.text import Text, open_text, text_hashes
from prunella.stages.upstream import (
    figures,
    linear_plan,
    locked_zeros,
    train_head,
    training_figures,
)
from prunella.together import main_first
from prunella.training.loop import Summary, train
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
    masks = locked_zeros(model)
    set_dropout(model, settings.dropout)
    summaries = [] if had_head else [train_head(model, text, settings, workspace)]
    summaries.append(_train(model, text, settings, workspace, masks))
    metrics = figures(model, text.held_out(), settings) | training_figures(*summaries)
    return Outcome(model, tokenizer, metrics, masks, more={"text": text.figures()})


def _train(
    model: Any, text: Text, settings: TeachSettings, workspace: Workspace, masks: Masks | None
) -> Summary:
    plan = linear_plan("teach", settings.steps, model, text, settings, workspace, masks=masks)
    return train(model, plan, settings)


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
