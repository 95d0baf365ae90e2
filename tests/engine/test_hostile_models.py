"""Intact files whose parts contradict each other: refused by name, or run without harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed.models import tiny_model

from prunella.engine.compiled import compile_model, usable_isas
from prunella.engine.model import load
from prunella.errors import InputError
from prunella.packed.bf16 import to_bf16
from prunella.packed.read import read_packed
from prunella.packed.write import TensorSpec, assemble

WORDS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"
TYPES = "bert.embeddings.token_type_embeddings.weight"
LAYER = "bert.encoder.layer.0."
QUERY = f"{LAYER}attention.self.query.weight"
INNER, OUTER = f"{LAYER}intermediate.dense", f"{LAYER}output.dense"
HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM", None)


@dataclass
class Parts:
    """What a packed file is made of, to be changed."""

    tensors: dict[str, TensorSpec]
    metadata: dict[str, Any]
    config: dict[str, Any]
    files: dict[str, bytes]

    def set(self, name: str, array: np.ndarray, **more: Any) -> None:
        spec = self.tensors[name]
        scale = None if spec.scale is None else np.resize(spec.scale, len(array))
        array = np.ascontiguousarray(array)
        self.tensors[name] = replace(spec, **{"array": array, "scale": scale, **more})

    def resize(self, name: str, *shape: int) -> None:
        self.set(name, np.resize(self.tensors[name].array, shape))

    def packed(self) -> bytes:
        files = {**self.files, "config.json": json.dumps(self.config).encode()}
        return b"".join(assemble(list(self.tensors.values()), self.metadata, files))


def parts(kind: Any = "int8", head: str | None = "SequenceClassification") -> Parts:
    specs, metadata, files = tiny_model("bert", head, kind)
    return Parts({s.name: s for s in specs}, metadata, json.loads(files["config.json"]), files)


def wide_heads(of: Parts) -> None:
    of.config |= {"hidden_size": 1024, "num_attention_heads": 1}
    for name in (WORDS, POSITIONS, TYPES):
        of.resize(name, len(of.tensors[name].array), 1024)
    for name in ("weight", "bias"):
        of.resize(f"bert.embeddings.LayerNorm.{name}", 1024)


def wide_codes(of: Parts) -> None:
    """8-bit rows so long that sums of their products would leave 32 bits."""
    of.config["intermediate_size"] = 70_000
    of.resize(f"{INNER}.weight", 70_000, 16)
    of.resize(f"{INNER}.bias", 70_000)
    of.resize(f"{OUTER}.weight", 16, 70_000)


def without_scales(of: Parts) -> None:
    of.set(WORDS, of.tensors[WORDS].array, scale=None)


def configure(**values: Any) -> Callable[[Parts], None]:
    return lambda of: of.config.update(values)


def shape(name: str, *sizes: int) -> Callable[[Parts], None]:
    return lambda of: of.resize(name, *sizes)


def without(name: str) -> Callable[[Parts], None]:
    return lambda of: of.tensors.pop(name) and None


REFUSED: dict[str, tuple[Callable[[Parts], None], str]] = {
    "twelve layers": (configure(num_hidden_layers=12), "layer.1.attention.self.query.weight"),
    "layers without end": (configure(num_hidden_layers=10**30), "layer.1.attention.self.query"),
    "no pooler": (without("bert.pooler.dense.weight"), "bert.pooler.dense.weight"),
    "a narrow matrix": (shape(QUERY, 16, 12), "query.weight has the shape (16, 12)"),
    "a low matrix": (shape(QUERY, 15, 16), "query.weight has the shape (15, 16)"),
    "a flat matrix": (shape(f"{OUTER}.bias", 2, 8), "output.dense.bias has the shape (2, 8)"),
    "a short bias": (shape(f"{INNER}.bias", 31), "intermediate.dense.bias has the shape (31,)"),
    "a long norm": (shape(f"{LAYER}output.LayerNorm.bias", 17), "output.LayerNorm.bias"),
    "a head of other width": (shape("classifier.weight", 3, 32), "classifier.weight has the shape"),
    "fewer outputs than labels": (shape("classifier.weight", 2, 16), "classifier.bias has the"),
    "more labels than outputs": (configure(id2label={"0": "a"}), "names 1 labels, the head has 3"),
    "heads that do not divide": (configure(num_attention_heads=5), "no multiple of 5 heads"),
    "heads too wide": (wide_heads, "heads 512 wide"),
    "rows of codes too long": (wide_codes, "a matrix of 16 x 70000 is too large"),
    "a width of 2^40": (configure(hidden_size=1 << 40), "word_embeddings.weight has the shape"),
    "an inner width of 2^31": (configure(intermediate_size=1 << 31), "incompatible"),
    "an inner width of 2^30": (configure(intermediate_size=1 << 30), "widths up to 1048576"),
    "a small vocabulary": (shape(WORDS, 9, 16), "17 tokens, its table of embeddings 9"),
    "codes without scales": (without_scales, "word_embeddings.weight is int8 without scales"),
    "few positions": (shape(POSITIONS, 8, 16), "position_embeddings.weight has 8 rows"),
    "positions without end": (configure(max_position_embeddings=10**12), "1000000000000"),
    "positions below none": (configure(max_position_embeddings=-3), "max_position_embeddings"),
    "one type of tokens": (shape(TYPES, 1, 16), "token_type_embeddings.weight has 1 rows"),
    "narrow types": (shape(TYPES, 2, 15), "token_type_embeddings.weight has the shape (2, 15)"),
    "no epsilon": (configure(layer_norm_eps=float("nan")), "layer_norm_eps of nan"),
    "epsilon below 0": (configure(layer_norm_eps=-1.0), "layer_norm_eps of -1.0"),
    "epsilon without end": (configure(layer_norm_eps=float("inf")), "layer_norm_eps of inf"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_contradict_each_other_are_refused(name: str, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    made = parts()
    change(made)
    path = tmp_path / "model.prn"
    path.write_bytes(made.packed())
    with pytest.raises(InputError) as caught:
        load(path, threads=1)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_model_that_they_are_made_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "model.prn"
    path.write_bytes(parts().packed())
    assert 0 <= load(path, threads=1)("a b").score <= 1


def test_token_ids_behind_the_table_are_refused(tmp_path: Path) -> None:
    """As many tokens as the table has rows, but one with a far number."""
    made, path = parts(), tmp_path / "model.prn"
    for far in (40, 2**31 - 1, 2**32 - 1):
        words = {"type": "WordLevel", "vocab": {"?": 0, "a": 1, "b": far}, "unk_token": "?"}
        tokenizer = {"model": words, "pre_tokenizer": {"type": "Whitespace"}}
        made.files["tokenizer.json"] = json.dumps(tokenizer).encode()
        path.write_bytes(made.packed())
        model = load(path, threads=1)
        assert 0 <= model("a a").score <= 1
        with pytest.raises(InputError, match=r"model\.prn: its tokenizer"):
            model("a b")


@pytest.mark.parametrize("isa", usable_isas())
@pytest.mark.parametrize("kind", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_are_no_numbers_do_no_harm(kind: str, isa: str, value: float) -> None:
    """In every float of the file in turn. Scales and vectors must be numbers."""
    ids = np.arange(20, dtype=np.int32) % 40
    zeros, lengths = np.zeros(20, np.int32), np.array([3, 17], np.int32)
    rows = np.array([0, 3], np.int32)
    for name, spec in parts(kind).tensors.items():
        made = parts(kind)
        if spec.scale is not None:
            made.tensors[name] = replace(spec, scale=np.full_like(spec.scale, value))
        elif spec.dtype == "bf16":
            made.set(name, np.where(spec.array, to_bf16(np.float32([value])), 0).astype(np.uint16))
        else:
            made.set(name, np.where(spec.array != 0, np.float32(value), 0).astype(np.float32))
        packed = read_packed(made.packed(), Path("model.prn"))
        if not np.isfinite(value) and (spec.scale is not None or spec.array.ndim == 1):
            with pytest.raises(InputError, match=rf"{name}.* holds what is no number"):
                compile_model(packed, 2, isa)
            continue
        runner = compile_model(packed, 2, isa)
        assert runner.run(ids, zeros, lengths, rows).shape == (2, 3)
        assert runner.hidden_states(ids, zeros, lengths).shape == (20, 16)


@pytest.mark.parametrize("weights", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_they_are_converted_without_harm(weights: Any, value: float) -> None:
    made = parts("fp32")
    made.set(QUERY, np.where(made.tensors[QUERY].array != 0, np.float32(value), 0))
    packed = read_packed(made.packed(), Path("model.prn"))
    if (weights, value) == ("int8", np.inf):
        with pytest.raises(InputError, match="the scale of .*query.* is no number"):
            compile_model(packed, 1, weights=weights)
        return
    runner = compile_model(packed, 1, weights=weights)
    one = np.ones(1, np.int32)
    assert runner.run(one, one - 1, one, one - 1).shape == (1, 3)


@pytest.mark.parametrize("head", HEADS)
def test_outputs_that_are_no_numbers_are_an_error(head: str | None, tmp_path: Path) -> None:
    made = parts("fp32", head)
    made.set(WORDS, np.full_like(made.tensors[WORDS].array, np.nan))
    path = tmp_path / "model.prn"
    path.write_bytes(made.packed())
    text: Any = "a b [MASK]" if head == "MaskedLM" else "a b"
    if head == "QuestionAnswering":
        text = {"question": "a", "context": "b c"}
    with pytest.raises(InputError, match=r"model\.prn: its outputs are no numbers"):
        load(path, threads=1)(text)


@pytest.mark.parametrize("head", HEADS[:3])
def test_a_head_of_other_width_is_refused(head: str, tmp_path: Path) -> None:
    made = parts("fp32", head)
    name = "qa_outputs" if head == "QuestionAnswering" else "classifier"
    made.resize(f"{name}.weight", 7, 16)
    made.resize(f"{name}.bias", 7)
    path = tmp_path / "model.prn"
    path.write_bytes(made.packed())
    with pytest.raises(InputError, match="the head has 7 outputs"):
        load(path, threads=1)
