"""The native half of the engine, native/module.cpp; a test keeps the names alike."""

from typing import Any, Literal, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]
Ints = NDArray[np.int32]

class KernelEntry(TypedDict):
    arithmetic: Literal["int8", "bf16", "fp32"]
    name: str
    isa: str
    dense: bool
    usable: bool

def isas() -> list[str]: ...
def kernels() -> list[KernelEntry]: ...
def trim() -> None: ...

class Tuner:
    def __init__(self, isa: str, /) -> None: ...

class Linear:
    def info(self) -> dict[str, Any]: ...

@overload
def linear(
    starts: Ints,
    indices: Ints,
    values: np.ndarray,
    columns: int,
    scale: Floats | None,
    bias: Floats | None,
    tuner: Tuner,
) -> Linear: ...
@overload
def linear(
    values: np.ndarray, scale: Floats | None, bias: Floats | None, tuner: Tuner
) -> Linear: ...
@overload
def multiply(
    kernel: str,
    starts: Ints,
    indices: Ints,
    values: np.ndarray,
    inputs: np.ndarray,
    repeat: int = 1,
) -> tuple[np.ndarray, float, int]: ...
@overload
def multiply(
    kernel: str, values: np.ndarray, inputs: np.ndarray, repeat: int = 1
) -> tuple[np.ndarray, float, int]: ...
def quantize_tokens(isa: str, x: Floats, /) -> tuple[Bytes, Floats, Ints]: ...
def to_bf16(isa: str, x: Floats, /) -> Halves: ...
def activate(isa: str, activation: str, x: Floats, /) -> Floats: ...
def layer_norm(
    isa: str, x: Floats, residual: Floats, gain: Floats, bias: Floats, epsilon: float, /
) -> Floats: ...
def attend(
    isa: str, half: bool, q: Floats, k: Floats, v: Floats, begin: int, end: int, /
) -> Floats: ...

class Encoder:
    def __init__(
        self,
        *,
        hidden: int,
        embedding: int,
        heads: int,
        intermediate: int,
        epsilon: float,
        activation: str,
        first_position: int,
        half: bool,
        threads: int,
        isa: str,
    ) -> None: ...
    @property
    def width(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    def set_table(self, name: str, array: np.ndarray, scale: Floats | None) -> None: ...
    def set_embedding_norm(self, gain: Floats, bias: Floats) -> None: ...
    def set_projection(self, linear: Linear) -> None: ...
    def add_layer(
        self,
        qkv: Linear,
        attention_output: Linear,
        attention_gain: Floats,
        attention_bias: Floats,
        ffn_in: Linear,
        ffn_out: Linear,
        output_gain: Floats,
        output_bias: Floats,
    ) -> None: ...
    def add_head(
        self, linear: Linear, activation: str, gain: Floats | None, bias: Floats | None
    ) -> None: ...
    def run(
        self, ids: Ints, types: Ints, lengths: Ints, rows: Ints, with_head: bool = True
    ) -> Floats: ...
