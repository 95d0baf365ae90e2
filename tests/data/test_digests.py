import hashlib
import os
from pathlib import Path

import pytest

from prunella.data import digests
from prunella.data.digests import contents_digest, user_cache


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, and that has not been changed for an hour."""
    monkeypatch.setattr(digests, "REMEMBERED_FROM", 10)
    monkeypatch.setattr(digests, "_SETTLED", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    path.write_bytes(b"twenty bytes of text")
    return path


def sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def test_a_large_file_is_hashed_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contents_digest(large) == sha256(b"twenty bytes of text")
    monkeypatch.setattr(digests, "_hash", lambda path: pytest.fail("hashed again"))
    assert contents_digest(large) == sha256(b"twenty bytes of text")


def test_a_change_is_seen(large: Path) -> None:
    contents_digest(large)
    times = large.stat()
    large.write_bytes(b"twenty bytes of TEXT")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # as some tools put them back
    assert contents_digest(large) == sha256(b"twenty bytes of TEXT")


def test_what_was_just_written_is_not_remembered(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 60.0)
    contents_digest(large)
    assert not (user_cache() / "digests").exists()


def test_small_files_leave_no_trace(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "REMEMBERED_FROM", 21)
    assert contents_digest(large) == sha256(b"twenty bytes of text")
    assert not user_cache().exists()


def test_a_damaged_note_or_a_cache_that_cannot_be_written(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents_digest(large)
    (note,) = (user_cache() / "digests").iterdir()
    for damage in (b"", b"\xff" * 64, b"abc"):
        note.write_bytes(damage)
        assert contents_digest(large) == sha256(b"twenty bytes of text")
    monkeypatch.setenv("XDG_CACHE_HOME", str(large))  # a file, no folder
    assert contents_digest(large) == sha256(b"twenty bytes of text")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        contents_digest(tmp_path / "none")
