"""export: a checkpoint as ONNX for other runtimes, in fp32 or with the encoder in 8 bits."""

from __future__ import annotations

import json
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn

from prunella import __version__
from prunella.calibration import Row, activation_ranges, calibration_rows
from prunella.checkpoint import Checkpoint
from prunella.errors import InputError, first_line
from prunella.grid import int_weights, load_scales
from prunella.hub import fetch
from prunella.models import load_encoder, load_tokenizer, takes_token_types
from prunella.packing import row_scale
from prunella.quantization import restore
from prunella.report.tables import human_bytes
from prunella.settings import ExportSettings
from prunella.sparsity.targets import find_targets, pruned_parameters

if TYPE_CHECKING:
    import onnx

    from prunella.onnx_graph import Matrix

OPSET = 20
"""The first with a GELU of its own, which runtimes fuse."""
_LARGEST = 2**31 - 2**24  # of one protobuf file, with room for the graph itself
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_HEADS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", ("logits",)),
    "ForTokenClassification": ("AutoModelForTokenClassification", ("logits",)),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "ForMaskedLM": ("AutoModelForMaskedLM", ("logits",)),
}
_CHECKED_ROWS = 32
# Of outputs, over the largest. Rounding to bytes may cost much where a model has learned little.
_LARGEST_DIFFERENCE = {"fp32": 0.01, "int8": 1.0}
_Likeness = tuple[float | None, float | None]


@dataclass(frozen=True)
class Exported:
    """A written ONNX file.

    `difference` is the largest deviation of ONNX Runtime's outputs from PyTorch's, over their
    largest value, on some rows, and `same` the share of their greatest outputs that stay the
    same; None where onnxruntime is not installed.
    """

    path: str
    weights: str
    activations: str | None
    matrices: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bytes: int
    difference: float | None = None
    same: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def show(self, console: Console) -> None:
        """Prints it for a person."""
        kind = self.weights
        if self.activations:
            kind += f", {self.matrices} matrices, activations {self.activations}"
        console.print(f"[bold]export[/] -> {self.path}  ({kind})", soft_wrap=True)
        console.print(
            f"{human_bytes(self.bytes)}, opset {self.opset}: {', '.join(self.inputs)} -> "
            f"{', '.join(self.outputs)}; any batch and length. The tokenizer stays in the "
            "checkpoint.",
        )
        if self.difference is None:
            console.print("Not tried: onnxruntime is not installed.")
        else:
            console.print(
                f"ONNX Runtime against PyTorch: outputs within {100 * self.difference:.2g} %, "
                f"greatest output the same in {100 * (self.same or 0):.1f} %."
            )


def export(settings: ExportSettings) -> Exported:
    """Writes a checkpoint as one ONNX file with dynamic shapes.

    Raises:
        InputError: If a package is missing, the checkpoint has no head that is known here, the
            file exists, a setting would be passed over, static ranges have no text, or what the
            file computes is far from what the checkpoint does: then nothing is written.
    """
    _require_packages()
    out = _free_place(settings)
    checkpoint = fetch(settings.model)
    size = sum(file.stat().st_size for file in checkpoint.weight_files)
    if size > _LARGEST:
        raise InputError(
            f"{checkpoint.path}: {human_bytes(size)} of weights, but an ONNX file holds 2 GB; "
            "pack it instead"
        )
    scales = load_scales(checkpoint.path)
    weights = settings.weights
    if weights == "auto":
        weights = "int8" if scales else "fp32"
    _refuse_idle(settings, weights)
    static = weights == "int8" and settings.activations == "static"
    rows = calibration_rows(checkpoint, settings.calibrate, settings.texts) if static else []
    model, outputs = load_with_head(checkpoint)
    inputs = list(_inputs(checkpoint, model, rows))
    graph = fp32_graph(model, outputs)
    matrices = 0
    if weights == "int8":
        from prunella.onnx_graph import quantize_graph

        found = int8_matrices(model, scales)
        if scales:
            restore(model, scales)
        if static:
            found = _with_ranges(found, model, inputs)
        quantize_graph(graph, found, settings.activations)
        matrices = len(found)
    activations = settings.activations if weights == "int8" else None
    _describe(graph, checkpoint, model, weights, activations)
    difference, same = _save(graph, out, lambda draft: _compared(draft, model, inputs, weights))
    return Exported(
        str(out),
        weights,
        activations,
        matrices,
        OPSET,
        _input_names(model),
        outputs,
        out.stat().st_size,
        difference,
        same,
    )


