"""What runs against what: the arms of each engine, and the files that they need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors.numpy import save_file

from prunella.bench.engines import pad_id_of
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError
from prunella.grid import SCALES_FILE
from prunella.packed.read import open_packed
from prunella.packing import pack, unpack
from prunella.roles import role_of
from prunella.settings import PackSettings, UnpackSettings

Engine = Literal["prunella", "onnxruntime", "openvino", "pytorch"]
ENGINE_NAMES: tuple[Engine, ...] = get_args(Engine)
_ZEROS, _WEIGHTS = ("dense", "sparse"), ("fp32", "bf16", "int8")
FORMS = tuple(f"{zeros}-{weights}" for zeros in _ZEROS for weights in _WEIGHTS)
# Modules that an engine needs, and the extra that brings them.
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "prunella": (("prunella.engine.compiled",), "reinstall prunella with its engine"),
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript", "transformers"), "train,peers"),
    "openvino": (("openvino", "onnx", "onnxscript", "transformers"), "train,peers"),
    "pytorch": (("torch", "transformers"), "train"),
}


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to run one form of the model in one engine.

    Several arms may share engine and form: the fastest of them counts for each workload.

    Attributes:
        engine: One of `ENGINE_NAMES`.
        form: One of `FORMS`, what the weights hold and how they are kept.
        variant: What sets it apart from other arms of the same engine and form.
        file: What the engine loads.
        options: For `prunella.bench.engines.load`.
    """

    engine: str
    form: str
    variant: str
    file: Path
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.engine, self.form, self.variant)))


def missing_for(engine: str) -> str:
    """Why an engine cannot run here; empty if it can."""
    from importlib.util import find_spec

    modules, remedy = _NEEDS[engine]
    absent = [name for name in modules if find_spec(name) is None]
    if not absent:
        return ""
    advice = remedy if " " in remedy else f'install "prunella[{remedy}]"'
    return f"{', '.join(absent)} not installed; {advice}"


@dataclass
class Files:
    """The model in every form, made in a folder when first asked for."""

    packed: Path
    dense: Path | None
    folder: Path

    def checkpoint(self, zeros: str) -> Path:
        """Checkpoint folder: the packed file's, or a dense one of the same shapes."""
        if zeros == "dense" and self.dense is not None:
            return self.dense
        sparse, dense = self.folder / "sparse", self.folder / "dense"
        if not sparse.exists():
            unpack(UnpackSettings(model=str(self.packed), out=str(sparse)))
        if zeros == "sparse":
            return sparse
        if not dense.exists():
            _fill(sparse, dense)
        return dense

    def prn(self, form: str) -> Path:
        """Packed file of a form; the given one where it is that form already."""
        zeros, weights = form.split("-")
        if zeros == "sparse" and open_packed(self.packed).metadata.get("weights") == weights:
            return self.packed
        out = self.folder / f"{form}.prn"
        if not out.exists():
            source = str(self.checkpoint(zeros))
            pack(PackSettings(model=source, out=str(out), weights=weights))  # pyright: ignore[reportArgumentType]
        return out

    def onnx(self, zeros: str, kind: str) -> Path:
        """ONNX file: fp32, static (QDQ) or dynamic."""
        out = self.folder / f"{zeros}-{kind}.onnx"
        if not out.exists():
            # A process of its own: torch and what it says stay out of this one.
            arguments = [str(self.checkpoint(zeros)), str(self.folder), zeros]
            command = [sys.executable, "-m", "prunella.bench.peer_files", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise InputError(
                    f"{self.packed}: cannot be exported for the other engines ({reason}); "
                    "--engines prunella measures without them"
                )
        return out

    @property
    def pad_id(self) -> int:
        return pad_id_of(open_packed(self.packed).files["config.json"])


def arms_of(engine: str, form: str, files: Files) -> list[Arm]:
    """The arms of an engine for a form; empty if it has none of its own."""
    zeros, weights = form.split("-")
    options: dict[str, Any] = {"pad_id": files.pad_id, "weights": weights}
    if engine == "prunella":
        return [Arm(engine, form, "", files.prn(form), options)]
    if engine == "pytorch":
        variant = "dynamic" if weights == "int8" else ""
        return [Arm(engine, form, variant, files.checkpoint(zeros), options)]
    if weights == "int8":
        made = {kind: files.onnx(zeros, kind) for kind in ("static", "dynamic")}
    else:
        made = {"": files.onnx(zeros, "fp32")}
    if engine == "onnxruntime":
        variants = {"fp32": made[""]} if weights == "bf16" else made  # it has no bf16 on CPUs
        return [Arm(engine, form, name, file, options) for name, file in variants.items()]
    if weights == "int8":  # what stays in floating point may be bf16 or fp32
        hints: tuple[dict[str, str], ...] = ({}, {"INFERENCE_PRECISION_HINT": "f32"})
        file = made["static"]
    else:
        hints = ({"INFERENCE_PRECISION_HINT": "bf16"},) if weights == "bf16" else ({},)
        file = made[""]
    return [
        Arm(engine, form, next(iter(hint.values()), ""), file, options | {"properties": hint})
        for hint in hints
    ]


def default_forms() -> tuple[str, ...]:
    """The four arms: dense and sparse, in floating point and in int8."""
    sparse = "sparse-bf16" if "bf16" in cpu_flags() else "sparse-fp32"
    return ("dense-fp32", "dense-int8", sparse, "sparse-int8")


def cpu_flags() -> set[str]:
    """Parts of the names of this processor's instruction sets, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "")
    return {part for flag in flags.split() for part in (flag, *flag.split("_"))}


def chosen(text: str, known: Sequence[str], flag: str) -> list[str]:
    """The names in a list between commas; all of them if it is empty.

    Raises:
        InputError: If one is not known.
    """
    names = text.replace(",", " ").split()
    for name in names:
        if name not in known:
            raise InputError(f"{flag}: '{name}' is none of {', '.join(known)}")
    return names or list(known)


def _fill(sparse: Path, dense: Path) -> None:
    """A dense checkpoint of the same shapes: zeros become normal values of the others' spread."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, _, array in open_checkpoint(sparse).arrays():
        array = array.copy()
        if role_of(name) and array.ndim == 2:
            zero = array == 0
            spread = float(array[~zero].std()) if not zero.all() else 0.02
            noise = generator.standard_normal(int(zero.sum()), np.float32)
            array[zero] = noise * np.float32(spread or 0.02)
        arrays[name] = array
    dense.mkdir()
    for file in sparse.iterdir():
        if file.name != SCALES_FILE and file.suffix != ".safetensors":
            (dense / file.name).write_bytes(file.read_bytes())
    save_file(arrays, dense / "model.safetensors", metadata={"format": "pt"})


def check_same_shape(packed: Path, dense: Path) -> None:
    """Refuses a dense parent of another architecture.

    Raises:
        InputError: If its encoder matrices have other names or shapes.
    """
    ours = {
        tensor.name: tuple(tensor.shape)
        for tensor in open_packed(packed).header.tensors
        if tensor.role
    }
    found = open_checkpoint(dense)
    theirs = {name: a.shape for name, _, a in found.arrays() if role_of(name) and a.ndim == 2}
    if ours != theirs:
        odd = min(ours.items() ^ theirs.items())
        raise InputError(
            f"--dense {dense}: its matrices are not those of {packed} (the first difference is "
            f"{odd[0]}); give the checkpoint that was pruned, with the same head"
        )
    architectures = json.loads(open_packed(packed).files["config.json"]).get("architectures")
    if found.config.get("architectures") != architectures:
        raise InputError(f"--dense {dense}: has another head than {packed}")
