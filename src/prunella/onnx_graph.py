"""Encoder matrices of an ONNX graph in 8 bits: the weights' own grid, and activations three ways.

The weights keep the grid that `prunella.grid` describes (int8 codes, one scale for each output
row): nothing is rounded here. What differs is how activations become bytes, since no standard
operator computes a range for each token, as the checkpoint does:

static    QuantizeLinear with one fixed range for each matrix, found on text beforehand (QDQ)
dynamic   DynamicQuantizeLinear and MatMulInteger: the range of the whole batch, at every call
float     not at all: DequantizeLinear on the weights alone
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from prunella.grid import ACTIVATION_MAX, SMALLEST_SCALE

Activations = Literal["static", "dynamic", "float"]
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A Linear of the model: `weight` [out, in] is `codes` (int8) times `scale` [out].

    The weight is what the graph holds; it may differ from the product where a checkpoint was not
    quantised before. `range` is the least and the greatest input value; None if it is not known.
    """

    name: str
    weight: NDArray[np.float32]
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    range: Range | None = None


def quantize_graph(
    model: onnx.ModelProto, matrices: Sequence[Matrix], activations: Activations
) -> None:
    """Puts Linears of a graph into 8 bits, in place.

    Args:
        model: The fp32 graph. Its matrices are found by their values, as exporters rename them.
        matrices: In the order in which the graph uses them, with ranges where activations are
            static.
        activations: See the module.

    Raises:
        RuntimeError: If the graph lacks a matrix.
    """
    graph = model.graph
    # Inferred shapes name tensors that no longer exist, and onnxruntime's tools stumble over them.
    del graph.value_info[:]
    editor = _Editor(graph, activations)
    waiting = _by_value(matrices)
    for node in graph.node:
        matrix = _take(editor.weight_of(node), waiting)
        if matrix is None:
            editor.nodes.append(node)
        else:
            editor.replace(node, matrix)
    left = [m.name for found in waiting.values() for m in found if m.name not in editor.uses]
    if left:
        raise RuntimeError(f"the graph has no product with {', '.join(left[:3])}")
    editor.finish()


class _Editor:
    """The graph in the making: new nodes in order, and tensors that stand for several of them."""

    def __init__(self, graph: onnx.GraphProto, activations: Activations) -> None:
        self.graph = graph
        self.activations = activations
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.quantized: dict[tuple[str, Range | None], Sequence[str]] = {}
        self.uses: dict[str, int] = {}
        """How often each matrix was put in; layers may share one, as ALBERT's do."""

    def weight_of(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """[out, in] of a node that multiplies by a constant matrix from the right."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.constants:
            return None
        array = numpy_helper.to_array(self.constants[node.input[1]])
        if array.ndim != 2 or array.dtype != np.float32:
            return None
        return array if node.op_type == "Gemm" and _attribute(node, "transB") else array.T

    def replace(self, node: onnx.NodeProto, matrix: Matrix) -> None:
        """A Linear in 8 bits; Gemm becomes a product and a sum, which runtimes fuse."""
        earlier = self.uses.get(matrix.name, 0)
        self.uses[matrix.name] = earlier + 1
        here = f"{matrix.name}.use{earlier + 1}" if earlier else matrix.name
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        product = node.output[0] if bias is None else f"{here}.product"
        codes = self.constant(f"{matrix.name}.codes", np.ascontiguousarray(matrix.codes.T))
        scale = self.constant(f"{matrix.name}.scale", matrix.scale)
        if self.activations == "dynamic":
            self._integer_product(node.input[0], codes, scale, product, here)
        else:
            source = node.input[0]
            if self.activations == "static":
                source = self._through_bytes(source, matrix, here)
            if not earlier:
                zero = self.constant(f"{matrix.name}.zero", np.zeros(len(matrix.scale), np.int8))
                self.add("DequantizeLinear", [codes, scale, zero], [f"{matrix.name}.real"], axis=1)
            self.add("MatMul", [source, f"{matrix.name}.real"], [product])
        if bias is not None:
            self.add("Add", [product, bias], [node.output[0]])

    def _through_bytes(self, source: str, matrix: Matrix, here: str) -> str:
        """Input -> QuantizeLinear -> DequantizeLinear; matrices of one input share them."""
        assert matrix.range is not None, matrix.name
        key = (source, matrix.range)
        if key not in self.quantized:
            scale, zero = _byte_grid(matrix.range)
            name = f"{here}.input"
            grid = [self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero)]
            self.add("QuantizeLinear", [source, *grid], [f"{name}.codes"])
            self.add("DequantizeLinear", [f"{name}.codes", *grid], [f"{name}.real"])
            self.quantized[key] = [f"{name}.real"]
        return self.quantized[key][0]

    def _integer_product(self, source: str, codes: str, scale: str, out: str, name: str) -> None:
        """float(MatMulInteger) times both scales, in the form that ONNX Runtime fuses."""
        key = (source, None)
        if key not in self.quantized:
            parts = [f"{name}.input.codes", f"{name}.input.scale", f"{name}.input.zero"]
            self.add("DynamicQuantizeLinear", [source], parts)
            self.quantized[key] = parts
        inputs, input_scale, zero = self.quantized[key]
        self.add("MatMulInteger", [inputs, codes, zero], [f"{name}.sums"])
        self.add("Cast", [f"{name}.sums"], [f"{name}.floats"], to=onnx.TensorProto.FLOAT)
        self.add("Mul", [input_scale, scale], [f"{name}.scales"])
        self.add("Mul", [f"{name}.floats", f"{name}.scales"], [out])

    def add(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **given: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **given))

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def finish(self) -> None:
        """Puts the new nodes into the graph, and only the constants that they use."""
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for name, tensor in self.constants.items() if name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)


def _byte_grid(span: Range) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of unsigned bytes from a least to a greatest value; 0 is exact."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = np.float32((high - low) / ACTIVATION_MAX)
    scale = scale if scale >= SMALLEST_SCALE else np.float32(1)
    return np.array(scale, np.float32), np.array(np.rint(-low / scale), np.uint8)


def _by_value(matrices: Iterable[Matrix]) -> dict[bytes, list[Matrix]]:
    found: dict[bytes, list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        found[_digest(matrix.weight)].append(matrix)
    return found


def _take(
    weight: NDArray[np.float32] | None, waiting: Mapping[bytes, list[Matrix]]
) -> Matrix | None:
    if weight is None:
        return None
    found = waiting.get(_digest(weight))
    if not found:
        return None
    # The last one stays: a matrix that layers share is met again. Only where matrices are equal in
    # all values is there another before it.
    return found.pop(0) if len(found) > 1 else found[0]


def _digest(array: NDArray[np.float32]) -> bytes:
    # + 0.0 turns -0.0 into 0.0: exporters fold constants through operations that may change it.
    plain = np.ascontiguousarray(array) + np.float32(0)
    return hashlib.sha256(f"{plain.shape}".encode() + plain.tobytes()).digest()


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)