def load_with_head(checkpoint: Checkpoint) -> tuple[Any, tuple[str, ...]]:
    """The model as its checkpoint says, fp32, and the names of its outputs.

    Raises:
        InputError: If the head is none of `_HEADS`, or the weights lack a part.
    """
    architecture = (checkpoint.config.get("architectures") or [""])[0]
    ending = next((e for e in _HEADS if architecture.endswith(e)), None)
    if ending is None:
        if "For" in architecture:
            raise InputError(
                f"{checkpoint.path}: {architecture} cannot be exported; the heads that can are "
                f"{', '.join(_HEADS)}, or none"
            )
        model: Any = load_encoder(checkpoint)
        pooled = ("pooler_output",) if getattr(model, "pooler", None) is not None else ()
        outputs = ("last_hidden_state", *pooled)
    else:
        kind, outputs = _HEADS[ending]
        model = _load(getattr(transformers, kind), checkpoint)
    model.set_attn_implementation("eager")  # others export to larger graphs
    return model.eval().requires_grad_(False), outputs


def fp32_graph(model: Any, outputs: tuple[str, ...]) -> onnx.ModelProto:
    """The model as ONNX, any batch and any length.

    Args:
        model: From `load_with_head`.
        outputs: Names of its outputs.
    """
    names = _input_names(model)
    # A tensor for each input: one for two of them would become one input.
    example = tuple(torch.full((2, 9), int(name != _INPUTS[2])) for name in names)
    with _quiet():
        program = torch.onnx.export(
            _Wrapped(model, _adds_masks(model)).eval(),
            example,
            dynamo=True,
            dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in names},
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.graph.value_info[:], proto.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input):
        del part.metadata_props[:]  # traces of the exporter: source lines, module names
        part.doc_string = ""
    return proto


def int8_matrices(model: nn.Module, scales: Mapping[str, np.ndarray] | None) -> list[Matrix]:
    """The encoder's matrices on their int8 grid: the checkpoint's own, else the nearest.

    Args:
        model: With float32 weights.
        scales: Of a quantised checkpoint, by parameter name; None rounds each row as `pack` does.
    """
    from prunella.onnx_graph import Matrix

    parameters = pruned_parameters(model, find_targets(model))
    if scales is not None:
        parameters = {n: p for n, p in model.named_parameters() if n in scales}
        if missing := scales.keys() - parameters.keys():
            raise InputError(f"quantised matrices are not in the model: {min(missing)}")
    found = []
    for name, parameter in parameters.items():
        weight = parameter.detach().numpy()
        if scales is not None:
            codes, scale = int_weights(weight, scales[name], name), scales[name]
        else:
            scale = row_scale(weight)
            codes = np.rint(weight / scale[:, None]).astype(np.int8)
        found.append(Matrix(name.removesuffix(".weight"), weight, codes, scale))
    return found


class _Wrapped(nn.Module):
    """The model with plain inputs and outputs, and where it takes it a mask ready to be added.

    Handing it over in four dimensions leaves out the mask's general machinery: a quarter of the
    nodes of a small graph. A model that does not `add` masks gets it as it is.
    """

    def __init__(self, model: nn.Module, add: bool) -> None:
        super().__init__()
        self.model, self.add = model, add

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        mask = attention_mask
        if self.add:
            hidden = 1 - attention_mask[:, None, None, :].to(torch.float32)
            mask = hidden * torch.finfo(torch.float32).min
        return self.model(input_ids=input_ids, attention_mask=mask, **types).to_tuple()


