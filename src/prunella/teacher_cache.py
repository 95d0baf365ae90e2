"""A teacher's outputs on a task, computed once and kept on disk.

The outputs of an example do not change between epochs. They are stored as they are first met, in
arrays that the operating system maps into memory, so the cache costs no memory that is needed
elsewhere, survives a killed run, and gives the same bits in every epoch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunella.data.task_batches import EncodedTask, places
from prunella.distillation import Features, Wanted
from prunella.errors import InputError
from prunella.training.mlm import Teacher

_RELATIONS = ("query", "key", "value")


class TeacherCache:
    """Features of a frozen teacher for the sequences of one task.

    Args:
        teacher: The model behind the cache.
        wanted: What is asked of it.
        encoded: The sequences; rows of `index` in a batch mean these.
        folder: Where the arrays lie; they belong to this teacher and these sequences alone.
        gigabytes: Above this size only the logits are kept and the rest is computed each time.

    Disk: 4 bytes a logit; 2 bytes (float16) a token, compared layer and unit of width.

    Raises:
        InputError: If there is no room for the arrays.
    """

    def __init__(
        self, teacher: Teacher, wanted: Wanted, encoded: EncodedTask, folder: Path, gigabytes: float
    ) -> None:
        config = teacher.model.config
        folder.mkdir(parents=True, exist_ok=True)
        self.teacher, self.wanted = teacher, wanted
        self.offsets, self.output_offsets = encoded.offsets, encoded.output_offsets
        self.slices = len(wanted.hidden) + (len(_RELATIONS) if wanted.relation is not None else 0)
        tokens, width = int(encoded.offsets[-1]), config.hidden_size
        self.bytes = tokens * self.slices * width * 2
        self.keeps_states = 0 < self.bytes <= gigabytes * 1e9
        outputs = (int(self.output_offsets[-1]), config.num_labels)
        sizes = {"tokens": tokens, "outputs": outputs, "states": self.keeps_states}
        with _lock(folder):
            _discard_others(folder, {**asdict(wanted), **sizes})
            self.done = _array(folder / "done.bin", np.dtype(np.uint8), (len(encoded),))
            self.logits = _array(folder / "logits.bin", np.dtype(np.float32), outputs)
            self.states = (
                _array(folder / "states.bin", np.dtype(np.float16), (tokens, self.slices, width))
                if self.keeps_states
                else None
            )

    def fill(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Computes what is missing of the examples in these batches, ahead of the training.

        Several processes that share the folder each do a part. Later none of them computes
        anything, so that no two can meet an example at once and store it with other last bits.
        """
        if not (self.wanted.logits or self.keeps_states):
            return
        for inputs in batches:
            if (self.done[inputs["index"].numpy()] == 0).any():
                self.features(inputs)

    def features(self, inputs: Mapping[str, Tensor]) -> Features:
        """The teacher's features of a batch, from the cache as far as they are in it."""
        index = inputs["index"].cpu().numpy()
        missing = self.done[index] == 0
        needs_states = self.slices > 0 and not self.keeps_states
        if missing.any() or needs_states:
            live = self.teacher.features(inputs, self.wanted, None)
            if missing.any():
                self._store(index, missing, live, inputs["attention_mask"])
            if needs_states:
                live.logits = self._cached_logits(index, inputs)
                return _rounded(live)
        return self._load(index, inputs)

    def _store(self, index: np.ndarray, missing: np.ndarray, live: Features, mask: Tensor) -> None:
        if live.logits is not None:
            outputs = live.logits.float().cpu().numpy()
            taken = _each(missing, index, self.output_offsets)
            self.logits[places(self.output_offsets, index[missing])] = outputs[taken]
        if self.states is not None:
            real = mask.bool()
            relations = [live.relations[r][real] for r in _RELATIONS if r in live.relations]
            rows = torch.stack([*live.hidden, *relations], dim=1).to(torch.float16).cpu().numpy()
            taken = _each(missing, index, self.offsets)
            self.states[places(self.offsets, index[missing])] = rows[taken]
        self.done[index[missing]] = 1  # last: a killed run must not believe half a row

    def _load(self, index: np.ndarray, inputs: Mapping[str, Tensor]) -> Features:
        found = Features(self._cached_logits(index, inputs))
        if self.states is None:
            return found
        device = inputs["input_ids"].device
        rows = torch.from_numpy(self.states[places(self.offsets, index)]).to(device)
        hidden = len(self.wanted.hidden)
        found.hidden = [rows[:, i] for i in range(hidden)]
        if self.wanted.relation is not None:
            real = inputs["attention_mask"].bool()
            for i, role in enumerate(_RELATIONS):
                padded = rows.new_zeros(*real.shape, rows.shape[-1])
                padded[real] = rows[:, hidden + i]
                found.relations[role] = padded
        return found

    def _cached_logits(self, index: np.ndarray, inputs: Mapping[str, Tensor]) -> Tensor | None:
        if not self.wanted.logits:
            return None
        found = self.logits[places(self.output_offsets, index)]
        return torch.from_numpy(found).to(inputs["input_ids"].device)


def _rounded(live: Features) -> Features:
    """As if kept on disk: --cache-gigabytes must not change what is learned."""
    live.hidden = [state.to(torch.float16) for state in live.hidden]
    live.relations = {role: state.to(torch.float16) for role, state in live.relations.items()}
    return live


def _each(flags: np.ndarray, index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The flag of each sequence, once for each of its entries."""
    return np.repeat(flags, offsets[index + 1] - offsets[index])


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Another process on this machine may open the cache at the same moment."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _discard_others(folder: Path, layout: Mapping[str, Any]) -> None:
    """Removes arrays of another layout: their `done` would vouch for states that are not there."""
    record = folder / "layout.json"
    if not record.exists() or record.read_text() != json.dumps(layout):
        for array in folder.glob("*.bin"):
            array.unlink()
        record.write_text(json.dumps(layout))


def _array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped array, new and zero unless one of that size is there.

    Its room is taken at once: a disk that fills up under a mapped file kills the process.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size and (not path.exists() or path.stat().st_size != size):
        try:
            with path.open("wb") as stream:
                _allocate(stream.fileno(), size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise InputError(
                f"{path}: no room for {size / 1e9:.3g} GB of the teacher's outputs "
                f"({error.strerror}); free some space or lower --cache-gigabytes"
            ) from error
    return np.memmap(path, dtype, "r+", shape=shape) if size else np.zeros(shape, dtype)


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
