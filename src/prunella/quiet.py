"""Silence of the libraries that training stands on."""

from __future__ import annotations

import logging
import os

from prunella.processes import world_size


def hush() -> None:
    """Our progress is enough: transformers would draw a bar for every file it loads.

    torchao, which transformers imports wherever it is installed, complains of kernels that this
    machine has no use for; torch's C++ says on every process what our way of distributing costs.
    """
    if world_size() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
