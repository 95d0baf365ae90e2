"""Fuzzes the reader of packed files: `python tests/packed/fuzz.py --runs 100000`.

Every mutated file must either be refused with an InputError or be read without contradiction.
Half of the mutants get their checksums made right again, so that they reach the parser and the
decoders behind them. Any other exception, a run of more than 5 seconds of processor time, or more
memory than the format's bound ends the fuzzing with exit code 1 and leaves the file behind.

With --engine the seeds are tiny models, three quarters of the mutants have right checksums, and
what the reader accepts is compiled and run, by any of the instruction sets. A crash of the native
half, which no exception tells of, leaves the file behind too.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script it finds its helpers, too

from packed import forge, samples

from prunella.errors import InputError
from prunella.packed.read import PackedFile, read_packed
from prunella.packed.write import assemble

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [-1, 0, 1, 2, 7, 8, 63, 64, 65, 127, 128, 254, 255, 256, 1 << 16, 1 << 20, (1 << 31) - 1]
NUMBERS += [1 << 31, 1 << 32, (1 << 63) - 1, 1 << 64, 10**30]
WORDS = ["", "raw", "zstd", "planes", "gaps", "bitmap", "dense", "sparse", "int8", "fp32", "bf16"]
WORDS += ["int64", "fp64", "name", "../x", "\ud800", "\0", "x" * 600]
OTHERS: list[Any] = [None, True, 1.5, float("nan"), [], {}, [0], [1, 1], {"offset": 0}]


def seeds() -> list[bytes]:
    """The honest files that mutants are made from."""
    specs = samples.specs()
    contents = [(specs, samples.METADATA, samples.FILES), (specs[:2], {}, {}), ([], {}, {})]
    contents += [([spec], {"a": [1, {"b": None}]}, {}) for spec in specs]
    return [b"".join(assemble(*content)) for content in contents]


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Overwrites, cuts, repeats, inserts or moves a few bytes."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not result:
            break
        at = rng.randrange(len(result))
        count = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0 | 1:
                result[at] ^= 1 << rng.randrange(8)
            case 2:
                result[at : at + count] = rng.randbytes(len(result[at : at + count]))
            case 3:
                result[at : at + count] = bytes([rng.choice((0, 255))]) * len(
                    result[at : at + count]
                )
            case 4:
                del result[at : at + count]
            case 5:
                result[at:at] = rng.choice((rng.randbytes(count), result[at : at + count]))
            case _:
                other = rng.randrange(len(result))
                result[at : at + count] = result[other : other + count]
    return bytes(result)


def change_file(rng: random.Random, data: bytes) -> bytes:
    """Damage: checksums are left as they were."""
    return change_bytes(rng, data) if rng.random() < 0.8 else data[: rng.randrange(len(data))]


def change_header_text(rng: random.Random, data: bytes) -> bytes:
    """Any bytes as header, with the right checksum."""
    header, body = forge.take_apart(data)
    return forge.put_together(change_bytes(rng, forge.to_json(header)), body)


def change_header_values(rng: random.Random, data: bytes) -> bytes:
    """A JSON header whose values, keys or entries are others, with the right checksum."""
    header, body = forge.take_apart(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        places = [(box, key) for box in _boxes(header) for key in _keys(box)]
        box, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                box.pop(key)
            case 1:
                other_box, other_key = rng.choice(places)
                box[key] = json.loads(json.dumps(other_box[other_key]))
            case 2:
                box[key] = json.loads(json.dumps(rng.choice(OTHERS)))
            case 3:
                box[key] = rng.choice(WORDS)
            case 4 | 5:
                step = rng.choice((-64, -8, -1, 1, 8, 64, 255))
                box[key] = box[key] + step if type(box[key]) is int else rng.choice(NUMBERS)
            case _:
                box[key] = rng.choice(NUMBERS)
        if not header:
            break
    return forge.put_together(header, body)


def change_sections(rng: random.Random, data: bytes) -> bytes:
    """Other bytes in the sections, all checksums right: these reach the decoders."""
    header, body = forge.take_apart(data)
    parts = [part for part in forge.sections(header) if part["length"]]
    if not parts:
        return data
    for part in rng.sample(parts, min(len(parts), rng.choice((1, 1, 2)))):
        stored = body[part["offset"] : part["offset"] + part["length"]]
        fields = {"codec": rng.choice(("raw", "zstd"))} if rng.random() < 0.2 else {}
        body = forge.replace(header, body, part, change_bytes(rng, stored), **fields)
    return forge.put_together(header, body)


def change_tensor(rng: random.Random, data: bytes) -> bytes:
    """The sections of one tensor under the description of another."""
    header, body = forge.take_apart(data)
    if header["tensors"]:
        entry, other = rng.choice(header["tensors"]), rng.choice(header["tensors"])
        for key in rng.sample(["shape", "dtype", "nonzeros", "mask_coding", "role"], 2):
            if key in other:
                entry[key] = other[key]
        if entry["shape"] and rng.random() < 0.5:
            entry["shape"] = [-(-entry["nonzeros"] // 8) + rng.randrange(9), 8]
    return forge.put_together(header, body)


def _boxes(value: Any) -> list[Any]:
    """Every object and list in a JSON document."""
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(box for item in inner for box in _boxes(item))]


def _keys(box: Any) -> list[Any]:
    return list(box) if isinstance(box, dict) else list(range(len(box)))


MUTATIONS: list[Mutation] = [
    change_file,
    change_file,
    change_header_text,
    change_header_values,
    change_sections,
    change_tensor,
]


def use(packed: PackedFile) -> None:
    """Does all that a reader can do; what it says must agree with what it gives."""
    packed.verify()
    assert all(isinstance(contents, bytes) for contents in packed.files.values())
    for name in packed.names:
        info = packed.info(name)
        dense = packed.tensor(name)
        assert dense.shape == info.shape
        assert dense.itemsize == info.itemsize
        if dense.nbytes < 1 << 20:
            assert np.count_nonzero(dense.view(f"u{info.itemsize}")) == info.nonzeros
        scale = packed.scale(name)
        assert scale is None or scale.shape == info.shape[:1]
        if len(info.shape) == 2:
            rows = packed.sparse(name)
            assert rows.indptr[0] == 0
            assert rows.indptr[-1] == len(rows.values) == info.nonzeros
            assert not len(rows.indices) or 0 <= rows.indices.min() <= rows.indices.max()
            assert not len(rows.indices) or rows.indices.max() < info.shape[1]


def run_model(packed: PackedFile, rng: random.Random) -> None:
    """Compiles a model and lets it answer; each answer has the shape that it promised.

    Raises:
        InputError: If the engine refuses the file.
    """
    from prunella.engine.compiled import compile_model, usable_isas  # only --engine needs one

    weights: Any = rng.choice((None, None, "int8", "bf16", "fp32"))
    model = compile_model(packed, rng.choice((1, 1, 2)), rng.choice(usable_isas()), weights)
    words = next(n for n in packed.names if n.endswith("embeddings.word_embeddings.weight"))
    vocabulary = packed.info(words).shape[0]
    lengths = np.array(rng.choice(([1], [5, 1, 9], [20, 3])), np.int32)
    total = int(lengths.sum())
    ids = np.array([rng.randrange(max(1, vocabulary)) for _ in range(total)], np.int32)
    types, rows = np.zeros(total, np.int32), np.arange(total, dtype=np.int32)[:: rng.choice((1, 3))]
    try:
        answers = model.run(ids, types, lengths, rows)
        states = model.hidden_states(ids, types, lengths)
    except ValueError:  # a table of fewer rows than these tokens need
        return
    assert answers.shape == (len(rows), model.width)
    assert states.shape == (total, model.hidden)
    assert model.memory > 0
    assert model.describe()


def fuzz(
    runs: int,
    seed: int,
    judge: Callable[[bytes, Callable[[], None]], None] | None = None,
    *,
    engine: bool = False,
) -> Counter[str]:
    """Reads `runs` mutants; counts, for each kind of mutation, how many were refused or accepted.

    Args:
        runs: Mutants to read.
        seed: Of the mutations.
        judge: Called with every mutant and the attempt to read it, instead of the bare attempt.
        engine: Mutate models, and run those that are accepted.
    """
    rng = random.Random(seed)
    honest, mutations = seeds(), MUTATIONS
    if engine:
        from packed.mutated_models import change_configuration, change_model, honest_models

        import prunella.engine.compiled  # noqa: F401  # now, or the first mutant would pay for it

        honest = honest_models()
        mutations = [*MUTATIONS, change_configuration, change_configuration]
        mutations += [change_model] * 4
    counts: Counter[str] = Counter()
    for _ in range(runs):
        mutate = rng.choice(mutations)
        mutant = mutate(rng, rng.choice(honest))

        def attempt(mutant: bytes = mutant, kind: str = mutate.__name__) -> None:
            try:
                packed = read_packed(mutant, Path("mutant.prn"))
                use(packed)
                if engine:
                    run_model(packed, rng)
                assert kind != "change_file" or mutant in honest, "damage went unnoticed"
                counts[f"{kind}: accepted"] += 1
            except InputError:
                counts[f"{kind}: refused"] += 1

        judge(mutant, attempt) if judge else attempt()
    return counts


def main() -> None:
    """Fuzzes with limits on time and memory, and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="compile and run what is accepted")
    arguments = parser.parse_args()
    gibibyte = 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (2 * gibibyte, 2 * gibibyte))
    signal.signal(signal.SIGPROF, _hang)
    faulthandler.enable()
    failure = Path("fuzz-failure.prn")
    slowest = 0.0

    def judge(mutant: bytes, attempt: Callable[[], None]) -> None:
        nonlocal slowest
        if arguments.engine:  # native code may die without another word, or never return
            failure.write_bytes(mutant)
            faulthandler.dump_traceback_later(120, exit=True)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 5)
        try:
            attempt()
        except BaseException:
            failure.write_bytes(mutant)
            print(f"failed; the file is {failure}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - start)

    start = time.perf_counter()
    counts = fuzz(arguments.runs, arguments.seed, judge, engine=arguments.engine)
    faulthandler.cancel_dump_traceback_later()
    failure.unlink(missing_ok=True)
    for kind, count in sorted(counts.items()):
        print(f"{count:8} {kind}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    took = time.perf_counter() - start
    print(f"{sum(counts.values())} mutants, no failure, {took:.0f} s, slowest {slowest:.2f} s")
    print(f"peak memory {peak} MiB")


def _hang(*_: object) -> None:
    raise TimeoutError("one file took more than 5 seconds")


if __name__ == "__main__":
    main()
