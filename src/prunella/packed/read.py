"""Opens a packed file, memory-mapped, and hands out what it holds."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prunella.errors import InputError
from prunella.packed.coding import decode_mask, decompress
from prunella.packed.header import MAX_HEADER, parse
from prunella.packed.layout import (
    DTYPES,
    PREAMBLE_SIZE,
    Header,
    Malformed,
    Section,
    TensorInfo,
    data_start,
    split,
)


@dataclass(frozen=True)
class SparseMatrix:
    """Compressed sparse rows: those of row r lie at `indptr[r] : indptr[r + 1]`.

    Attributes:
        shape: (rows, columns).
        indptr: [rows + 1] int32.
        indices: [nonzeros] int32 columns, rising within a row.
        values: [nonzeros] elements as they are stored (not scaled).
    """

    shape: tuple[int, int]
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray


class Weights(Protocol):
    """The tensors of one model: a packed file, or a packed backbone with a task's mask."""

    @property
    def path(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def files(self) -> Mapping[str, bytes]: ...
    def info(self, name: str) -> TensorInfo: ...
    def tensor(self, name: str) -> np.ndarray: ...
    def sparse(self, name: str) -> SparseMatrix: ...
    def scale(self, name: str) -> np.ndarray | None: ...
    def release(self) -> None: ...


@dataclass(frozen=True, eq=False)
class PackedFile:
    """A packed file, open. Sections are decoded, and their checksums compared, when asked for.

    All arrays are read-only; those stored raw are views of the memory-mapped file, which stays
    open as long as a view of it lives. Safe to use from several threads.

    Attributes:
        header: What the header says, validated.
        header_bytes: Bytes of preamble and header.
        size: Bytes of the whole file.
    """

    path: Path
    header: Header
    header_bytes: int
    size: int
    _data: memoryview

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.header.metadata

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in the order of the file."""
        return tuple(tensor.name for tensor in self.header.tensors)

    @property
    def files(self) -> Mapping[str, bytes]:
        """Name -> contents of the files that it carries."""
        return self._files

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        with _named(self.path):
            found = self.header.files.items()
            return {name: bytes(self._decode(section)) for name, section in found}

    def info(self, name: str) -> TensorInfo:
        """Shape, type, encoding, non-zeros and stored bytes of a tensor."""
        try:
            return self._by_name[name]
        except KeyError:
            raise InputError(
                f"{self.path}: holds no tensor {name!r}; pack the checkpoint again"
            ) from None

    def tensor(self, name: str) -> np.ndarray:
        """The whole tensor, bit for bit as it was written (bf16 as the uint16 of its bits)."""
        info = self.info(name)
        with _named(self.path, name):
            values = self._values(info)
            if info.encoding == "sparse":
                dense = np.zeros(info.elements, values.dtype)
                dense[self._positions(info)] = values
                dense.flags.writeable = False
                values = dense
        return values.reshape(info.shape)

    def values(self, name: str) -> np.ndarray:
        """The stored elements, flat: all of a dense tensor, the non-zeros of a sparse one."""
        info = self.info(name)
        with _named(self.path, name):
            return self._values(info)

    def scale(self, name: str) -> np.ndarray | None:
        """[rows] float32: a weight is its int8 times the scale of its row. None without scales."""
        info = self.info(name)
        if info.scale is None:
            return None
        with _named(self.path, name):
            return np.frombuffer(self._decode(info.scale, width=4), "<f4")

    def sparse(self, name: str) -> SparseMatrix:
        """A matrix as compressed sparse rows, whichever way it is stored.

        Raises:
            ValueError: If the tensor does not have two dimensions.
        """
        info = self.info(name)
        if len(info.shape) != 2:
            raise ValueError(f"{name!r} has shape {info.shape}; only a matrix has rows and columns")
        with _named(self.path, name):
            positions, values = self._nonzeros(info)
        return compressed_rows(positions, values, info.shape)

    def verify(self) -> None:
        """Checks every checksum, decodes every part, and compares the counts of non-zeros.

        Raises:
            InputError: At the first part that is damaged.
        """
        for name in self.header.files:
            with _named(self.path, f"file {name}"):
                self._decode(self.header.files[name])
        for info in self.header.tensors:
            with _named(self.path, info.name):
                if len(self._nonzeros(info)[0]) != info.nonzeros:
                    raise Malformed("it has another number of non-zeros than it claims")
            self.scale(info.name)

    def release(self) -> None:
        """Lets go of the file's pages in memory; what is read again comes back from the disk."""
        whole = self._data.obj
        if isinstance(whole, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            whole.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.header.tensors}

    def _nonzeros(self, info: TensorInfo) -> tuple[np.ndarray, np.ndarray]:
        """(int32 positions, values) of all that is not +0."""
        values = self._values(info)
        if info.encoding == "sparse":
            return self._positions(info), values
        positions = np.flatnonzero(_bits(values)).astype(np.int32)
        return positions, values[positions]

    def _positions(self, info: TensorInfo) -> np.ndarray:
        assert info.mask is not None
        assert info.mask_coding is not None
        mask = np.frombuffer(self._decode(info.mask), np.uint8)
        return decode_mask(mask, info.nonzeros, info.elements, info.mask_coding)

    def _values(self, info: TensorInfo) -> np.ndarray:
        """The stored elements, flat."""
        dtype = DTYPES[info.dtype]
        values = np.frombuffer(self._decode(info.values, dtype.itemsize), dtype)
        if info.encoding == "sparse" and not _bits(values).all():
            raise Malformed("a zero is stored among its non-zeros")
        return values

    def _decode(self, section: Section, width: int = 1) -> memoryview:
        stored = self._data[section.offset : section.offset + section.length]
        if zlib.crc32(stored) != section.crc32:
            raise Malformed("it is damaged: a checksum is wrong")
        return decompress(stored, section.codec, section.size, width)


def compressed_rows(
    positions: np.ndarray, values: np.ndarray, shape: tuple[int, ...]
) -> SparseMatrix:
    """Compressed sparse rows from int32 positions in the flattened matrix, and what lies there."""
    rows, columns = shape
    starts = np.arange(rows + 1, dtype=np.int64) * columns
    indptr = np.searchsorted(positions, starts).astype(np.int32)
    return SparseMatrix((rows, columns), indptr, positions % np.int32(max(columns, 1)), values)


def open_packed(path: str | Path) -> PackedFile:
    """Opens a packed file and checks its header, its layout and its bounds.

    Nothing is decoded yet: the cost is that of the header.

    Raises:
        InputError: If there is no such file, or if it is no intact packed file of this version.
    """
    path = Path(path)
    return read_packed(_map(path), path)


def read_packed(whole: bytes | memoryview, path: Path) -> PackedFile:
    """As `open_packed`, of a file whose bytes are in memory; `path` is what errors call it.

    Raises:
        InputError: If these bytes are no intact packed file of this version.
    """
    whole = memoryview(whole)
    with _named(path):
        raw = split(whole, MAX_HEADER)
        start = data_start(len(raw))
        data = whole[start:]
        header = parse(raw, len(whole) - start, len(whole))
        _check_padding(header, data, whole[PREAMBLE_SIZE + len(raw) : start])
    return PackedFile(path, header, PREAMBLE_SIZE + len(raw), len(whole), data)


def _map(path: Path) -> memoryview:
    """The file in memory; only a regular file, as opening a pipe would wait for ever."""
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "no such file"
            raise InputError(f"{path}: {what}; give a .prn file, as `prunella pack` writes it")
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _check_padding(header: Header, data: memoryview, after_header: memoryview) -> None:
    """All bytes between sections are zero, so that no byte of the file goes unchecked."""
    end, gaps = 0, [after_header]
    for _, section in header.sections():
        gaps.append(data[end : section.offset])
        end = section.offset + section.length
    if any(any(gap) for gap in gaps):
        raise Malformed("it is damaged: the padding between its parts is not zero")


def _bits(values: np.ndarray) -> np.ndarray:
    """Elements as unsigned integers, so that -0.0 differs from +0."""
    return values.view(f"u{values.itemsize}")


@contextmanager
def _named(path: Path, part: str = "") -> Iterator[None]:
    """Turns what is malformed into an error that names the file and says what to do."""
    try:
        yield
    except Malformed as error:
        where = f"{path} ({part})" if part else str(path)
        raise InputError(f"{where}: {error}; {error.advice}") from None
