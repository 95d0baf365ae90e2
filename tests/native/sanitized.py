"""A pytest plugin: the native module is the one that PRUNELLA_NATIVE names; see sanitize.py."""

import importlib.util
import os
import sys

NAME = "prunella.engine._native"

_spec = importlib.util.spec_from_file_location(NAME, os.environ["PRUNELLA_NATIVE"])
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[NAME] = _module
_spec.loader.exec_module(_module)

import prunella.engine  # noqa: E402

prunella.engine._native = _module  # type: ignore[attr-defined]
