"""Writes the tables of the documents from benchmarks/results/*.json; --check only compares.

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
DOCUMENTS = ("README.md", "benchmarks/README.md", "docs/format.md", "docs/engine.md")
_BLOCK = re.compile(r"<!-- results:([\w-]+) -->\n.*?<!-- /results -->", re.DOTALL)
_MB = 1e6
_SPEED_PARTS = ("pruning-step", "cached-teacher", "mask-step", "bf16", "attention", "bucketing",
                "memory")  # fmt: skip


def filled(text: str) -> str:
    """A document with its tables made anew."""
    return _BLOCK.sub(lambda match: _block(match.group(1)), text)


def _block(name: str) -> str:
    file = name.removesuffix("-short")
    document = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    make = _TABLES.get(name, _run)
    if name.startswith("kernels-"):
        make = _kernels
    elif name.startswith("engine-"):
        make = _engine if file == name else _engine_short
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
    """The speed figures: measured ratio beside the aim.

    A benchmark that was run by itself since has newer figures in a file of its own.
    """
    parts = [json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in _SPEED_PARTS]
    newest = {row["what"]: row for part in parts for row in part["rows"]}
    rows = [newest.pop(row["what"], row) for row in document["rows"]] + list(newest.values())
    lines = ["| what | measured | spread | aim |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['value']} | {row['spread']} | {row['aim']} |" for row in rows
    ]
    commands = dict.fromkeys([document["command"], *(part["command"] for part in parts)])
    return "\n".join([*lines, "", "; ".join(f"`{command}`" for command in commands)])


def _embeddings(document: dict[str, Any]) -> str:
    """What rounding the embedding tables costs, and what it saves."""
    lines = [
        "| model, matrices | tables | tables on disk | whole file | {} (95 % interval) | "
        "same predictions as with fp32 tables |".format(document["rows"][0]["metric"]),
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['model']}, {row['weights']} | {row['embeddings']} "
            f"| {row['bytes']['embeddings'] / _MB:.1f} MB | {row['bytes']['model'] / _MB:.1f} MB "
            f"| {100 * row['value']:.2f} ({100 * low:.1f} to {100 * high:.1f}) "
            f"| {100 * row['agreement']:.1f} % |"
        )
    return "\n".join([*lines, "", f"{document['rows'][0]['rows']:,} rows. `{document['command']}`"])


_NAMES = {
    "prunella": "Prunella",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
}
_FORMS = {
    "dense-fp32": "dense fp32",
    "dense-int8": "dense int8",
    "sparse-fp32": "sparse fp32",
    "sparse-bf16": "sparse bf16",
    "sparse-int8": "sparse int8",
}


def _engine(document: dict[str, Any]) -> str:
    """Median milliseconds of every engine and form, and how many times faster ours are."""
    cells = {
        (m["engine"], m["form"], m["threads"], m["workload"]): m for m in document["measurements"]
    }
    columns = list(dict.fromkeys((m["threads"], m["workload"]) for m in document["measurements"]))
    arms = list(dict.fromkeys((m["engine"], m["form"]) for m in document["measurements"]))
    heads = [f"{workload}, {_threads(threads)}" for threads, workload in columns]
    lines = [f"| median, ms | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for engine, form in arms:
        found = [cells.get((engine, form, *column)) for column in columns]
        shown = [_ms(m["median"]) if m else "" for m in found]
        lines.append(f"| {_NAMES[engine]} {_FORMS[form]} | {' | '.join(shown)} |")
    for form in ("sparse-int8", "sparse-bf16"):
        for peer in ("onnxruntime", "openvino"):
            found = [cells.get(("prunella", form, *column)) for column in columns]
            ratios = [m["against"].get(peer) if m else None for m in found]
            if any(ratios):
                shown = [f"{ratio:.1f}x" if ratio else "" for ratio in ratios]
                lines.append(
                    f"| **{_FORMS[form]} against {_NAMES[peer]} int8** | {' | '.join(shown)} |"
                )
    return "\n".join([*lines, "", _engine_source(document)])


def _engine_short(document: dict[str, Any]) -> str:
    """Sparse int8 beside the peers' int8, in few columns."""
    by_place: dict[tuple[int, str], dict[str, Any]] = {}
    for m in document["measurements"]:
        if m["form"] == "sparse-int8":
            by_place.setdefault((m["threads"], m["workload"]), {})[m["engine"]] = m
    lines = [
        "| batch x tokens | Prunella | ONNX Runtime int8 | OpenVINO int8 | |",
        "|---|---|---|---|---|",
    ]
    for (threads, workload), found in by_place.items():
        ours, others = found["prunella"], [found.get(p) for p in ("onnxruntime", "openvino")]
        peers = [f"{_ms(ours['against'][m['engine']] * ours['median'])} ms" for m in others if m]
        ratios = [f"{ours['against'][m['engine']]:.1f}x" for m in others if m]
        lines.append(
            f"| {workload}, {_threads(threads)} | **{_ms(ours['median'])} ms** "
            f"| {' | '.join(peers)} | {', '.join(ratios)} faster |"
        )
    return "\n".join([*lines, "", _engine_source(document)])


def _engine_source(document: dict[str, Any]) -> str:
    memory = max(m["rss"] for m in document["measurements"] if _ours(m))
    return (
        f"{document['model']}; {document['environment']['machine']['processor']} with "
        f"{document['environment']['isa'] or 'its best instruction set'}; sparse int8 held at most "
        f"{memory / _MB:.0f} MB, Python included. `{document['command']}`"
    )


def _kernels(document: dict[str, Any]) -> str:
    """Dense-equivalent rates, a row a kernel, a column a number of tokens."""
    rates: dict[str, dict[str, str]] = {}
    for row in document["rows"]:
        kernel, pattern, tokens = row["what"].rsplit(", ", 2)
        name = kernel if pattern == "single" else f"{kernel}, on {pattern}"
        rates.setdefault(name, {})[tokens] = row["value"].split()[0]
    tokens = list(dict.fromkeys(t for found in rates.values() for t in found))
    lines = [f"| GFLOP/s | {' | '.join(tokens)} |", "|---" * (len(tokens) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(found.get(t, '') for t in tokens)} |"
        for name, found in rates.items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            "Dense-equivalent: 2 x tokens x inputs x outputs / time, the median of three shapes of "
            f"BERT-Base with 90 % zeros, one core. `{document['command']}`",
        ]
    )


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _ours(measurement: dict[str, Any]) -> bool:
    return (measurement["engine"], measurement["form"]) == ("prunella", "sparse-int8")


def _agreement(document: dict[str, Any]) -> str:
    """Predictions of the engine beside those of PyTorch."""
    lines = [
        f"| model, matrices | instructions | same predictions | {document['rows'][0]['metric']}, "
        "PyTorch | engine |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']}, {row['weights']} | {row['isa']} | {100 * row['agreement']:.2f} % "
        f"| {100 * row['torch']:.2f} | {100 * row['engine']:.2f} |"
        for row in document["rows"]
    ]
    return "\n".join([*lines, "", f"{document['rows'][0]['rows']:,} rows. `{document['command']}`"])


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "speed": _speed,
    "embeddings": _embeddings,
    "agreement": _agreement,
}


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
