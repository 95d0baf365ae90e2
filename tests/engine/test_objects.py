"""What the linker may take from files that are compiled for an instruction set.

An inline function of a header, compiled there and not inlined, is a weak symbol: the linker keeps one of the
copies for the whole program, and an older processor would stop at it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [Path(folder) for folder in os.environ.get("PRUNELLA_BUILD", "").split(":") if folder]
FOLDERS = FOLDERS or [ROOT / "build"]
WITH_FLAGS = re.compile(r"(avx2|avx512|amx)[^/]*\.cpp\.o(bj)?$")
OBJECTS = sorted(
    path
    for folder in FOLDERS
    for path in folder.glob("**/_native.dir/**/*.o*")
    if WITH_FLAGS.search(path.name)
    and "_layout.cpp" not in path.name
    and "sanitize" not in path.parts  # for tests alone
)


def weak_symbols(lines: str) -> list[str]:
    """Names of weak and unique symbols that an object defines, from the lines of nm."""
    found = re.findall(r"^[0-9a-f]+ [VWu] (.+)$", lines, re.MULTILINE)
    # Constants of the compiler's own, such as DW.ref.__gxx_personality_v0, are no code.
    return [name for name in found if not name.startswith("DW.ref.")]


def test_weak_symbols_are_found_in_the_lines_of_nm():
    lines = (
        "0000000000000000 T multiply\n"
        "0000000000000000 W std::vector<int>::vector()\n"
        "                 w __gmon_start__\n"
        "0000000000000000 V DW.ref.__gxx_personality_v0\n"
        "0000000000000010 u table\n"
        "                 U memcpy\n"
    )
    assert weak_symbols(lines) == ["std::vector<int>::vector()", "table"]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not OBJECTS, reason="needs a build folder: build/, or PRUNELLA_BUILD")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_no_weak_symbols_in_files_with_flags(path):
    run = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True)
    assert weak_symbols(run.stdout) == []
