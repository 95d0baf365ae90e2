"""Fine-tuned models to put rows to: a checkpoint in PyTorch, or a packed file in the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from prunella.checkpoint import PROVENANCE, Checkpoint
from prunella.data.task_batches import EncodedTask, places
from prunella.engine.batching import micro_batches
from prunella.engine.model import BATCH_TOKENS, load
from prunella.engine.runner import Runner
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import load_config, load_finished, pad_id
from prunella.packed.read import open_packed
from prunella.stages.examples import Examples
from prunella.training.task import predict_logits


@dataclass(frozen=True)
class Askable:
    """A model that is ready.

    Attributes:
        checkpoint: Where its configuration, tokenizer and record are.
        config: Its configuration.
        logits: What it says of each sequence of some examples, or of each watched token.
    """

    checkpoint: Checkpoint
    config: Any
    logits: Callable[[Examples], np.ndarray]


@contextmanager
def askable(model: str, *, batch_size: int, threads: int | None) -> Iterator[Askable]:
    """Opens a checkpoint, or a packed file; its folder may be gone afterwards.

    Args:
        model: Folder, Hub name or packed file.
        batch_size: Sequences in a batch of a checkpoint.
        threads: CPU threads; None for one for each core.

    Raises:
        InputError: If there is no such model, or if it has no task head.
    """
    if Path(model).is_file():
        with TemporaryDirectory(prefix="prunella-") as folder:
            yield _packed(Path(model), Path(folder), threads)
        return
    if threads:
        torch.set_num_threads(threads)
    checkpoint = fetch(model)
    network: Any = load_finished(checkpoint)

    def logits(examples: Examples) -> np.ndarray:
        padding = pad_id(examples.reading.tokenizer)
        return predict_logits(network, examples.encoded, batch_size=batch_size, pad_id=padding)

    yield Askable(checkpoint, network.config, logits)


def _packed(path: Path, folder: Path, threads: int | None) -> Askable:
    """The packed file in the engine; the small files that it carries are written to a folder."""
    packed = open_packed(path)
    engine = load(path, threads=threads)
    if engine.task.name in ("embedding", "fill-mask"):
        raise InputError(
            f"{path}: has no task head; pack a checkpoint that `prunella transfer` has made"
        )
    for name, content in packed.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / PROVENANCE).write_text(json.dumps({"task": packed.metadata.get("task")}))
    checkpoint = Checkpoint(folder)
    return Askable(
        checkpoint,
        load_config(checkpoint),
        lambda examples: _run(engine.runner, examples.encoded),
    )


def _run(runner: Runner, encoded: EncodedTask) -> np.ndarray:
    """The engine's outputs, in the order of `predict_logits`: [n, outputs] float32."""
    offsets = encoded.output_offsets
    out = np.zeros((int(offsets[-1]), runner.width), np.float32)
    for batch in micro_batches(encoded.lengths.tolist(), BATCH_TOKENS):
        rows = np.array(batch)
        where = places(encoded.offsets, rows)
        types = np.zeros(len(where)) if encoded.token_types is None else encoded.token_types[where]
        lengths = encoded.lengths[rows].astype(np.int32)
        if encoded.watched is None:
            seen = np.cumsum(lengths) - lengths  # the first token of each sequence
        else:
            seen = np.flatnonzero(encoded.watched[where])
        out[places(offsets, rows)] = runner.run(
            encoded.ids[where].astype(np.int32),
            types.astype(np.int32),
            lengths,
            seen.astype(np.int32),
        )
    return out
