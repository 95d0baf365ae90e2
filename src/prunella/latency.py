"""How long a model takes in PyTorch, as anyone would load it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

_WARM_UP, _ROUNDS = 3, 30


@torch.inference_mode()
def latencies(folders: Mapping[str, Path], *, length: int, threads: int) -> dict[str, float]:
    """Median milliseconds of one forward pass of one text, fp32, on the CPU.

    The models run in rotation, so that a change of the machine's speed meets all of them.

    Args:
        folders: Checkpoints by name.
        length: Tokens of the text.
        threads: CPU threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    models = {
        name: AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        for name, folder in folders.items()
    }
    ids = torch.randint(5, 100, (1, length), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(_WARM_UP + _ROUNDS):
        for name, model in models.items():
            begun = time.perf_counter()
            model(ids)
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - begun)
    torch.set_num_threads(before)
    return {name: 1000 * float(np.median(values)) for name, values in times.items()}
