"""Recipes: a YAML list of stages, the same stages as on the command line.

    name: sst2
    out: runs/sst2
    vars: {base: path/to/model}
    steps:
      - prune: {model: "${base}", out: "${out}/sparse", ...}
      - transfer: {model: "${out}/sparse", ...}

`${out}` and the variables are filled in anywhere in the strings of the steps. Everything is
checked before anything runs; steps whose checkpoint or file is there already, made with the same
settings and of the same files, are passed over, so the same command resumes a recipe that was
interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from prunella.errors import InputError
from prunella.finished import run_once, target_of
from prunella.settings import Settings
from prunella.together import main_only
from prunella.validation import parse_settings, suggestion
from prunella.verbs import VERBS, Verb

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class RecipeFile(Settings):
    """The keys of a recipe file."""

    name: str
    """Name of the recipe."""
    about: str = ""
    """What it shows, for the reader."""
    out: str
    """Folder that its checkpoints go to; ${out} in the steps."""
    vars: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Values used in the steps as ${name}; overridden with --set name=value."""
    steps: list[dict[str, dict[str, Any]]]
    """The stages in order: each a verb with its settings."""


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, ready to run."""

    number: int
    verb: Verb
    settings: Settings


@dataclass(frozen=True)
class Recipe:
    """A checked recipe."""

    name: str
    about: str
    out: Path
    steps: tuple[Step, ...]


def load_recipe(
    path: str | Path, *, out: str | None = None, values: Mapping[str, str] | None = None
) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: The YAML file.
        out: Replaces its `out`.
        values: Replace its `vars`.

    Raises:
        InputError: Everything that is wrong with it, with line-level places where YAML gives them.
    """
    where = str(path)
    file = parse_settings(RecipeFile, _read(Path(path)), where)
    unknown = set(values or {}) - set(file.vars)
    if unknown:
        name = sorted(unknown)[0]
        raise InputError(f"{where}: no variable '{name}'; {suggestion(name, list(file.vars))}")
    folder = out or file.out
    variables = {**file.vars, **(values or {}), "out": folder}
    steps = tuple(
        _step(number, raw, variables, where) for number, raw in enumerate(file.steps, start=1)
    )
    if not steps:
        raise InputError(f"{where}: has no steps")
    return Recipe(file.name, file.about, Path(folder), steps)


def run_recipe(
    recipe: Recipe,
    *,
    before: Callable[[Step], None] = lambda step: None,
    after: Callable[[Sequence[Any]], None] = lambda results: None,
) -> list[Any]:
    """Runs the steps in order and returns their results.

    Args:
        recipe: What to run.
        before: Called ahead of each step.
        after: Called with the results so far when a step has ended.
    """
    results: list[Any] = []
    for step in recipe.steps:
        before(step)
        results.append(_run_step(step, recipe.out))
        after(results)
    return results


def _run_step(step: Step, folder: Path) -> Any:
    out = target_of(step.verb.name, step.settings)
    if out is None:
        return step.verb.run(step.settings)

    def run() -> Any:
        return step.verb.function()(step.settings)

    return main_only(lambda: run_once(step.verb.name, step.settings, out, folder, run))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: a recipe is a mapping with name, out and steps")
    return document


def _step(number: int, raw: dict[str, Any], variables: Mapping[str, Any], where: str) -> Step:
    if len(raw) != 1:
        raise InputError(
            f"{where}, step {number}: expected one verb with its settings, found "
            f"{', '.join(raw) or 'nothing'}"
        )
    ((name, values),) = raw.items()
    verb = VERBS.get(name)
    if verb is None:
        raise InputError(
            f"{where}, step {number}: no verb '{name}'; {suggestion(name, list(VERBS))}"
        )
    place = f"{where}, step {number} ({name})"
    filled = _fill(values, variables, place)
    return Step(number, verb, parse_settings(verb.settings, filled, place))


def _fill(value: Any, variables: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, variables, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, variables, where) for item in value]
    if not isinstance(value, str):
        return value
    whole = _VARIABLE.fullmatch(value)
    if whole:  # keeps the type: a number stays one
        return _value(whole.group(1), variables, where)
    return _VARIABLE.sub(lambda match: str(_value(match.group(1), variables, where)), value)


def _value(name: str, variables: Mapping[str, Any], where: str) -> Any:
    if name not in variables:
        raise InputError(f"{where}: no variable '{name}'; {suggestion(name, list(variables))}")
    return variables[name]
