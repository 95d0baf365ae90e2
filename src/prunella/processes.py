"""Which of several processes this one is, as torchrun tells it. No torch needed."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from prunella.errors import InputError

_SAME_FAILURE = 60.0  # seconds within which processes that end do so for one reason


def world_size() -> int:
    """Processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def machine_number() -> int:
    """The number of this process's machine: what lies on its disk is for all of its processes."""
    return rank() // local_world_size()


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def refuse_sharded_models() -> None:
    """Refuses ways of distributing that leave no process a whole matrix.

    Raises:
        InputError: If accelerate is set to one of them.
    """
    ways = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
    for name, switch in ways.items():
        if os.environ.get(switch, "").lower() in ("1", "true"):
            raise InputError(
                f"accelerate is set to {name}, which shares out the weights; a mask is chosen over "
                "whole matrices, so each process must hold the whole model: start it with "
                f"torchrun, or `accelerate launch` without {name} (docs/scale.md)"
            )


def reports_failure() -> bool:
    """Whether this process says why the run ended: the first on its machine that knows a reason.

    The others end because it did, and would only repeat it or complain of a lost connection.
    """
    if world_size() == 1:
        return True
    mark, of_this_run = _failure_mark()
    for _ in range(2):
        try:
            mark.touch(exist_ok=False)
            return True
        except FileExistsError:
            if of_this_run or time.time() - mark.stat().st_mtime < _SAME_FAILURE:
                return False
            mark.unlink(missing_ok=True)  # of an earlier run
        except OSError:
            return is_main()
    return False


def lost_the_others(error: Exception) -> bool:
    """Whether an exception only says that another process is gone."""
    return world_size() > 1 and (
        type(error).__name__.startswith("Dist")  # torch.distributed's own
        or any(word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer"))
    )


def _failure_mark() -> tuple[Path, bool]:
    """A file that the processes of this run on this machine know; whether no other run could."""
    given = os.environ.get("TORCHELASTIC_ERROR_FILE")  # .../ATTEMPT/LOCAL_RANK/error.json
    if given:
        return Path(given).parent.parent / "prunella-failed", True
    run = (os.environ.get(name, "0") for name in ("MASTER_ADDR", "MASTER_PORT"))
    name = f"prunella-failed-{os.getppid()}-{'-'.join(run)}"
    return Path(tempfile.gettempdir()) / name, False
