"""Every hostile file is refused with an error that names it; none crashes, hangs or eats memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from attacks.hostile import attacks
from packed import samples

from prunella.errors import InputError
from prunella.packed.read import open_packed, read_packed
from prunella.packed.write import assemble

HOSTILE = Path("hostile.prn")


@pytest.fixture(scope="module")
def honest() -> bytes:
    return b"".join(assemble(samples.specs(), samples.METADATA, samples.FILES))


def test_hostile_files_are_refused(honest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.prn"
    wrong, names = [], set()
    for name, data, words in attacks(honest):
        assert name not in names, name
        assert data != honest, name
        names.add(name)
        path.write_bytes(data)
        try:
            open_packed(path).verify()
            wrong.append(f"{name}: accepted")
        except InputError as error:
            helps = any(word in str(error) for word in ("pack", "give", "update"))
            if not (words in str(error) and str(path) in str(error) and helps):
                wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)
    assert len(names) > 100


def test_bombs_take_no_memory(honest: bytes) -> None:
    for name, data, _ in attacks(honest):
        if any(word in name for word in ("bomb", "shape", "zeros", "rows", "size", "length")):
            tracemalloc.start()
            with pytest.raises(InputError):
                read_packed(data, HOSTILE).verify()
            assert tracemalloc.get_traced_memory()[1] < 10 << 20, name
            tracemalloc.stop()


def test_truncated_anywhere(honest: bytes) -> None:
    for length in range(len(honest)):
        with pytest.raises(InputError, match=r"cut short|empty"):
            read_packed(honest[:length], HOSTILE)


def test_any_flipped_bit_is_noticed() -> None:
    honest = b"".join(assemble(samples.specs()[:2], {"a": 1}, {"b": b"c"}))
    damaged = bytearray(honest)
    for position in range(len(honest)):
        damaged[position] ^= 1 << position * 5 % 8
        with pytest.raises(InputError):
            read_packed(bytes(damaged), HOSTILE).verify()
        damaged[position] = honest[position]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "missing.prn", tmp_path / "pipe", tmp_path / "loop"):
        with pytest.raises(InputError, match=path.name):
            open_packed(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.prn"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        open_packed(path)
