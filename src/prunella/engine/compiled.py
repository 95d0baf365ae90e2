"""A packed file as a native encoder: matrices in the layouts of the fastest kernels."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from prunella.engine import _native
from prunella.engine.architecture import (
    HEADS,
    NAMES,
    HeadLayer,
    Sizes,
    activation_named,
    read_sizes,
)
from prunella.engine.card import Card, read_card
from prunella.engine.matrices import Arithmetic, read_matrix, stored_arithmetic
from prunella.engine.runner import Floats, Ints
from prunella.errors import InputError
from prunella.packed.dense import dense_array
from prunella.packed.read import Weights

ISA_VARIABLE = "PRUNELLA_ISA"
_TABLES = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "types": "token_type_embeddings",
}


def usable_isas() -> list[str]:
    """Instruction sets that run on this machine, best last."""
    return _native.isas()


def choose_isa(wanted: str | None = None) -> str:
    """The instruction set to use: the one wanted, else that of PRUNELLA_ISA, else the best.

    Raises:
        InputError: If it does not run here.
    """
    found = wanted or os.environ.get(ISA_VARIABLE) or _native.isas()[-1]
    if found not in _native.isas():
        raise InputError(
            f"instruction set '{found}' is unknown or not usable on this machine; usable are "
            f"{', '.join(_native.isas())} (leave {ISA_VARIABLE} unset for the best)"
        )
    return found


def compile_model(
    packed: Weights,
    threads: int,
    isa: str | None = None,
    weights: Arithmetic | None = None,
) -> CompiledModel:
    """Builds the encoder of a packed file and its head.

    Args:
        packed: The file.
        threads: CPU threads, the calling one included.
        isa: Instruction set; None is that of PRUNELLA_ISA or else the best.
        weights: Arithmetic of the encoder's matrices; None is what they were packed for.

    Raises:
        InputError: If the file is damaged, lacks a part, or holds what the engine cannot run.
    """
    card = read_card(packed)
    builder = _Builder(packed, card, choose_isa(isa), weights)
    try:
        model = builder.build(threads)
    except (ValueError, TypeError) as error:  # what the native half refuses
        raise InputError(f"{packed.path}: {error}") from None
    except MemoryError:
        raise InputError(
            f"{packed.path}: does not fit in this machine's memory; use a machine with more"
        ) from None
    packed.release()
    _native.trim()
    return model


class CompiledModel:
    """A native encoder as a `prunella.engine.runner.Runner`."""

    def __init__(
        self, encoder: _native.Encoder, matrices: list[tuple[str, _native.Linear]], tables: int
    ) -> None:
        self._encoder = encoder
        self._matrices = matrices
        self._tables = tables

    @property
    def hidden(self) -> int:
        return self._encoder.hidden

    @property
    def width(self) -> int:
        return self._encoder.width

    @property
    def tables(self) -> int:
        """Bytes of the tables of embeddings."""
        return self._tables

    @property
    def memory(self) -> int:
        return self._tables + sum(linear.info()["bytes"] for _, linear in self._matrices)

    def run(self, ids: Ints, types: Ints, lengths: Ints, rows: Ints) -> Floats:
        return self._encoder.run(ids, types, lengths, rows)

    def hidden_states(self, ids: Ints, types: Ints, lengths: Ints) -> Floats:
        rows = np.arange(len(ids), dtype=np.int32)
        return self._encoder.run(ids, types, lengths, rows, with_head=False)

    def describe(self) -> list[dict[str, Any]]:
        return [{"matrix": name, **linear.info()} for name, linear in self._matrices]


class _Builder:
    """Reads the parts of one file under their names."""

    def __init__(self, packed: Weights, card: Card, isa: str, weights: Arithmetic | None) -> None:
        self.packed = packed
        self.card = card
        self.isa = isa
        self.weights: Arithmetic | None = weights
        self.tuner = _native.Tuner(isa)
        self.matrices: list[tuple[str, _native.Linear]] = []
        self.tables = 0
        prefix = f"{card.family}."
        self.prefix = prefix if any(name.startswith(prefix) for name in packed.names) else ""

    def build(self, threads: int) -> CompiledModel:
        sizes = read_sizes(self.card)
        encoder = self._encoder(sizes, threads)
        names = NAMES[self.card.family]
        hidden, inner = sizes.hidden, sizes.intermediate
        for number in range(sizes.layers):
            where = f"{self.prefix}{names.stack}.{number}."
            encoder.add_layer(
                self._linear([where + name for name in names.qkv], hidden, hidden),
                self._linear([where + names.attention_output], hidden, hidden),
                *self._norm(where + names.attention_norm, hidden),
                self._linear([where + names.ffn_in], inner, hidden),
                self._linear([where + names.ffn_out], hidden, inner),
                *self._norm(where + names.output_norm, hidden),
            )
        for layer in self._head():
            self._add_head(encoder, layer)
        return CompiledModel(encoder, self.matrices, self.tables)

    def _encoder(self, sizes: Sizes, threads: int) -> _native.Encoder:
        where = f"{self.prefix}embeddings."
        first = f"{self.prefix}{NAMES[self.card.family].stack}.0.{NAMES[self.card.family].ffn_in}"
        arithmetic = self.weights or stored_arithmetic(self.packed, f"{first}.weight")
        width = self._embedding_width(sizes.hidden)
        encoder = _native.Encoder(
            hidden=sizes.hidden,
            embedding=width,
            heads=sizes.heads,
            intermediate=sizes.intermediate,
            epsilon=sizes.epsilon,
            activation=sizes.activation,
            first_position=sizes.first_position,
            half=arithmetic != "fp32",
            threads=threads,
            isa=self.isa,
        )
        positions = self.card.positions + sizes.first_position
        self._table(encoder, "words", width)
        self._table(encoder, "positions", width, rows=positions)
        if f"{where}token_type_embeddings.weight" in self.packed.names:
            self._table(encoder, "types", width, rows=2 if self.card.token_types else 1)
        encoder.set_embedding_norm(*self._norm(f"{where}LayerNorm", width))
        if self._projects():
            module = f"{self.prefix}embeddings_project"
            encoder.set_projection(self._linear([module], sizes.hidden, width, "fp32"))
        return encoder

    def _projects(self) -> bool:
        return f"{self.prefix}embeddings_project.weight" in self.packed.names

    def _embedding_width(self, hidden: int) -> int:
        """That of the model, unless a projection leads from the one to the other."""
        words = f"{self.prefix}embeddings.word_embeddings.weight"
        shape = self.packed.info(words).shape
        if not self._projects():
            self._expect(words, *shape[:1], hidden)
        elif len(shape) != 2:
            raise InputError(f"{self.packed.path}: {words} is no matrix; pack the checkpoint again")
        return shape[1]

    def _table(self, encoder: _native.Encoder, name: str, width: int, rows: int = 0) -> None:
        """Sets a table, which must have at least so many rows."""
        tensor = f"{self.prefix}embeddings.{_TABLES[name]}.weight"
        array, scale = self.packed.tensor(tensor), self.packed.scale(tensor)
        self._expect(tensor, *array.shape[:1], width)
        if len(array) < rows:
            raise InputError(
                f"{self.packed.path}: {tensor} has {len(array)} rows, its config.json speaks of "
                f"{rows}; pack the checkpoint again"
            )
        if array.dtype == np.int8 and scale is None:
            raise InputError(
                f"{self.packed.path}: {tensor} is int8 without scales; pack the checkpoint again"
            )
        if scale is not None:
            self._expect_numbers(f"the scale of {tensor}", scale)
        if array.dtype not in (np.float32, np.uint16, np.int8):
            array = array.astype(np.float32)
        self.tables += array.nbytes
        encoder.set_table(name, array, scale)

    def _linear(
        self,
        modules: list[str],
        rows: int | None,
        columns: int,
        arithmetic: Arithmetic | None = None,
        bias: str | None = None,
    ) -> _native.Linear:
        """A Linear, or several of these shapes as one; of any number of rows if that is None."""
        names = [f"{module}.weight" for module in modules]
        for name in names:
            wanted = self.packed.info(name).shape[:1] if rows is None else (rows,)
            self._expect(name, *wanted, columns)
        matrix = read_matrix(self.packed, names, arithmetic or self.weights)
        if matrix.scale is not None:
            self._expect_numbers(f"the scale of {', '.join(names)}", matrix.scale)
        biases = [bias] if bias else [f"{module}.bias" for module in modules]
        each = matrix.rows // len(names)
        shift = np.concatenate([self._floats(name, each) for name in biases])
        if matrix.indptr is None or matrix.indices is None:
            linear = _native.linear(matrix.values, matrix.scale, shift, self.tuner)
        else:
            linear = _native.linear(
                matrix.indptr, matrix.indices, matrix.values, matrix.columns, matrix.scale, shift,
                self.tuner,
            )  # fmt: skip
        self.matrices.append((", ".join(modules), linear))
        return linear

    def _norm(self, module: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        return self._floats(f"{module}.weight", width), self._floats(f"{module}.bias", width)

    def _floats(self, name: str, length: int) -> np.ndarray:
        self._expect(name, length)
        found = np.ascontiguousarray(dense_array(self.packed, name), np.float32)
        self._expect_numbers(name, found)
        return found

    def _expect(self, name: str, *shape: int) -> None:
        if (found := self.packed.info(name).shape) != shape:
            raise InputError(
                f"{self.packed.path}: {name} has the shape {found}, its place in the model asks "
                f"for {shape}; the file's parts do not fit each other, pack it again"
            )

    def _expect_numbers(self, name: str, values: np.ndarray) -> None:
        """Of the small parts: 8-bit codes of activations would hide what comes of them."""
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.packed.path}: {name} holds what is no number; pack the checkpoint again"
            )

    def _head(self) -> tuple[HeadLayer, ...]:
        card = self.card
        if (card.family, card.head) == ("electra", "PreTraining"):
            return ()
        return HEADS[card.family].get(card.head or "", ())

    def _add_head(self, encoder: _native.Encoder, layer: HeadLayer) -> None:
        module = self._name(layer.module)
        own_bias = f"{module}.bias"
        if f"{module}.weight" not in self.packed.names and layer.tied:
            module = self._name(layer.tied)
        pruned = self.packed.info(f"{module}.weight").role is not None
        arithmetic = None if pruned else "fp32"
        linear = self._linear([module], None, encoder.width, arithmetic, layer.bias or own_bias)
        rows = linear.info()["shape"][0]
        norm = self._norm(layer.norm, rows) if layer.norm else (None, None)
        encoder.add_head(linear, activation_named(layer.activation, self.card), *norm)

    def _name(self, name: str) -> str:
        return name.replace("*", self.prefix)
