"""Memory that was freed goes back to the operating system while a model trains."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from prunella.settings import TeachSettings
from prunella.stages.teach import teach

_BLOCK = 64_000  # bytes; glibc maps much larger ones by themselves and returns those at once


def _resident() -> int:
    """Bytes of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other heaps do it by themselves")
def test_holes_in_the_heap_are_given_back(
    tiny_checkpoint: Callable[..., Path], corpus_file: Path, tmp_path: Path
) -> None:
    settings = TeachSettings(
        model=str(tiny_checkpoint("bert", "base")),
        text=(str(corpus_file),),
        out=str(tmp_path / "first"),
        cache=str(tmp_path / "cache"),
        steps=2,
        length=16,
        batch_tokens=64,
        precision="fp32",
        threads=1,
    )
    teach(settings)  # what the libraries take at first is there now
    blocks = [b"x" * _BLOCK for _ in range(4000)]
    rest = blocks[::8]  # between the holes, so that the heap cannot shrink from its end
    del blocks
    before = _resident()
    teach(settings.model_copy(update={"out": str(tmp_path / "second")}))
    assert before - _resident() > 100e6
    assert len(rest) == 500
