"""Prunella: prune once, use everywhere. Sparse pre-trained encoders, small and fast on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunella.engine.many import Models
    from prunella.engine.model import Model, load
    from prunella.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "Model", "Models", "load"]

_HOMES = {
    "InputError": "prunella.errors",
    "Model": "prunella.engine.model",
    "Models": "prunella.engine.many",
    "load": "prunella.engine.model",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: `import prunella` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prunella' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
