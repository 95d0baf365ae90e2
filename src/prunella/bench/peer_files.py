"""The model as ONNX for the other engines: `python -m prunella.bench.peer_files FOLDER OUT PREFIX`.

Tried on a processor with AMX (BERT-Base, 1 x 128, one thread, milliseconds). OpenVINO int8: 28 with
the encoder's matrices alone in QDQ, 34 with the attention's products as well, 33 with bytes for
weights alone; keeping the rest in bf16 (its own choice) or in fp32 is measured at every run, as it
depends on the shape; its sparse decompression of weights changed nothing. ONNX Runtime int8: 34
dynamic, 35 in QDQ; exporting attention as one operator (opset 23), or fusing more of the graph with
its offline optimiser, which finds no attention here, gained nothing.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from prunella.calibration import activation_ranges
from prunella.checkpoint import open_checkpoint
from prunella.exporting import fp32_graph, int8_matrices, load_with_head
from prunella.grid import load_scales
from prunella.onnx_graph import quantize_graph

_CALIBRATION_LENGTH = 64


def write_onnx(checkpoint: Path, folder: Path, prefix: str) -> None:
    """Writes PREFIX-fp32.onnx, PREFIX-static.onnx and PREFIX-dynamic.onnx.

    Ranges come from random ids: they decide predictions, which nobody reads here, not times.
    """
    model, outputs = load_with_head(open_checkpoint(checkpoint))
    plain = fp32_graph(model, outputs)
    onnx.save(plain, folder / f"{prefix}-fp32.onnx")
    matrices = int8_matrices(model, load_scales(checkpoint))
    generator = torch.Generator().manual_seed(0)
    length = min(_CALIBRATION_LENGTH, model.config.max_position_embeddings - 2)
    ids = torch.randint(0, model.config.vocab_size, (2, length), generator=generator)
    ranges = activation_ranges(model, [m.name for m in matrices], iter([{"input_ids": ids}]))
    matrices = [replace(matrix, range=ranges[matrix.name]) for matrix in matrices]
    for kind in ("static", "dynamic"):
        graph = onnx.ModelProto()
        graph.CopyFrom(plain)
        quantize_graph(graph, matrices, kind)
        onnx.save(graph, folder / f"{prefix}-{kind}.onnx")


if __name__ == "__main__":
    write_onnx(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
