"""Checkpoints: Hugging Face model directories with `prunella.json` beside the weights.

Everything here reads files only; no torch. Weights are read straight from the safetensors layout
(8 bytes of header length, a JSON header, raw tensors), because its numpy reader knows no bf16.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import platform
import shutil
import struct
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunella.errors import InputError
from prunella.roles import Role, role_of

PROVENANCE = "prunella.json"
FORMAT = 1
WEIGHTS = "model.safetensors"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_INDEX = "model.safetensors.index.json"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_DTYPES |= {"I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1"}
# numpy has no such types: their bits, and which of these are all 0 in 0.0 and -0.0.
_DTYPES |= {"BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
_VALUE_BITS = {"BF16": 0x7FFF, "F8_E4M3": 0x7F, "F8_E5M2": 0x7F}
# What LayerNorms were called in TensorFlow, and still are in bert-base-uncased and other files.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Above this a header lies: no tensor has so many dimensions or items.
_MOST_DIMENSIONS, _MOST_ITEMS = 32, 1 << 48
_PACKAGES = ("prunella", "torch", "transformers", "accelerate", "torchao", "tokenizers", "numpy")


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `role` is None for what is never pruned."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role | None
    nonzeros: int
    bytes: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def sparsity(self) -> float:
        return 1 - self.nonzeros / self.size if self.size else 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, read lazily."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    @cached_property
    def provenance(self) -> dict[str, Any] | None:
        """The contents of `prunella.json`; None for a checkpoint that others made."""
        path = self.path / PROVENANCE
        return _read_json(path) if path.exists() else None

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the configuration and the weights: what a child names as its parent.

        Old names count as those of today, so that both spellings of a model are one.
        """
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for file in self.weight_files:
            for piece in _with_names_of_today(file):
                digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer's files that are there, each with its name."""
        digest = hashlib.sha256()
        for name in _TOKENIZER:
            file = self.path / name
            if file.exists():
                digest.update(f"{name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files; several of them if an index says so.

        Raises:
            InputError: If the index is damaged or names a file that is not in the folder.
        """
        index = self.path / _INDEX
        if not index.exists():
            return [self.path / WEIGHTS]
        listed = _read_json(index).get("weight_map")
        names = list(listed.values()) if isinstance(listed, dict) else []
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise InputError(f"{index}: its weight_map must name files of this folder")
        files = [self.path / name for name in sorted(set(names))]
        for file in files:
            if not file.exists():
                raise InputError(f"{file}: no such file, but {_INDEX} names it; copy it as well")
        return files

    def arrays(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yields (name, dtype label, raw array) of every tensor, memory-mapped, sorted by name
        within each file. Old names come as those of today.

        bf16 and float8 come as unsigned integers of their width.
        """
        for file in self.weight_files:
            header, start, _ = _safetensors_header(file)
            raw = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)
            for name in sorted(header):
                if name == "__metadata__":
                    continue
                label, shape = header[name]["dtype"], header[name]["shape"]
                begin, end = header[name]["data_offsets"]
                piece = raw[start + begin : start + end]
                yield name, label, piece.view(_DTYPES[label]).reshape(shape)

    @cached_property
    def tensors(self) -> list[TensorInfo]:
        """Every tensor with its count of non-zeros."""
        return [
            TensorInfo(
                name, array.shape, label, _role(name, array), _nonzeros(array, label), array.nbytes
            )
            for name, label, array in self.arrays()
        ]

    def sparsity(self, masked: Collection[str] = ()) -> dict[str, float]:
        """Sparsity of every matrix with a role, and of what else is masked, such as tables."""
        return {t.name: t.sparsity for t in self.tensors if t.role or t.name in masked}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a model directory.

    Raises:
        InputError: If it is not a folder, or lacks config.json or safetensors weights.
    """
    folder = Path(path)
    if folder.is_file():
        raise InputError(
            f"{folder}: is a file, and a model directory is needed; `prunella unpack --model "
            f"{folder} --out FOLDER` makes one of a packed file"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; give a model directory made by save_pretrained"
        )
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: not a model directory, it holds no config.json")
    if not (folder / WEIGHTS).exists() and not (folder / _INDEX).exists():
        raise InputError(
            f"{folder}: no {WEIGHTS} in this model directory; load the model with transformers "
            "and save it again with save_pretrained, which writes safetensors"
        )
    return Checkpoint(folder)


def provenance(
    stage: str,
    settings: Mapping[str, Any],
    *,
    parents: Mapping[str, Checkpoint | None],
    sparsity: Mapping[str, float],
    metrics: Mapping[str, Any],
    seconds: float,
    **more: Any,
) -> dict[str, Any]:
    """What `prunella.json` holds: how this checkpoint came to be.

    Args:
        stage: The verb.
        settings: All of its settings.
        parents: The checkpoints it was made from ("model", "teacher"), by their part.
        sparsity: Share of zeros of every prunable matrix.
        metrics: Figures measured by the stage.
        seconds: Wall time of the stage over all of its runs.
        more: Further blocks ("quantization", "task").
    """
    return {
        "format": FORMAT,
        "stage": stage,
        "settings": dict(settings),
        "parents": {
            part: {
                "path": str(parent.path),
                "sha256": parent.weights_hash,
                "stage": (parent.provenance or {}).get("stage"),
            }
            for part, parent in parents.items()
            if parent is not None
        },
        "sparsity": {"total": None, "matrices": dict(sparsity)},
        "metrics": dict(metrics),
        "seconds": round(seconds, 1),
        "versions": versions(),
        "machine": machine(),
        "command": sys.argv[0:1] and [Path(sys.argv[0]).name, *sys.argv[1:]],
        **more,
    }


def rename_old(folder: Path) -> None:
    """Gives the tensors of a folder the names of today, in its files.

    transformers loads old names, and saves a model under those that it has read.
    """
    for file in Checkpoint(folder).weight_files:
        if not _safetensors_header(file).renamed:
            continue
        draft = file.with_name(file.name + ".tmp")
        with draft.open("wb") as stream:
            for piece in _with_names_of_today(file):
                stream.write(piece)
        os.replace(draft, file)
    index = folder / _INDEX
    if index.exists():
        listed = _read_json(index)
        names = {_name_of_today(name): file for name, file in listed["weight_map"].items()}
        if names.keys() != listed["weight_map"].keys():
            write_json(index, {**listed, "weight_map": names})


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document whole or not at all."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)


def refuse_own_inputs(out: str | Path, inputs: Mapping[str, Path]) -> None:
    """Refuses an OUT that is one of the run's inputs or holds one: it would be destroyed.

    Args:
        out: Where the run writes.
        inputs: Folders and files that it reads, by their part ("model", "teacher").
    """
    target = Path(out).resolve()
    for part, path in inputs.items():
        place = Path(path).resolve()
        if target == place or target in place.parents:
            where = "is" if target == place else f"holds {path},"
            raise InputError(
                f"{out}: {where} the {part} of this run, which --out would replace; choose another "
                "--out"
            )


def publish(draft: Path, final: Path) -> None:
    """Puts a finished folder in its place in one step, replacing an older one.

    Where the system can exchange two folders, one of them is there at every moment. Elsewhere the
    older one waits beside the draft until the new one is in place; if that fails, it goes back.
    Files are as open as their folder: those that safetensors writes are private.
    """
    mode = draft.stat().st_mode & 0o666
    for file in draft.iterdir():
        if file.is_file():
            file.chmod(mode)
    if final.exists() and _exchanged(draft, final):
        shutil.rmtree(draft, ignore_errors=True)  # what is now the older one
        return
    with tempfile.TemporaryDirectory(
        prefix=f"{draft.name}.replaced-", dir=draft.parent, ignore_cleanup_errors=True
    ) as folder:
        older = Path(folder) / final.name
        if final.exists():
            os.rename(final, older)
        try:
            os.rename(draft, final)
        except OSError:
            if older.exists():
                os.rename(older, final)
            raise


def _exchanged(first: Path, second: Path) -> bool:
    """Lets two folders change places at once, if system and file system can (Linux, renameat2)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, its cores and the system, as far as they explain a figure."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # broken UTF-8 is a ValueError as well
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(document).__name__}")
    return document


