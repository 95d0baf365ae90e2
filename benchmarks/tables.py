"""Writes the tables of README.md from benchmarks/results/*.json; --check only compares.

A table stands between `<!-- results:NAME -->` and `<!-- /results -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "benchmarks/README.md")
_BLOCK = re.compile(r"<!-- results:([\w-]+) -->\n.*?<!-- /results -->", re.DOTALL)
_MB = 1e6


def filled(text: str) -> str:
    """A document with its tables made anew."""
    return _BLOCK.sub(lambda match: _block(match.group(1)), text)


def _block(name: str) -> str:
    document = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    make = _TABLES.get(name, _run)
    return f"<!-- results:{name} -->\n{make(document)}\n<!-- /results -->"


def _run(document: dict[str, Any]) -> str:
    """The rows of a recipe run."""
    lines = [
        "| model | {} (95 % interval) | encoder weights kept | all weights kept | "
        "encoder on disk | file on disk | encoder smaller than fp32 |".format(
            document["rows"][0]["metric"]
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        low, high = row["interval"]
        encoder = row["encoder_nonzeros"] / row["encoder_weights"]
        model = row["model_nonzeros"] / row["model_weights"]
        lines.append(
            f"| {row['model']} | {100 * row['value']:.2f} ({100 * low:.1f} to {100 * high:.1f}) "
            f"| {100 * encoder:.1f} % | {100 * model:.0f} % "
            f"| {row['bytes']['encoder'] / _MB:.2f} MB | {row['bytes']['model'] / _MB:.1f} MB "
            f"| {row['ratio']['encoder']:.1f}x |"
        )
    upstream = sum(stage["seconds"] for stage in document["upstream"]) / 60
    tokens = sum(stage["metrics"]["tokens"] for stage in document["upstream"]) / 1e6
    lines += [
        "",
        f"{document['rows'][0]['rows']:,} rows, seed {', '.join(map(str, document['seeds']))}; "
        f"upstream {upstream:.0f} minutes ({tokens:.1f} M tokens) on "
        f"{document['machine']['processor']}. `{document['command']}`",
    ]
    return "\n".join(lines)


def _speed(document: dict[str, Any]) -> str:
    """The speed figures: measured ratio beside the aim."""
    lines = ["| what | measured | spread | aim |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['value']} | {row['spread']} | {row['aim']} |"
        for row in document["rows"]
    ]
    return "\n".join([*lines, "", f"`{document['command']}`"])


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"speed": _speed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a document is not current")
    check = parser.parse_args().check
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        fresh = filled(text)
        if fresh == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(fresh, encoding="utf-8")
    print(", ".join(stale) + (": stale" if check else ": written") if stale else "all current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
