"""What it is about a learned mask that works: the mask changed, the same head, scored again.

Takes checkpoints that `prunella mask` made, with their task.mask. The other masks keep as many
weights in every matrix as the learned one; so what they lose is not the densities' doing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.common import environment
from benchmarks.experiments.records import RESULTS
from prunella.backbones import widened
from prunella.checkpoint import open_checkpoint, write_json
from prunella.errors import InputError
from prunella.mask_application import MASK_FILE
from prunella.packed.mask_file import open_mask
from prunella.settings import EvaluateSettings
from prunella.verbs import VERBS

_WEIGHTS = "model.safetensors"
_SEEDS = (0, 1, 2)
_NOISES = (0.1, 0.3, 1.0)

Arrays = dict[str, np.ndarray]


def variants(learned: Arrays, dense: Arrays) -> Iterator[tuple[str, int | None, Arrays]]:
    """Masked matrices changed in one way each: its name, the seed, and the matrices.

    Args:
        learned: w0 * m of each masked matrix.
        dense: w0.
    """
    yield "learned", None, learned
    masks = {name: weights != 0 for name, weights in learned.items()}
    for seed in _SEEDS:
        draw = np.random.default_rng(seed)
        shuffled = {n: draw.permutation(m.reshape(-1)).reshape(m.shape) for n, m in masks.items()}
        yield "shuffled within its matrix", seed, {n: dense[n] * m for n, m in shuffled.items()}
    yield "largest weights instead", None, {n: _largest(dense[n], m) for n, m in masks.items()}
    for noise in _NOISES:
        for seed in _SEEDS:
            draw = np.random.default_rng(seed)
            moved = {n: _noisy(dense[n], noise, draw) * m for n, m in masks.items()}
            yield f"weights moved by {noise:g} standard deviations", seed, moved
    yield "nothing removed", None, dense


def _largest(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = int(mask.sum())
    order = np.argsort(np.abs(weights).reshape(-1))[weights.size - count :]
    kept = np.zeros(weights.size, np.bool_)
    kept[order] = True
    return weights * kept.reshape(weights.shape)


def _noisy(weights: np.ndarray, noise: float, draw: np.random.Generator) -> np.ndarray:
    moved = weights + noise * weights.std() * draw.standard_normal(weights.shape, np.float32)
    return moved.astype(weights.dtype)


def ablate(model: Path, backbone: Path, data: str, threads: int) -> dict[str, Any]:
    """Scores every variant of one masked checkpoint.

    Raises:
        InputError: If it has no mask, or that of another backbone.
    """
    path = model / MASK_FILE
    if not path.exists():
        raise InputError(f"{path}: no such file; give a checkpoint that `prunella mask` made")
    mask, source = open_mask(path), open_checkpoint(backbone)
    mask.check_backbone(source.weights_hash, backbone)
    own = {mask.task_name(name): widened(array, label) for name, label, array in source.arrays()}
    tensors = load_file(model / _WEIGHTS)
    names = sorted(mask.masked)  # a set has another order in every process, and draws follow it
    learned = {name: tensors[name] for name in names}
    dense = {name: np.asarray(own[name], np.float32) for name in names}
    rows, metric = [], ""
    with tempfile.TemporaryDirectory(prefix="prunella-ablation-") as folder:
        changed = Path(folder) / "model"
        shutil.copytree(model, changed, ignore=shutil.ignore_patterns(_WEIGHTS))
        for name, seed, matrices in variants(learned, dense):
            save_file(tensors | matrices, changed / _WEIGHTS, metadata={"format": "pt"})
            asked = EvaluateSettings(model=str(changed), data=data, threads=threads)
            found = VERBS["evaluate"].function()(asked)
            metric = found.main
            rows.append({"mask": name, "seed": seed, "score": found.metrics[metric]})
            print(f"{name:<40} {metric} {100 * rows[-1]['score']:.2f}", flush=True)
    record = open_checkpoint(model).provenance or {}
    return {
        "model": model.name,
        "method": record["settings"]["method"],
        "kept": record["metrics"]["kept"],
        "recovered": record["metrics"].get("recovered"),
        "recovery": record["settings"].get("recovery", True),
        "task": Path(data).name,
        "metric": metric,
        "rows": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.ablation", description=__doc__
    )
    parser.add_argument("models", nargs="+", help="folders that `prunella mask` made")
    parser.add_argument("--backbone", required=True, help="the checkpoint that they started from")
    parser.add_argument("--data", required=True, help="labelled rows to score")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        done = [
            ablate(Path(model), Path(given.backbone), given.data, given.threads)
            for model in given.models
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = "python -m benchmarks.experiments.ablation MODELS --backbone BACKBONE --data DATA"
    document = {"command": command, "environment": environment(), "models": done}
    write_json(RESULTS / "mask-ablation.json", document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
