"""Many tasks over one packed backbone: each is a mask of bits and a head.

Kernels read a matrix in a layout of their own, so a task that answers has its matrices compiled.
Only the latest ones stay so; the others are bits in their files until they are asked again. Tables
of embeddings are held once, but for tasks that mask them as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from prunella.engine.architecture import HEADS, read_sizes
from prunella.engine.card import Card, read_card
from prunella.engine.compiled import CompiledModel, compile_model
from prunella.engine.matrices import Arithmetic
from prunella.engine.model import Model
from prunella.engine.runner import Floats, Ints
from prunella.errors import InputError
from prunella.packed.mask_file import MASK_FILE, MaskFile, open_mask
from prunella.packed.masked import MaskedFile
from prunella.packed.read import PackedFile, Weights


class Models(Mapping[str, Model]):
    """Models by the name of their task; see `prunella.load`. Safe to use from several threads."""

    def __init__(
        self, models: Mapping[str, Model], masks: Mapping[str, MaskFile], shelf: Shelf
    ) -> None:
        self._models, self._masks, self._shelf = dict(models), masks, shelf

    def __getitem__(self, name: str) -> Model:
        try:
            return self._models[name]
        except KeyError:
            raise KeyError(f"no task {name!r}; there are {', '.join(self._models)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return f"<prunella.Models {', '.join(self._models)}>"

    @property
    def memory(self) -> int:
        """Bytes of weights held: shared tables once, matrices of compiled tasks, and all masks.

        A task whose mask takes from the tables has tables of its own.
        """
        held = self._shelf.held()
        own = {name for name in held if self._masks[name].masks_tables}
        shared = max((held[name].tables for name in held.keys() - own), default=0)
        tables = shared + sum(held[name].tables for name in own)
        matrices = sum(model.memory - model.tables for model in held.values())
        return tables + matrices + sum(mask.packed.size for mask in self._masks.values())


class Shelf:
    """The compiled models that stay in memory: the latest `room` that were asked for."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = Lock()
        self._models: OrderedDict[str, CompiledModel] = OrderedDict()

    def get(self, name: str, make: Callable[[], CompiledModel]) -> CompiledModel:
        """The one of this name; made, in the place of the longest unused, if it is not there."""
        with self._lock:
            if name not in self._models:
                while len(self._models) >= self._room:
                    self._models.popitem(last=False)  # first, so that both are never there at once
                self._models[name] = make()
            self._models.move_to_end(name)
            return self._models[name]

    def held(self) -> dict[str, CompiledModel]:
        """Those in memory, by task, the longest unused first."""
        with self._lock:
            return dict(self._models)


class ShelvedRunner:
    """A `Runner` that is compiled when it is asked, if it is not on the shelf."""

    def __init__(
        self,
        name: str,
        weights: Weights,
        card: Card,
        shelf: Shelf,
        make: Callable[[], CompiledModel],
    ) -> None:
        self._name, self._shelf, self._make = name, shelf, make
        self.hidden = read_sizes(card).hidden
        head = HEADS[card.family].get(card.head or "", ())
        self.width = weights.info(f"{head[-1].module}.weight").shape[0] if head else self.hidden

    @property
    def memory(self) -> int:
        return self._compiled().memory

    def run(self, ids: Ints, types: Ints, lengths: Ints, rows: Ints) -> Floats:
        return self._compiled().run(ids, types, lengths, rows)

    def hidden_states(self, ids: Ints, types: Ints, lengths: Ints) -> Floats:
        return self._compiled().hidden_states(ids, types, lengths)

    def describe(self) -> list[dict[str, Any]]:
        return self._compiled().describe()

    def _compiled(self) -> CompiledModel:
        return self._shelf.get(self._name, self._make)


def load_tasks(
    backbone: PackedFile,
    masks: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    threads: int,
    resident: int,
    task: str | None,
    batch_tokens: int,
    isa: str | None,
    weights: Arithmetic | None,
) -> Models:
    """A model for each mask; see `prunella.load`.

    Raises:
        InputError: If a mask is missing, damaged or of another backbone, or two have one name.
    """
    if not isinstance(resident, int) or resident < 1:
        raise InputError(f"resident must be a whole number above 0, not {resident}")
    shelf = Shelf(resident)
    tables: dict[str, np.ndarray] = {}
    files = {name: open_mask(path) for name, path in _named(masks).items()}
    models: dict[str, Model] = {}
    for name, file in files.items():
        masked = MaskedFile(backbone, file, tables)

        def make(masked: MaskedFile = masked) -> CompiledModel:
            return compile_model(masked, threads, isa=isa, weights=weights)

        runner = ShelvedRunner(name, masked, read_card(masked), shelf, make)
        models[name] = Model(masked, runner, task=task, batch_tokens=batch_tokens)
    return Models(models, files, shelf)


def _named(masks: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, str | Path]:
    """Masks by the names of their tasks: as given, or those of the files.

    A file that is called as `prunella mask` calls all of them has the name of its folder.
    """
    files = masks.values() if isinstance(masks, Mapping) else masks
    alone = isinstance(masks, (str, Path)) or not isinstance(files, Iterable)
    if alone or not all(isinstance(path, (str, Path)) for path in files):
        raise InputError(f"masks must be a list of files or a mapping to files, not {masks!r}")
    if isinstance(masks, Mapping):
        return dict(masks)
    found: dict[str, str | Path] = {}
    for path in masks:
        place = Path(path).absolute()
        name = place.parent.name if place.name == MASK_FILE else place.stem
        if name in found:
            raise InputError(
                f"masks: {found[name]} and {path} would both be called {name!r}; name them: "
                'masks={"name": "file", ...}'
            )
        found[name] = path
    return found
