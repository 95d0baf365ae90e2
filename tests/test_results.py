"""Figures in documents are those of benchmarks/results, and recipes are valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunella.recipe import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = [*ROOT.glob("recipes/*.yaml"), ROOT / "src/prunella/demo/recipe.yaml"]


def test_the_tables_of_the_documents_are_current() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_results_page_is_current() -> None:
    command = [sys.executable, "-m", "benchmarks.results_page", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.parent.name + "-" + p.name))
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).steps
