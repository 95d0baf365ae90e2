"""Lower rooms never import higher ones, and the runtime never imports torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine.conftest import tiny  # noqa: F401  (a fixture)

SOURCE = Path(__file__).parent.parent / "src" / "prunella"

# From low to high. A module may import from its own room and from lower ones.
ROOMS = (
    ("errors", "processes", "roles", "quiet"),
    ("settings", "packed", "together"),
    ("checkpoint", "grid", "validation", "report"),
    ("backbones", "hub"),
    (
        "workspace",
        "packing",
        "mask_application",
        "inspection",
        "sparsity",
        "data",
        "quantization",
        "engine",
        "rows",
        "onnx_graph",
    ),
    ("columns", "prediction_files"),
    ("predicting",),
    ("language_head",),
    ("distillation", "models", "calibration"),
    ("tasks",),
    ("exporting",),
    ("bench",),
    ("training", "study"),
    ("teacher_cache",),
    ("stages",),
    ("verbs", "finished", "recipe", "latency"),
    ("display",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# Known crossings: the loss of a task asks the teacher's cache, which holds a live teacher; the values
# of --score are the names of the files of criteria, which are listed and not imported.
ALLOWED = {("training", "teacher_cache"), ("settings", "sparsity")}
TORCH_FREE = (
    "errors processes together roles quiet settings packed checkpoint grid validation workspace "
    "backbones hub packing inspection "
    "mask_application "
    "engine rows columns prediction_files predicting "
    "bench.run bench.worker bench.engines bench.arms bench.rotation bench.table bench.workloads "
    "verbs finished recipe display cli report.tables report.terminal"
).split()
# What loading a model takes; settings, and with them pydantic, would double its time.
ENGINE_NEEDS = {"engine", "errors", "grid", "packed"}
HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy", "accelerate", "matplotlib")


def imports_of(path: Path, *, top: bool = False) -> set[str]:
    """Dotted names that a module imports; `top` leaves out those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_no_module_imports_a_higher_room(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no place in the house: add it to ROOMS"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "prunella" or len(parts) < 2 or parts[1] not in LEVEL:
            continue
        crossing = (room, parts[1])
        assert LEVEL[parts[1]] <= LEVEL[room] or crossing in ALLOWED, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_runtime_imports_nothing_heavy(name: str) -> None:
    base = SOURCE.joinpath(*name.split("."))
    paths = list(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    assert paths
    for path in paths:
        heavy = {item for item in imports_of(path, top=True) if item.split(".")[0] in HEAVY}
        assert not heavy, f"{path.name} imports {heavy} when it is imported"


@pytest.mark.parametrize("path", sorted(SOURCE.glob("engine/*.py")), ids=lambda p: p.stem)
def test_the_engine_needs_little_of_the_house(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("prunella.")}
    assert rooms <= ENGINE_NEEDS


_WITHOUT_HEAVY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv[2].split())
sys.meta_path.insert(0, Absent())
import prunella
assert "numpy" not in sys.modules
light = {"pydantic", "rich", "cyclopts", "yaml"}
absent |= light
model = prunella.load(sys.argv[1], threads=2)
print(model("a text").label)
absent -= light
from prunella.cli import main
assert main(["predict", sys.argv[1], "--text", "a text"]) == 0
assert main(["bench", sys.argv[1], "--engines", "prunella", "--shapes", "1x4", "--seconds", "0.01",
             "--threads", "1"]) == 0
assert main(["export", sys.argv[1], "--onnx", "o.onnx"]) == 2
"""


def test_a_model_answers_with_nothing_heavy_installed(tiny: Any, tmp_path: Path) -> None:  # noqa: F811
    path = tiny("bert", "SequenceClassification").packed.path
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT_HEAVY, str(path), " ".join(HEAVY)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    label = done.stdout.splitlines()[0]
    assert f'"label": "{label}"' in done.stdout
    assert 'install "prunella[train]"' in " ".join(done.stderr.split())
