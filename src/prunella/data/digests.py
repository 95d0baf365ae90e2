"""Hashes of what files hold; that of a large file is remembered until the file changes."""

import contextlib
import hashlib
import os
import time
from pathlib import Path

REMEMBERED_FROM = 1 << 26
"""Smaller files, in bytes, are hashed faster than it takes to care."""

_SETTLED = 2.0
"""Seconds after which a change of a file surely changes its times as well."""


def contents_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file.

    Raises:
        OSError: It cannot be read.
    """
    facts = path.stat()
    if facts.st_size < REMEMBERED_FROM:
        return _hash(path)
    times = (facts.st_mtime_ns, facts.st_ctime_ns)
    key = f"{path.resolve()}|{facts.st_dev}|{facts.st_ino}|{facts.st_size}|{times}"
    note = user_cache() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        remembered = note.read_text(encoding="ascii")
        if len(remembered) == 64:
            return remembered
    digest = _hash(path)
    if time.time() - max(times) / 1e9 > _SETTLED:
        _remember(note, digest)
    return digest


def user_cache() -> Path:
    """prunella/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prunella"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remember(note: Path, digest: str) -> None:
    """Write a note whole or not at all; where it cannot be written, the file is hashed again."""
    draft = note.with_name(f"{note.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(digest, encoding="ascii")
        os.replace(draft, note)
