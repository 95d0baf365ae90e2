"""Well-formed packed files of models that make no sense: every checksum right, every part a lie.

What `tests/packed/fuzz.py --engine` hands to the engine besides files that are damaged.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from packed.models import models

from prunella.packed.layout import DTYPES, Malformed
from prunella.packed.read import PackedFile, read_packed
from prunella.packed.write import TensorSpec, assemble

Change = Callable[[random.Random, TensorSpec], TensorSpec]

_NUMBERS = [-1, 0, 1, 2, 3, 15, 16, 17, 24, 255, 512, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 63]
_NUMBERS += [1e-300, 0.5, -1e30, 10**30]
_OTHERS: list[Any] = [
    None,
    True,
    "",
    "gelu",
    "tanh",
    "relative_key",
    [],
    {},
    "x" * 600,
    [1],
    {"0": 1},
]
_KINDS: list[Any] = ["bert", "roberta", "distilbert", "electra", "gpt2", "xlm-roberta"]
_FLOATS = [0.0, -0.0, 1e-45, -1e-38, 3e38, float("inf"), float("-inf"), float("nan"), -1.0]


def honest_models() -> list[bytes]:
    """The files that mutants are made from."""
    return [b"".join(assemble(*content)) for content in models()]


def change_model(rng: random.Random, data: bytes) -> bytes:
    """Tensors that are missing, misnamed, misshapen or hold extreme numbers."""
    packed = read_packed(data, Path("honest.prn"))
    specs = [_spec(packed, name) for name in packed.names]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, other = rng.randrange(len(specs)), rng.randrange(len(specs))
        match rng.randrange(10):
            case 0:
                del specs[at]
            case 1:
                specs[at] = replace(specs[at], name=f"{specs[at].name}x")
            case 2:
                one, two = specs[at].name, specs[other].name
                specs[at], specs[other] = (
                    replace(specs[at], name=two),
                    replace(specs[other], name=one),
                )
            case _:
                specs[at] = rng.choice(_CHANGES)(rng, specs[at])
        if not specs:
            break
    return _assembled(data, specs, packed)


def change_configuration(rng: random.Random, data: bytes) -> bytes:
    """A config.json, tokenizer or description of the task that fits nothing."""
    packed = read_packed(data, Path("honest.prn"))
    files = dict(packed.files)
    config = json.loads(files["config.json"])
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(sorted(config))
        match rng.randrange(6):
            case 0:
                config.pop(key)
            case 1:
                config[rng.choice(("model_type", "architectures"))] = rng.choice(
                    [*_KINDS, ["BertForMaskedLM"], ["For"], ["TinyForQuestionAnswering"]]
                )
            case 2:
                config[key] = rng.choice(_OTHERS)
            case _:
                config[key] = rng.choice(_NUMBERS)
        if not config:
            break
    files["config.json"] = json.dumps(config).encode()
    if rng.random() < 0.1:
        files["config.json"] = rng.choice((b"", b"[]", b"\xff", b"{" * 9000, b"null"))
    if rng.random() < 0.2:
        name = rng.choice(sorted(files))
        files[name] = files[name][: rng.randrange(len(files[name]) + 1)]
    specs = [_spec(packed, name) for name in packed.names]
    return b"".join(assemble(specs, dict(packed.metadata), files))


def _spec(packed: PackedFile, name: str) -> TensorSpec:
    info = packed.info(name)
    return TensorSpec(
        name, packed.tensor(name), info.encoding, packed.scale(name), info.role, info.dtype
    )


def _assembled(data: bytes, specs: list[TensorSpec], packed: PackedFile) -> bytes:
    try:
        return b"".join(assemble(specs, dict(packed.metadata), dict(packed.files)))
    except Malformed:  # the writer would not make such a file
        return data


def _reshaped(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    array = spec.array
    shapes = [array.T, array[:-1], array[:1], array[:0], array.reshape(-1), array[None]]
    shapes += [np.concatenate([array, array]), array.reshape(-1, 1), array.reshape(1, -1)]
    if array.ndim == 2:
        shapes += [array[:, :-1], array[:, :0], np.concatenate([array, array], axis=1)]
    array = np.ascontiguousarray(rng.choice(shapes))
    scale = spec.scale
    if scale is not None and array.ndim:
        scale = np.resize(scale, array.shape[0]).astype(np.float32)
    return replace(spec, array=array, scale=scale)


def _retyped(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    dtype = rng.choice(sorted(DTYPES))
    with np.errstate(all="ignore"):
        array = np.nan_to_num(spec.array).astype(DTYPES[dtype], copy=True)
    scale = np.ones(array.shape[:1], np.float32) if dtype == "int8" and array.ndim else None
    if rng.random() < 0.3:
        scale = None
    return replace(spec, array=array, dtype=dtype, scale=scale)


def _extreme(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    array = spec.array.copy()
    if not array.size:
        return spec
    where = slice(None) if rng.random() < 0.3 else rng.randrange(array.size)
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        flat[where] = rng.choice(_FLOATS)
    else:
        limits = np.iinfo(array.dtype)
        flat[where] = rng.choice((limits.min, limits.max, 0, 1))
    return replace(spec, array=array)


def _rescaled(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    if spec.scale is None or not spec.scale.size:
        return _extreme(rng, spec)
    scale = spec.scale.copy()
    scale[rng.randrange(scale.size) :] = rng.choice(_FLOATS)
    return replace(spec, scale=scale)


def _recoded(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    return replace(spec, encoding="dense" if spec.encoding == "sparse" else "sparse")


def _emptied(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    array = spec.array.copy()
    rows = slice(None) if rng.random() < 0.5 else slice(rng.randrange(len(array) or 1), None)
    array[rows] = 0
    return replace(spec, array=array, encoding="sparse")


def _other_role(rng: random.Random, spec: TensorSpec) -> TensorSpec:
    return replace(spec, role=rng.choice((None, "query", "pooler", "nonsense")))


_CHANGES: list[Change] = [
    _reshaped,
    _reshaped,
    _retyped,
    _extreme,
    _rescaled,
    _recoded,
    _emptied,
    _other_role,
]
