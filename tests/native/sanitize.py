"""Builds the engine with a sanitizer and runs its tests under it.

    python tests/native/sanitize.py address     # and undefined behaviour
    python tests/native/sanitize.py thread

Needs GCC on Linux, CMake and nanobind; `make sanitize` sees to these. More arguments go to pytest.
The exit code is not 0 if a test fails or the sanitizer finds anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = ("test_kernels", "test_limits", "test_compiled", "test_threads")


@dataclass(frozen=True)
class Sanitizer:
    """How a sanitizer is built in and run.

    Attributes:
        flags: Of the compiler.
        libraries: That must be loaded before Python.
        environment: Its options.
        without: Tests that cannot run under it, as pytest's -k wants them.
    """

    flags: str
    libraries: tuple[str, ...]
    environment: dict[str, str]
    without: str


SANITIZERS = {
    # Python leaks on purpose when it ends. Freed memory is kept, so that its size tells nothing.
    "address": Sanitizer(
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"},
        "not without_a_trace",
    ),
    # Threads that a forked child starts are beyond this sanitizer.
    "thread": Sanitizer(
        "thread",
        ("libtsan.so",),
        {"TSAN_OPTIONS": f"suppressions={HERE / 'thread.supp'}:exitcode=66"},
        "not without_a_trace and not fork and not child",
    ),
}


def main(name: str, *arguments: str) -> int:
    """Builds and runs; the exit code."""
    sanitizer = SANITIZERS[name]
    module = build(name, sanitizer)
    environment = {
        **os.environ,
        **sanitizer.environment,
        # libstdc++ too, or exceptions would be thrown before the sanitizer knows of them.
        "LD_PRELOAD": " ".join(runtime(file) for file in (*sanitizer.libraries, "libstdc++.so")),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{HERE}",
        "PRUNELLA_NATIVE": str(module),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    tests = [str(ROOT / "tests" / "engine" / f"{test}.py") for test in TESTS]
    # Reports go to stderr, which pytest must not keep for itself, as they end the process.
    options = ["-p", "sanitized", "--capture=no", "--timeout=1200", "-k", sanitizer.without]
    command = [sys.executable, "-m", "pytest", *options, *tests, *arguments]
    # The thread sanitizer wants memory where it was without randomness.
    fixed = ["setarch", "-R"] if name == "thread" and shutil.which("setarch") else []
    return subprocess.run([*fixed, *command], cwd=ROOT, env=environment).returncode


def build(name: str, sanitizer: Sanitizer) -> Path:
    """The module, built in a folder of its own."""
    folder = ROOT / "build" / "sanitize" / name
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        raise SystemExit("needs CMake: python -m pip install cmake")
    definitions = {"PRUNELLA_SANITIZE": sanitizer.flags, "Python_EXECUTABLE": sys.executable}
    defined = [f"-D{key}={value}" for key, value in definitions.items()]
    subprocess.run([cmake, "-S", ROOT, "-B", folder, *defined], env=environment, check=True)
    subprocess.run([cmake, "--build", folder, "--parallel", "2"], env=environment, check=True)
    return next(folder.glob("_native*.so"))


def runtime(library: str) -> str:
    """Where the compiler has a library."""
    compiler = os.environ.get("CXX", "c++")
    run = subprocess.run(
        [compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True
    )
    found = Path(run.stdout.strip())
    if not found.is_absolute():
        raise SystemExit(f"{compiler} has no {library}; this needs GCC with its sanitizers")
    return str(found.resolve())


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SANITIZERS:
        raise SystemExit(__doc__)
    raise SystemExit(main(*sys.argv[1:]))
