"""Sub-networks: the masks of checkpoints, packed files and mask files, a matrix at a time."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.errors import InputError
from prunella.grid import load_scales
from prunella.packed.backbone import check_whole
from prunella.packed.mask_file import MASK_FILE, MaskFile, is_mask, open_mask
from prunella.packed.read import PackedFile, open_packed
from prunella.packing import SPARSE_FROM
from prunella.roles import ROLES, is_embedding, layer_of, role_of

EMBEDDINGS = "embeddings"
COMPONENTS = (EMBEDDINGS, *ROLES)
# numpy has no such types: all bits but the sign, which makes a -0.0 a zero.
_VALUE_BITS = {"BF16": 0x7FFF, "F8_E4M3": 0x7F, "F8_E5M2": 0x7F}


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in a model, whatever its family calls it.

    Attributes:
        layer: Index of its layer; None outside the stack.
        component: One of `COMPONENTS`.
        part: What tells matrices of one place apart: the name of an embedding table.
    """

    layer: int | None
    component: str
    part: str = ""

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"layer {self.layer} "
        return f"{layer}{self.part or self.component}".replace("_", " ")

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """Embeddings, then layer by layer in the order of the components, then the pooler."""
        outside = self.layer is None and self.component != EMBEDDINGS
        layer = -1 if self.layer is None else self.layer
        return outside, layer, COMPONENTS.index(self.component), self.part


@dataclass(frozen=True, eq=False)
class Network:
    """A sub-network: which weights of which matrices are kept.

    Attributes:
        name: Short, and different from those of the others.
        path: Folder or file.
        shapes: (outputs, inputs) of every matrix; an embedding table has a row for each entry.
        layers: Of the model; a mask may leave some whole, and does not hold them.
        heads: Attention heads of a layer; None if the configuration does not say.
        record: Provenance: the stage, its settings, its parents; empty for what others made.
        read: The mask of a matrix, bool, True where the weight is not zero; all of it where only
            rounding made zeros.
        biased: Where a matrix's bias is not zero, [outputs]; None if the file does not hold it.
        names_pruned: Whether it names what is pruned alone, as a mask does: the rest is whole.
    """

    name: str
    path: Path
    shapes: Mapping[Place, tuple[int, int]]
    layers: int
    heads: int | None
    record: Mapping[str, Any]
    read: Callable[[Place], np.ndarray] = field(repr=False)
    biased: Callable[[Place], np.ndarray | None] = field(repr=False)
    names_pruned: bool = False


