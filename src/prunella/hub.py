"""Models by name: a folder of this machine, or one of the Hugging Face Hub. No torch needed."""

from __future__ import annotations

from pathlib import Path

from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.errors import InputError, first_line


def fetch(model: str) -> Checkpoint:
    """A checkpoint from a local folder, or from the Hub by name.

    Raises:
        InputError: If there is neither such a folder nor such a model on the Hub.
    """
    if is_path(model):
        return open_checkpoint(Path(model).expanduser())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        return open_checkpoint(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{model}: no such folder, and the Hub did not give a model of that name "
            f"({first_line(error)})"
        ) from None


def is_path(model: str) -> bool:
    """Whether a model is named by its place on this machine; it need not be there."""
    return Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") > 1