@torch.no_grad()
def _adds_masks(model: Any) -> bool:
    """Whether a model adds a mask of four dimensions to its scores, as most do; found by trying.

    DeBERTa takes it for ones and zeros.
    """
    names = _input_names(model)
    ids = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    inputs = dict(zip(names, (ids, mask, torch.zeros_like(ids)), strict=False))
    expected = _Wrapped(model, add=False)(**inputs)
    try:
        found = _Wrapped(model, add=True)(**inputs)
    except (RuntimeError, ValueError, TypeError, IndexError):  # another shape than it expects
        return False
    return all(
        torch.allclose(x, y, rtol=0, atol=1e-5 * float(y.abs().max()))
        for x, y in zip(found, expected, strict=True)
    )


def _require_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"`prunella export` needs the package{'s' * (len(missing) > 1)} "
            f'{" and ".join(missing)}; install "prunella[train,export]"'
        )


def _free_place(settings: ExportSettings) -> Path:
    out = Path(settings.onnx)
    if out.is_dir():
        raise InputError(f"{out}: is a folder; --onnx names the file to write, such as model.onnx")
    if out.exists() and not settings.overwrite:
        raise InputError(f"{out}: exists; choose another --onnx or pass --overwrite")
    return out


def _refuse_idle(settings: ExportSettings, weights: str) -> None:
    """Refuses what was asked for and would be passed over.

    Args:
        settings: As they were given.
        weights: What they come to with this checkpoint: int8 or fp32.
    """
    given = {name for name in settings.model_fields_set if getattr(settings, name) is not None}
    of_ranges, of_int8 = given & {"calibrate", "texts"}, given & {"activations"}
    if weights == "fp32" and (idle := of_int8 | of_ranges):
        if settings.weights == "fp32":
            advice = "leave it out, or take --weights int8"
        else:
            advice = (
                "the checkpoint is not quantised, so that --weights auto is fp32; take --weights "
                "int8, which rounds it, or train it in 8 bits first (prunella quantize)"
            )
        raise InputError(f"--{min(idle)}: only int8 has a use for it; {advice}")
    if settings.activations != "static" and of_ranges:
        raise InputError(
            f"--{min(of_ranges)}: only int8 with static activations has ranges to find; leave it "
            "out"
        )


def _load(kind: Any, checkpoint: Checkpoint) -> Any:
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                checkpoint.path, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{checkpoint.path}: transformers cannot load it ({first_line(error)})"
        ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:4])
        raise InputError(f"{checkpoint.path}: the weights lack {missing}")
    return model


def _input_names(model: Any) -> tuple[str, ...]:
    return _INPUTS if takes_token_types(model.config) else _INPUTS[:2]


def _inputs(checkpoint: Checkpoint, model: Any, rows: list[Row]) -> Iterator[dict[str, Tensor]]:
    """What the model is called with for each row, without padding; random ids without rows."""
    names = _input_names(model)
    if not rows:
        generator = torch.Generator().manual_seed(0)
        for length in (5, 12, 30):
            ids = torch.randint(5, model.config.vocab_size, (4, length), generator=generator)
            values = (ids, torch.ones_like(ids), torch.zeros_like(ids))
            yield dict(zip(names, values, strict=False))
        return
    tokenizer = load_tokenizer(checkpoint)
    task = (checkpoint.provenance or {}).get("task") or {}
    longest = min(task.get("max_length", 128), model.config.max_position_embeddings - 2)
    for text, pair in rows:
        found = tokenizer(text, pair, truncation=True, max_length=longest, return_tensors="pt")
        yield {name: found[name] for name in names if name in found}