class _Header(NamedTuple):
    """The header of a safetensors file, its tensors under the names of today.

    `start` is where the data begin, `renamed` whether the file itself has an old name.
    """

    entries: dict[str, Any]
    start: int
    renamed: bool


def _safetensors_header(file: Path) -> _Header:
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                _check_entry(name, entry, size - 8 - length)
        entries: dict[str, Any] = {}
        for name, entry in header.items():
            today = _name_of_today(name)
            if today in entries:
                raise ValueError(f"it holds {today} under an old name as well")
            entries[today] = entry
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"{file}: damaged safetensors file ({error}); copy it again") from None
    return _Header(entries, 8 + length, entries.keys() != header.keys())


def _name_of_today(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _with_names_of_today(file: Path) -> Iterator[bytes]:
    """The bytes of a safetensors file; if it has old names, as it would be with those of today.

    The order of its tensors, and so their place, is the same under either: beta comes before gamma
    as bias does before weight.
    """
    entries, start, renamed = _safetensors_header(file)
    with file.open("rb") as stream:
        if renamed:  # the header as safetensors writes it, filled up to a multiple of 8
            text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
            header = text.encode("utf-8", "surrogatepass")
            header += b" " * (-len(header) % 8)
            yield struct.pack("<Q", len(header)) + header
            stream.seek(start)
        while piece := stream.read(1 << 22):
            yield piece


def _check_entry(name: str, entry: dict[str, Any], room: int) -> None:
    """Checks that a tensor's dtype, shape and place in the `room` bytes of data fit together."""
    label, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if label not in _DTYPES:
        raise ValueError(f"tensor {name} has the unknown dtype {label!r}")
    if not all(type(number) is int and number >= 0 for number in [*shape, begin, end]):
        raise ValueError(f"tensor {name}: shape and offsets must be whole numbers")
    if len(shape) > _MOST_DIMENSIONS or math.prod(n or 1 for n in shape) > _MOST_ITEMS:
        raise ValueError(f"tensor {name} has an impossible shape")
    if not begin <= end <= room:
        raise ValueError(f"tensor {name} lies outside the file")
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[label]).itemsize:
        raise ValueError(f"tensor {name} has another size than its shape says")


def _role(name: str, array: np.ndarray) -> Role | None:
    return role_of(name) if array.ndim == 2 else None


def _nonzeros(array: np.ndarray, label: str) -> int:
    bits = _VALUE_BITS.get(label)
    return int(np.count_nonzero(array if bits is None else array & bits))
