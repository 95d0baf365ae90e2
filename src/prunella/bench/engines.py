"""The engines, each behind one function: a file and settings in, a callable for each batch out.

Runs in a worker process of its own, so that only one engine's threads and settings are there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunella.bench.workloads import Batch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Loaded:
    """A model in an engine.

    Attributes:
        prepare: A batch -> the call to be timed, which has its inputs ready.
        note: What the engine says of how it computes.
    """

    prepare: Callable[[Batch], Call]
    note: str


def load(engine: str, file: Path, threads: int, options: Mapping[str, Any]) -> Loaded:
    """Loads a file into an engine.

    Args:
        engine: One of `ENGINES`.
        file: Packed file, ONNX file or checkpoint folder.
        threads: CPU threads.
        options: `weights` for prunella and pytorch, `properties` for openvino, `pad_id` for all
            but prunella.
    """
    return ENGINES[engine](file, threads, options)


def _prunella(file: Path, threads: int, options: Mapping[str, Any]) -> Loaded:
    from prunella.engine.compiled import compile_model
    from prunella.packed.read import open_packed

    packed = open_packed(file)
    runner = compile_model(packed, threads, weights=options["weights"])
    architecture = str(packed.metadata.get("architecture") or "")

    def prepare(batch: Batch) -> Call:
        if "For" not in architecture:
            return lambda: runner.hidden_states(batch.ids, batch.types, batch.lengths)
        rows = np.arange(len(batch.ids), dtype=np.int32)
        if architecture.endswith("ForSequenceClassification"):
            rows = (np.cumsum(batch.lengths) - batch.lengths).astype(np.int32)
        return lambda: runner.run(batch.ids, batch.types, batch.lengths, rows)

    kernels = sorted({str(entry["kernel"]) for entry in runner.describe() if "kernel" in entry})
    return Loaded(prepare, ", ".join(kernels))


def _onnxruntime(file: Path, threads: int, options: Mapping[str, Any]) -> Loaded:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def prepare(batch: Batch) -> Call:
        inputs = _chosen(batch, options, names)
        return lambda: session.run(None, inputs)

    return Loaded(prepare, "")


def _openvino(file: Path, threads: int, options: Mapping[str, Any]) -> Loaded:
    import openvino

    given = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(file), "CPU", given | options["properties"])
    request = compiled.create_infer_request()
    names = [item.get_any_name() for item in compiled.inputs]
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")

    def prepare(batch: Batch) -> Call:
        inputs = _chosen(batch, options, names)
        return lambda: request.infer(inputs, share_inputs=True)

    short = {"bfloat16": "bf16", "float32": "f32", "float16": "f16"}
    kind = precision.get_type_name() if hasattr(precision, "get_type_name") else str(precision)
    return Loaded(prepare, short.get(_plain(kind), _plain(kind)))


def _plain(kind: str) -> str:
    """The name in "<Type: 'bfloat16'>"."""
    return kind.split("'")[1] if "'" in kind else {"bf16": "bfloat16"}.get(kind, kind)


def _pytorch(file: Path, threads: int, options: Mapping[str, Any]) -> Loaded:
    import torch

    from prunella.checkpoint import open_checkpoint
    from prunella.exporting import load_with_head

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    model = load_with_head(open_checkpoint(file))[0]
    model.set_attn_implementation("sdpa")
    if options["weights"] == "bf16":
        model.to(torch.bfloat16)
    elif options["weights"] == "int8":
        with warnings.catch_warnings():  # torch's own way, deprecated in favour of torchao's
            warnings.simplefilter("ignore")
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]

    def prepare(batch: Batch) -> Call:
        arrays = _chosen(batch, options, names)
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if inputs["attention_mask"].all():  # as one would call it without padding
            del inputs["attention_mask"]

        def call() -> Any:
            with torch.inference_mode():
                return model(**inputs)

        return call

    return Loaded(prepare, "")


def _chosen(batch: Batch, options: Mapping[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    padded = batch.padded(int(options["pad_id"]))
    return {name: padded[name] for name in names}


def pad_id_of(config: bytes) -> int:
    """The padding token of a configuration; 0 where there is none."""
    found = json.loads(config).get("pad_token_id")
    return found if isinstance(found, int) else 0


ENGINES: dict[str, Callable[[Path, int, Mapping[str, Any]], Loaded]] = {
    "prunella": _prunella,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "pytorch": _pytorch,
}