def open_networks(paths: Sequence[str]) -> list[Network]:
    """Opens sub-networks that can be compared.

    Raises:
        InputError: If one cannot be read or holds no matrices, is named twice, or has other
            matrices than the first.
    """
    if not paths:
        raise InputError("nothing to study; name checkpoint folders, packed files or masks")
    resolved = [Path(path).expanduser().resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise InputError(f"{twice}: named twice; name each sub-network once")
    # All masks have one file name; what tells them apart is the folder.
    places = [path.parent if path.name == MASK_FILE else path for path in resolved]
    unlike = list(dict.fromkeys(places))
    short = dict(zip(unlike, short_names(unlike), strict=True))
    names = [
        f"{short[place]}/{MASK_FILE}" if path != place in resolved else short[place]
        for path, place in zip(resolved, places, strict=True)
    ]
    networks = [_open(Path(path), name) for path, name in zip(paths, names, strict=True)]
    for other in networks[1:]:
        _check_alike(networks[0], other)
    return networks


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell all apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _open(path: Path, name: str) -> Network:
    """The one place that knows kinds of files: another kind is another branch here."""
    if path.is_dir():
        return _of_folder(open_checkpoint(path), name)
    if path.is_file():
        packed = open_packed(path)
        check_whole(packed)
        return _of_mask(open_mask(path), name) if is_mask(packed) else _of_packed(packed, name)
    raise InputError(f"{path}: no such file or folder; give a checkpoint, a packed file or a mask")


def _of_folder(checkpoint: Checkpoint, name: str) -> Network:
    arrays = {tensor: (array, label) for tensor, label, array in checkpoint.arrays()}
    tensors = _placed({n: array.shape for n, (array, _) in arrays.items()}, checkpoint.path)
    scaled = bool(load_scales(checkpoint.path))  # tables may be rounded as well, and are not in it

    def nonzero(tensor: str) -> np.ndarray:
        array, label = arrays[tensor]
        bits = _VALUE_BITS.get(label)
        kept = (array if bits is None else array & bits) != 0
        _release(array)
        return np.asarray(kept)

    def read(place: Place) -> np.ndarray:
        tensor = tensors[place]
        return _chosen(nonzero(tensor), scaled or arrays[tensor][1] == "I8")

    def biased(place: Place) -> np.ndarray | None:
        bias = _bias(tensors[place])
        return nonzero(bias) if bias in arrays else np.zeros(shapes[place][0], np.bool_)

    shapes = {place: _two(arrays[tensor][0].shape) for place, tensor in tensors.items()}
    return Network(
        name,
        checkpoint.path,
        shapes,
        _layers(shapes),
        _heads(checkpoint.config),
        checkpoint.provenance or {},
        read,
        biased,
    )


def _of_packed(packed: PackedFile, name: str) -> Network:
    tensors = _placed({n: packed.info(n).shape for n in packed.names}, packed.path)
    config = _json(packed.files.get("config.json", b"{}"), packed.path)
    record = _json(packed.files.get("prunella.json", b"{}"), packed.path)

    def read(place: Place) -> np.ndarray:
        matrix = packed.sparse(tensors[place])
        kept = np.zeros(matrix.shape, np.bool_)
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        kept[rows, matrix.indices] = _nonzero(matrix.values)  # -0.0 is stored, and is a zero
        packed.release()
        # What was quantised may be packed as fp32.
        was_rounded = bool(record.get("quantization")) and place.component != EMBEDDINGS
        return _chosen(kept, was_rounded or packed.info(tensors[place]).dtype == "int8")

    def biased(place: Place) -> np.ndarray | None:
        bias = _bias(tensors[place])
        if bias not in packed.names:
            return np.zeros(shapes[place][0], np.bool_)
        return _nonzero(packed.tensor(bias))

    shapes = {place: _two(packed.info(tensor).shape) for place, tensor in tensors.items()}
    return Network(name, packed.path, shapes, _layers(shapes), _heads(config), record, read, biased)


def _nonzero(values: np.ndarray) -> np.ndarray:
    """Which values are not zero; bf16 comes as its bits, whose first one is the sign."""
    return np.asarray((values & 0x7FFF if values.dtype == np.uint16 else values) != 0)


def _of_mask(mask: MaskFile, name: str) -> Network:
    """What a mask removes of its backbone; what the backbone itself lacks it does not know."""
    masked = {n: mask.info(n).shape for n in mask.masked}
    tensors = _placed(masked, mask.path)
    if all(place.layer is None for place in tensors):
        raise InputError(f"{mask.path}: masks no matrix of a layer, so there is nothing to study")

    def read(place: Place) -> np.ndarray:
        return mask.kept(tensors[place])

    def biased(place: Place) -> np.ndarray | None:
        bias = _bias(tensors[place])
        return np.asarray(mask.packed.tensor(bias) != 0) if bias in mask.own else None

    shapes = {place: _two(masked[tensor]) for place, tensor in tensors.items()}
    config = _json(mask.packed.files.get("config.json", b"{}"), mask.path)
    task = mask.packed.metadata.get("task")
    record = {"stage": "mask", "task": task, "mask": mask.learned}
    said = config.get("num_hidden_layers") or config.get("n_layers")
    layers = said if isinstance(said, int) else _layers(shapes)
    return Network(name, mask.path, shapes, layers, _heads(config), record, read, biased, True)


def _chosen(kept: np.ndarray, rounded: bool) -> np.ndarray:
    """A mask without the zeros that only rounding made.

    Rounding a dense matrix to int8 makes 1 to 2 % zeros, which nobody chose: it counts as dense
    where `pack` stores it as dense.
    """
    dense = rounded and np.count_nonzero(kept) > (1 - SPARSE_FROM) * kept.size
    return np.ones_like(kept) if dense else kept


def _bias(weight: str) -> str:
    """The name of the bias that belongs to a matrix."""
    return weight.removesuffix("weight") + "bias"


def _placed(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[Place, str]:
    """The name of the matrix at each place, in the order of the model."""
    found: dict[Place, str] = {}
    for name in sorted(shapes):
        place = _place(name)
        if place is None or len(shapes[name]) != 2 or 0 in shapes[name]:
            continue
        if place in found:  # two encoders in one model: tell them apart by all of the name
            place = Place(place.layer, place.component, name.removesuffix(".weight"))
        found[place] = name
    if not any(place.component != EMBEDDINGS for place in found):
        raise InputError(f"{path}: no matrix of an encoder in it, so there is nothing to study")
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def _place(name: str) -> Place | None:
    role = role_of(name)
    if role is not None:
        return Place(layer_of(name), role)
    if is_embedding(name) and name.endswith(".weight"):
        return Place(None, EMBEDDINGS, name.removesuffix(".weight").rpartition(".")[2])
    return None


def _check_alike(first: Network, other: Network) -> None:
    differing: Iterable[Place] = (
        place
        for place in first.shapes.keys() & other.shapes.keys()
        if first.shapes[place] != other.shapes[place]
    )
    # A head may bring a pooler along, and vocabularies grow: layers are what must agree.
    for place in sorted(differing, key=lambda place: place.order):
        if place.component != EMBEDDINGS:
            raise InputError(
                f"{other.path}: {place} is {_times(other.shapes[place])}, in {first.path} it is "
                f"{_times(first.shapes[place])}; study models of one architecture together"
            )
    if first.layers != other.layers:
        raise InputError(
            f"{other.path}: has {other.layers} layers, {first.path} has {first.layers}; study "
            "models of one architecture together"
        )


def _layers(shapes: Mapping[Place, Any]) -> int:
    return len({place.layer for place in shapes} - {None})


def _heads(config: Mapping[str, Any]) -> int | None:
    found = config.get("num_attention_heads") or config.get("n_heads")
    return found if isinstance(found, int) and found > 0 else None


def _release(array: np.ndarray) -> None:
    """Lets go of a mapped file's pages, which would otherwise count as memory of this process."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: carries a file that is no JSON ({error})") from None
    return document if isinstance(document, dict) else {}


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns


def _times(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