def _with_ranges(
    matrices: list[Matrix], model: nn.Module, inputs: list[dict[str, Tensor]]
) -> list[Matrix]:
    ranges = activation_ranges(model, [matrix.name for matrix in matrices], iter(inputs))
    return [replace(matrix, range=ranges[matrix.name]) for matrix in matrices]


def _describe(
    graph: onnx.ModelProto,
    checkpoint: Checkpoint,
    model: Any,
    weights: str,
    activations: str | None,
) -> None:
    """What a reader of the file should know of it."""
    graph.producer_name, graph.producer_version = "prunella", __version__
    facts = {
        "model_type": model.config.model_type,
        "labels": json.dumps(model.config.id2label, ensure_ascii=False),
        "weights": weights,
        "activations": activations or "",
        "source_sha256": checkpoint.weights_hash,
    }
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)


def _save(graph: onnx.ModelProto, out: Path, check: Callable[[Path], _Likeness]) -> _Likeness:
    """Writes the file whole or not at all, and not if `check` of the finished one raises."""
    import onnx

    onnx.checker.check_model(graph)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(graph.SerializeToString(deterministic=True))
        found = check(draft)
        os.replace(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            draft.unlink()
    return found


@torch.no_grad()
def _compared(
    file: Path, model: nn.Module, inputs: list[dict[str, Tensor]], weights: str
) -> _Likeness:
    """`difference` and `same` of `Exported`: what ONNX Runtime makes of the file, if it is there.

    Args:
        file: The ONNX file.
        model: As it predicts.
        inputs: What to call it with; of some of them, and of one with padding.
        weights: In which the file computes.

    Raises:
        InputError: If outputs are no numbers, or so far off that the file is of no use.
    """
    if find_spec("onnxruntime") is None:
        return None, None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    step = max(1, len(inputs) // _CHECKED_ROWS)
    deviation, largest, same = 0.0, 0.0, []
    for batch in [*inputs[::step][:_CHECKED_ROWS], _with_padding(inputs[0])]:
        theirs: Any = session.run(None, {name: x.numpy() for name, x in batch.items()})
        real = batch[_INPUTS[1]].numpy().astype(bool)
        for ours, other in zip(model(**batch).to_tuple(), theirs, strict=True):
            expected = ours.numpy()
            if expected.shape[:2] == real.shape:  # what stands at padding is read by nobody
                expected, other = expected[real], other[real]
            if not np.isfinite(expected).all():
                raise InputError(
                    "the checkpoint computes numbers that are not finite; train it anew"
                )
            off = np.abs(expected - other).max() if np.isfinite(other).all() else np.inf
            deviation = max(deviation, float(off))
            largest = max(largest, float(np.abs(expected).max()))
            same.append(float((expected.argmax(-1) == other.argmax(-1)).mean()))
    difference = deviation / (largest or 1.0)
    if difference > _LARGEST_DIFFERENCE[weights]:
        raise InputError(_useless(model, difference, weights))
    return difference, float(np.mean(same))


def _with_padding(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first row twice, half of it hidden as if it were padding in the second."""
    rows = {name: tensor[:1].repeat(2, 1) for name, tensor in batch.items()}
    mask = rows[_INPUTS[1]]
    mask[1, (mask.shape[1] + 1) // 2 :] = 0
    return rows


def _useless(model: Any, difference: float, weights: str) -> str:
    """Why a file was not written, and what to do."""
    off = f"{100 * difference:.3g} % off" if np.isfinite(difference) else "no numbers"
    advice = (
        f"models of type {model.config.model_type} cannot be exported: run it in PyTorch"
        if weights == "fp32"
        else "take other --activations, texts like its own with --calibrate, or --weights fp32"
    )
    return (
        "no ONNX file was written: what ONNX Runtime computes with it is "
        f"{off}, beside what PyTorch computes with the checkpoint; {advice}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what only authors of exporters want to read, and the load report of transformers."""
    loggers = [logging.getLogger(name) for name in ("transformers", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
