"""Raw text to tokens, ours beside the map of datasets, as megabytes a second.

--data is a text file (also .gz, .xz, .bz2), of which the first 16 MB are taken; --model a folder
with a fast tokenizer. Without them: the prose of this Python installation and a vocabulary of it.
Variants take turns, each in a process of its own; imports are not on the clock.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tokenizers import Tokenizer

from benchmarks.common import Comparison, Figure, Options, Time, run, write_result
from prunella.data.corpus import tokenize_corpus
from prunella.data.sources import TextFile
from prunella.data.vocabulary import train_wordpiece
from prunella.demo.text import write_corpus

_CHARACTERS = 16_000_000
_TOKENIZER = "tokenizer.json"
_OURS, _ALONE, _AGAIN, _PEER = "ours", "ours, one thread", "again", "datasets.map"
_UNIQUE = "ours, near duplicates dropped"

Work = Callable[[Path], int]
"""Tokenises into a folder and returns the number of tokens."""


def prepare(options: Options) -> None:
    """Writes the text, a paragraph a line, and the tokenizer."""
    text = options.folder / "text.txt"
    source = Path(options.data) if options.data else write_corpus(options.folder)
    with text.open("w", encoding="utf-8") as file:
        file.writelines(_lines(source))
    if options.model is None:
        train_wordpiece([str(text)], 30_522).save_pretrained(options.folder / "model")


def tokenisation(options: Options) -> list[Figure]:
    text = options.folder / "text.txt"
    works: dict[str, Work] = {
        _OURS: partial(_ours, options, text, options.threads, False),
        _ALONE: partial(_ours, options, text, 1, False),
        _UNIQUE: partial(_ours, options, text, options.threads, True),
        _PEER: partial(_peer, options, text),
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in (*works, _AGAIN)}
    for group in range(options.groups):
        for name, work in works.items():
            folder = options.folder / f"{name}-{group}"
            measured[name].append(_apart(work, folder))
            if name == _OURS:  # the cache of this very run
                measured[_AGAIN].append(_apart(work, folder))
    size = text.stat().st_size / 1e6
    times = {name: [Time(m["wall"], m["cpu"]) for m in runs] for name, runs in measured.items()}
    comparisons = [
        Comparison.of("times faster than datasets.map", times[_PEER], times[_OURS]),
        Comparison.of("times faster than one thread", times[_ALONE], times[_OURS]),
    ]
    figures = [_speed(name, size, measured[name]) for name in works]
    figures += [comparison.figure("> 1") for comparison in comparisons]
    seconds = [m["wall"] for m in measured[_AGAIN]]
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    figures.append(Figure("a second run", f"{statistics.median(seconds):.2f} s", spread, "at once"))
    body = {
        "megabytes": size,
        "comparisons": [comparison.to_json() for comparison in comparisons],
        "runs": measured,
        "threads_or_processes": options.threads,
    }
    write_result("tokenisation", figures, body, options)
    return figures


def _speed(name: str, size: float, runs: list[dict[str, float]]) -> Figure:
    speeds = [size / m["wall"] for m in runs]
    cpu = size / statistics.median(m["cpu"] for m in runs)
    memory = max(m["peak"] for m in runs)
    return Figure(
        f"{name}, MB/s",
        f"{statistics.median(speeds):.1f}",
        f"{min(speeds):.1f} to {max(speeds):.1f}; {cpu:.1f} a second of CPU; {memory:.2f} GB",
        "–",
    )


def _ours(options: Options, text: Path, threads: int, deduplicate: bool, folder: Path) -> int:
    corpus = tokenize_corpus(
        [str(text)],
        cast(Any, SimpleNamespace(backend_tokenizer=_tokenizer(options))),
        folder,
        processes=threads,
        deduplicate=deduplicate,
    )
    return corpus.n_tokens


def _peer(options: Options, text: Path, folder: Path) -> int:
    """What one would write instead: every line a row, tokenised in batches by several processes."""
    import datasets

    datasets.disable_progress_bars()
    rows: Any = datasets.load_dataset(
        "text", data_files=str(text), split="train", cache_dir=str(folder)
    )
    tokenizer = _tokenizer(options)
    encoded = rows.map(
        partial(_encode_rows, tokenizer),
        batched=True,
        num_proc=options.threads,
        remove_columns=["text"],
    )
    return sum(len(batch) for part in encoded.iter(1000) for batch in part["input_ids"])


def _encode_rows(tokenizer: Tokenizer, rows: dict[str, list[str]]) -> dict[str, Any]:
    encoded = tokenizer.encode_batch_fast(rows["text"], add_special_tokens=False)
    return {"input_ids": [row.ids for row in encoded]}


def _tokenizer(options: Options) -> Tokenizer:
    made = Tokenizer.from_file(str(Path(options.model or options.folder / "model") / _TOKENIZER))
    made.no_padding()
    made.no_truncation()
    return made


def _apart(work: Work, folder: Path) -> dict[str, float]:
    """Seconds and peak memory (GB) of the work in a new process, with those that it starts."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_clocked, args=(work, folder, sender))
    process.start()
    sender.close()  # if the process fails, nothing is received
    result = receiver.recv()
    process.join()
    return result


def _clocked(work: Work, folder: Path, sender: Any) -> None:
    import datasets  # noqa: F401

    cpu, wall = _cpu_seconds(), time.perf_counter()
    tokens = work(folder)
    wall = time.perf_counter() - wall
    own, others = (resource.getrusage(w).ru_maxrss for w in _WHOSE)
    peak = (own + others) / 1e6  # of the largest child, once
    sender.send({"wall": wall, "cpu": _cpu_seconds() - cpu, "peak": peak, "tokens": tokens})


_WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in _WHOSE]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _lines(source: Path) -> Iterator[str]:
    """Paragraphs of a file, a blank line before each document, up to the limit."""
    left = _CHARACTERS
    for piece in TextFile(source).pieces():
        line = f"\n{piece.text}\n" if piece.starts_document else f"{piece.text}\n"
        left -= len(line)
        if left < 0:
            return
        yield line


if __name__ == "__main__":
    run(__doc__, prepare, tokenisation)
