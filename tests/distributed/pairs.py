"""Two processes of one run, each with a fault of its own, told of each other as torchrun does."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from stages.faults import Ended, end, start_with


def pair(folder: Path, arguments: Sequence[str], *faults: str) -> list[Ended]:
    """Runs `prunella arguments` on as many processes as there are faults (keys of `FAULTS`)."""
    started = [
        start_with(fault, arguments, folder, {**environment, "RECORDS": str(folder)})
        for fault, environment in zip(faults, environments(len(faults)), strict=True)
    ]
    return [end(process) for process in started]


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun would say to each of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
