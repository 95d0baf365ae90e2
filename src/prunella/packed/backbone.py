"""What a file says of the backbone that it builds on: whose tensors it leaves out, and which.

A mask says which weights of a backbone stay; a difference holds only the tensors that are not the
backbone's. Both mean nothing without that very backbone, so both name it by its hash.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.errors import InputError
from prunella.packed.layout import Malformed
from prunella.packed.read import PackedFile

DIFFERENCE = "difference"
_HASH_LENGTH = 64


@dataclass(frozen=True)
class Backbone:
    """The backbone of a file.

    Attributes:
        sha256: Of its checkpoint (`Checkpoint.weights_hash`).
        prefix: What stands before the names of its tensors in the model that the file makes of it,
            "bert."; a bare encoder's checkpoint leaves it out.
        left_out: Tensors of it, under their names in that model, that the model does without.
    """

    sha256: str
    prefix: str
    left_out: frozenset[str]

    def name_of(self, name: str) -> str:
        """What a tensor of the backbone is called in the model."""
        return name if name.startswith(self.prefix) else self.prefix + name

    def taken(self, name: str, own: Collection[str]) -> str | None:
        """As `name_of`; None for what the model does without, or the file holds itself (`own`)."""
        full = self.name_of(name)
        return None if full in self.left_out or full in own else full

    def check(self, found: str | None, path: str | Path, file: Path) -> None:
        """Refuses another backbone.

        Args:
            found: Hash of the backbone at hand.
            path: Where it lies.
            file: The file that builds on a backbone.

        Raises:
            InputError: If it is another.
        """
        if found != self.sha256:
            raise InputError(
                f"{file}: was made from another backbone than {path} (the hash of its "
                f"configuration and weights is {self.sha256[:12]}, there {str(found)[:12]}); give "
                "the checkpoint that it was made from, unchanged"
            )

    def to_json(self) -> dict[str, Any]:
        """Its part of a file's metadata."""
        return {
            "backbone_sha256": self.sha256,
            "prefix": self.prefix,
            "left_out": sorted(self.left_out),
        }


def backbone_of(packed: PackedFile) -> Backbone:
    """The backbone that a file names.

    Raises:
        Malformed: If what it says of it makes no sense.
    """
    sha256, prefix = packed.metadata.get("backbone_sha256"), packed.metadata.get("prefix")
    if not isinstance(sha256, str) or len(sha256) != _HASH_LENGTH:
        raise Malformed("it names no backbone")
    if not isinstance(prefix, str):
        raise Malformed("its prefix is no text")
    return Backbone(sha256, prefix, names_in(packed, "left_out"))


def names_in(packed: PackedFile, key: str) -> frozenset[str]:
    """A list of names in a file's metadata.

    Raises:
        Malformed: If it is none.
    """
    found = packed.metadata.get(key)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise Malformed(f"its {key} is no list of names")
    return frozenset(found)


def is_difference(packed: PackedFile) -> bool:
    """Whether a packed file holds only what differs from a backbone."""
    return packed.metadata.get("kind") == DIFFERENCE


def check_whole(packed: PackedFile) -> None:
    """Refuses a difference where a whole model is needed.

    Raises:
        InputError: If it is one.
    """
    if is_difference(packed):
        raise InputError(
            f"{packed.path}: holds only what differs from its backbone; make the model whole with "
            f"`prunella unpack --model {packed.path} --backbone BACKBONE --out FOLDER`, then pack "
            "FOLDER"
        )
