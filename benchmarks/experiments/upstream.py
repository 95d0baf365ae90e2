"""Keeps what upstream runs measured: a JSON file a checkpoint, below benchmarks/results/upstream/.

Upstream settings are compared by the distance of the student's hidden states to the dense model's
on held-out text, after as many tokens; no task is involved.

    python -m benchmarks.experiments.upstream magnitude=FOLDER sparsegpt=FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.experiments.records import RESULTS
from prunella.checkpoint import open_checkpoint, write_json
from prunella.errors import InputError

# Flags of paths, and what stands for the path; and flags that change no result.
_PATHS = {
    "--model": "MODEL",
    "--teacher": "TEACHER",
    "--text": "TEXT",
    "--validation-text": "HELD_OUT",
    "--out": "OUT",
}
_NO_INFLUENCE = ("--cache", "--threads")
_SETTINGS = ("score", "scope", "sparsity", "densities", "learning_rate", "batch_tokens", "seed")


def upstream_record(name: str, folder: str) -> dict[str, Any]:
    """What is kept of a checkpoint that `prune` made.

    Raises:
        InputError: If it is none.
    """
    record = open_checkpoint(folder).provenance
    if record is None or record["stage"] != "prune":
        raise InputError(f"{folder}: was not made by `prunella prune`")
    return {
        "name": name,
        "settings": {key: record["settings"][key] for key in _SETTINGS},
        "sparsity": record["sparsity"]["total"],
        "metrics": record["metrics"],
        "seconds": record["seconds"],
        "parent": record["parents"]["model"]["sha256"][:12],
        "machine": record["machine"],
        "versions": record["versions"],
        "command": plain_command(record["command"]),
    }


def plain_command(words: Sequence[str]) -> str:
    """A command without the paths of the machine that it ran on.

    >>> plain_command(["prunella", "prune", "--model", "/x/y", "--threads", "1", "--steps", "9"])
    'prunella prune --model MODEL --steps 9'
    >>> plain_command(["prunella", "prune", "--model=/x/y", "--threads=1", "--steps=9"])
    'prunella prune --model MODEL --steps 9'
    """
    told: list[str] = []
    flag = ""
    split = (word.split("=", 1) if word.startswith("--") else [word] for word in words)
    for word in chain.from_iterable(split):
        if word.startswith("--"):
            flag = word
        if flag not in _NO_INFLUENCE:
            told.append(_PATHS.get(flag, word) if word != flag else word)
    return " ".join(told)


def read_upstream(results: Path = RESULTS) -> list[Mapping[str, Any]]:
    """All that is kept, in the order of names."""
    return [json.loads(path.read_text()) for path in sorted(results.glob("upstream/*.json"))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.upstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=FOLDER")
    given = parser.parse_args()
    try:
        for pair in given.checkpoints:
            name, _, folder = pair.partition("=")
            path = RESULTS / "upstream" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            write_json(path, upstream_record(name, folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
