"""The stub of the native module names what is in the module, and no more."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import prunella.engine
from prunella.engine import _native

STUB = Path(prunella.engine.__file__).parent / "_native.pyi"


def test_the_stub_names_what_the_module_has() -> None:
    assert {name: members(thing) for name, thing in vars(_native).items() if shown(name)} == {
        name: found for name, found in stubbed().items() if name != "KernelEntry"
    }


def test_the_stub_names_the_arguments_of_the_module() -> None:
    for node in ast.walk(ast.parse(STUB.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "Encoder":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                    signature = getattr(_native.Encoder, method.name).__nb_signature__[0][0]
                    assert arguments(method) == re.findall(r"(\w+): ", signature)
        if isinstance(node, ast.FunctionDef) and node.name in ("linear", "multiply"):
            overloads = [text for text, *_ in getattr(_native, node.name).__nb_signature__]
            assert arguments(node) in [re.findall(r"(\w+): ", text) for text in overloads]


def shown(name: str) -> bool:
    return not name.startswith("_")


def members(thing: Any) -> set[str]:
    return {name for name in vars(thing) if shown(name)} if isinstance(thing, type) else set()


def stubbed() -> dict[str, set[str]]:
    """Classes with their members, and functions."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = set()
        elif isinstance(node, ast.ClassDef):
            names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            found[node.name] = {name for name in names if shown(name)}
    return found


def arguments(node: ast.FunctionDef) -> list[str]:
    names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    return [name for name in names if name != "self"]
