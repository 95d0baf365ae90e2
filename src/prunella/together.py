"""Several processes as one: what the first does alone, and what it tells the others.

With one process all of this is the plain call, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from prunella.errors import InputError
from prunella.processes import is_main, world_size

T = TypeVar("T")

# While the first process tokenises a large corpus or packs a model, the others wait. A process that
# dies is noticed at once, whatever this is.
_PATIENCE = timedelta(days=1)


def join() -> None:
    """Meets the other processes; once is enough."""
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def share(value: T) -> T:
    """The first process's value, on all of them."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    join()
    box: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def main_only(action: Callable[[], T]) -> T | None:
    """Runs `action` on the first process while the others wait; None on those.

    Raises:
        InputError: On all of them, if it does on the first.
    """
    made: T | None = None
    failure: InputError | None = None
    if is_main():
        try:
            made = action()
        except InputError as error:
            failure = error
    message = share(str(failure) if failure else None)
    if message is not None:
        raise failure or InputError(message)
    return made


def main_first(action: Callable[[], T]) -> T:
    """Runs `action` on the first process, then on the others, which find what it left on disk."""
    made = main_only(action)
    return made if is_main() else action()  # type: ignore[return-value]


def wait() -> None:
    """Waits until every process has come to this point."""
    share(None)


def leave() -> None:
    """Parts from the other processes at the end of a run that went well."""
    if world_size() > 1:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
