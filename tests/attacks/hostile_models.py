"""Packed files that are whole, of models that cannot be: name -> (bytes, words of the error)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from packed.models import models

from prunella.packed.write import TensorSpec, assemble

Attack = tuple[str, bytes, str]

_CONFIG: list[tuple[str, str, Any, str]] = [
    ("family unknown", "model_type", "gpt2", "the engine runs bert"),
    ("family a list", "model_type", ["bert"], ""),
    ("family an object", "model_type", {"bert": 1}, ""),
    ("family a number", "model_type", 7, ""),
    ("architecture a number", "architectures", 7, ""),
    ("architecture an object", "architectures", {"0": "BertForMaskedLM"}, ""),
    ("labels a list", "id2label", ["a", "b"], "config.json makes no sense"),
    ("labels with a gap", "id2label", {"0": "a", "7": "b"}, "config.json makes no sense"),
    ("positions as words", "max_position_embeddings", "many", "config.json makes no sense"),
    ("one layer more than there is", "num_hidden_layers", 2, "holds no tensor"),
    ("layers without end", "num_hidden_layers", 10**30, "holds no tensor"),
    ("no layers", "num_hidden_layers", 0, "below 1"),
    ("negative width", "hidden_size", -16, "below 1"),
    ("width beyond an integer", "hidden_size", 1 << 40, ""),
    ("width beyond a float", "hidden_size", 1e400, "config.json makes no sense"),
    ("another width", "hidden_size", 32, ""),
    ("no heads", "num_attention_heads", 0, "below 1"),
    ("heads that do not divide", "num_attention_heads", 3, "no multiple"),
    ("another feed-forward width", "intermediate_size", 64, ""),
    ("a feed-forward network too wide to hold", "intermediate_size", (1 << 31) - 1, ""),
    ("activation unknown", "hidden_act", "exec", "activation 'exec'"),
    ("activation a list", "hidden_act", ["gelu"], ""),
    ("epsilon as words", "layer_norm_eps", "tiny", "config.json makes no sense"),
    ("relative positions", "position_embedding_type", "relative_key", "absolute"),
]


def hostile_models() -> Iterator[Attack]:
    """All of them; each file is intact, its checksums are right."""
    for number, (specs, metadata, files) in enumerate(models()):
        yield from missing(f"model {number}", specs, metadata, files)
        yield from misshapen(f"model {number}", specs, metadata, files)
        if number == 0:
            yield from configurations(specs, metadata, files)
            yield from types(specs, metadata, files)
            yield from widths(specs, metadata, files)


def configurations(
    specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Attack]:
    config = json.loads(files["config.json"])
    for name, key, value, words in _CONFIG:
        changed = json.dumps({**config, key: value}).encode()
        yield name, _packed(specs, metadata, {**files, "config.json": changed}), words
    for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        less = {other: value for other, value in config.items() if other != key}
        data = _packed(specs, metadata, {**files, "config.json": json.dumps(less).encode()})
        yield f"no {key}", data, ""
    for name, content in (("no JSON", b"\xff{"), ("a list", b"[]"), ("nested", b"[" * 10**5)):
        yield f"config.json is {name}", _packed(specs, metadata, {"config.json": content}), ""
    yield "no config.json", _packed(specs, metadata, {}), "config.json"


def missing(
    where: str, specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Attack]:
    """Each tensor left out. Token types may be missing."""
    for i, spec in enumerate(specs):
        if "token_type" not in spec.name:
            rest = [*specs[:i], *specs[i + 1 :]]
            yield f"{where}: without {spec.name}", _packed(rest, metadata, files), ""


def misshapen(
    where: str, specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Attack]:
    """Each tensor in other shapes. Tables may have any number of rows."""
    for i, spec in enumerate(specs):
        array = spec.array
        shapes = {"flat": array.reshape(-1), "deep": array[None], "wide": array.reshape(1, -1)}
        if array.ndim == 2:
            shapes |= {"a column less": array[:, :-1], "no columns": array[:, :0]}
            shapes |= {"twice as wide": np.concatenate([array, array], axis=1)}
        if array.ndim == 1 or "embeddings." not in spec.name:
            shapes |= {"a row less": array[:-1], "a row more": np.concatenate([array, array[:1]])}
            shapes |= {"no rows": array[:0]}
        for name, other in shapes.items():
            if other.shape == array.shape:
                continue
            scale = spec.scale
            if scale is not None:
                scale = np.resize(scale, other.shape[:1]).astype(np.float32)
            changed = replace(spec, array=np.ascontiguousarray(other), scale=scale)
            data = _packed([*specs[:i], changed, *specs[i + 1 :]], metadata, files)
            yield f"{where}: {spec.name} {name}", data, ""


def widths(
    specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Attack]:
    """Embeddings that agree with each other, but not with the width of the model."""
    for name, times in (("half", 0.5), ("twice", 2), ("a hundred times", 100)):
        changed = []
        for spec in specs:
            array = spec.array
            if "embeddings." in spec.name:
                shape = (*array.shape[:-1], int(array.shape[-1] * times))
                spec = replace(spec, array=np.resize(array, shape))
            changed.append(spec)
        yield f"embeddings {name} as wide as the model", _packed(changed, metadata, files), ""


def types(
    specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]
) -> Iterator[Attack]:
    """int8 without its scales: nobody knows what the codes mean."""
    for i, spec in enumerate(specs):
        if spec.scale is not None and spec.role is None:
            bare = replace(spec, scale=None)
            data = _packed([*specs[:i], bare, *specs[i + 1 :]], metadata, files)
            yield f"{spec.name} without scales", data, ""


def _packed(specs: list[TensorSpec], metadata: dict[str, Any], files: dict[str, bytes]) -> bytes:
    return b"".join(assemble(specs, metadata, files))
