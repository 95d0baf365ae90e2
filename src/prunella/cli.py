"""The command line: one command a verb, made from its settings. Results go to standard output,
progress and errors to standard error."""

from __future__ import annotations

import json as json_module
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_origin

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnusedCliTokensError
from pydantic import BaseModel, ValidationError
from rich.console import Console

from prunella import __version__, display
from prunella import settings as s
from prunella.errors import InputError
from prunella.processes import is_main, lost_the_others, reports_failure, world_size
from prunella.recipe import load_recipe, run_recipe
from prunella.settings import base
from prunella.together import leave
from prunella.validation import explain
from prunella.verbs import VERBS, Verb

_BAD_INPUT, _FAULT, _INTERRUPTED, _NOT_READ = 2, 1, 130, 141
_GROUPS: dict[type[BaseModel], Group] = {
    s.OutputSettings: Group("Output", sort_key=2),
    s.TaskSettings: Group("Columns of the task", sort_key=3),
    base.TextSettings: Group("Text", sort_key=3),
    s.PruningSettings: Group("Pruning", sort_key=4),
    s.HeadSettings: Group("Missing MLM head", sort_key=4),
    s.DistillationSettings: Group("Distillation", sort_key=5),
    s.TrainingSettings: Group("Training", sort_key=6),
}
_OWN = Group("Settings", sort_key=1)
# A text may begin with a hyphen, and "-" is standard input and output.
_TAKES_ANY_WORD = {(s.PredictSettings, name) for name in ("text", "text_pair", "file", "out")}
_USAGE = {"apply-mask": "Usage: prunella mask apply BACKBONE TASK.MASK --out CHECKPOINT [OPTIONS]"}
_OFF = {(s.TaskSettings, "no_answer"): "--always-answered"}
_REFUSED = {(s.MaskSettings, "frozen")}  # inherited, and in no help
_GENERAL = Group("General", sort_key=9)

Json = Annotated[
    bool, Parameter(group=_GENERAL, help="Print one JSON document on standard output.")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        Exit code: 0, 2 for bad input, 1 for a fault of ours, 130 when interrupted, 141 when
        standard output was closed (as by `| head`).
    """
    tokens = _with_model_named(sys.argv[1:] if arguments is None else arguments)
    try:
        result = build_app()(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
        leave()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _fail(_usage(error), _BAD_INPUT, tokens)
    except InputError as error:
        return _fail(str(error), _BAD_INPUT, tokens)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command resumes", _INTERRUPTED, tokens)
    except BrokenPipeError:  # the interpreter must not flush into it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOT_READ
    except Exception as error:
        if lost_the_others(error):
            return _fail(_lost(), _FAULT, tokens)
        message = f"a fault in Prunella: {type(error).__name__}: {error}"
        return _fail(message, _FAULT, tokens, traceback.format_exc())


def _with_model_named(tokens: Sequence[str]) -> list[str]:
    """`prunella inspect model.prn` means `prunella inspect --model model.prn`.

    A second word is the mask to apply or the model to compare with, where a verb takes one; some
    take any number of models. `prunella mask apply` is the verb apply-mask. A dry run needs no more
    than a model.
    """
    verb, *rest = tokens or [""]
    if verb == "mask" and rest[:1] == ["apply"]:
        verb, rest = "apply-mask", rest[1:]
    fields = VERBS[verb].settings.model_fields if verb in VERBS else {}
    named = [verb]
    for name in ("model", "mask", "against"):
        if name in fields and rest and not rest[0].startswith("-"):
            named += [f"--{name}", rest.pop(0)]
    if "--dry-run" in rest:  # reads no text and writes nothing
        given = {token.partition("=")[0] for token in rest}
        for name in ("text", "out"):
            if fields.get("dry_run") and name in fields and f"--{name}" not in given:
                named += [f"--{name}", "none"]
    while "models" in fields and rest and not rest[0].startswith("-"):
        named += ["--models", rest.pop(0)]
    return [*named, *rest] if tokens else []


def build_app() -> App:
    """The application with all of its commands."""
    app = App(
        name="prunella",
        help="Prune once, use everywhere: sparse pre-trained encoders, small and fast on a CPU.",
        version=__version__,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for verb in VERBS.values():
        app.command(_command(verb), name=verb.name, usage=_USAGE.get(verb.name))
    app.command(_run, name="run")
    app.command(_demo, name="demo")
    return app


def _command(verb: Verb) -> Callable[..., None]:
    """The command of a verb: its settings as flags."""
    _sort_into_groups(verb.settings)

    def command(*, settings: Any, json: bool = False) -> None:
        if getattr(settings, "dry_run", False):
            verb.function()  # says what is not installed, and keeps libraries quiet
            _dry_run(settings, json)
            return
        if json and getattr(settings, "out", None) == "-":
            raise InputError("--out - and --json both write to standard output; leave one out")
        result = verb.run(settings)
        _print(result, json)

    command.__doc__ = f"{verb.settings.__doc__}\n\n{_default_mixes(verb.settings)}"
    command.__annotations__ = {
        "settings": Annotated[verb.settings, Parameter(name="*")],
        "json": Json,
        "return": None,
    }
    return command


def _run(
    recipe: Annotated[str, Parameter(help="YAML file; recipes/ holds examples.")],
    *,
    out: Annotated[str | None, Parameter(help="Folder instead of the recipe's own.")] = None,
    set: Annotated[
        tuple[str, ...],
        Parameter(
            help="name=value of a variable of the recipe to change; give --set once for each."
        ),
    ] = (),
    dry_run: Annotated[
        bool, Parameter(help="Check the recipe, print its steps, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Runs the stages of a recipe; run again, it resumes where it stopped."""
    values = dict(_assignment(item) for item in set)
    loaded = load_recipe(recipe, out=out, values=values)
    if dry_run:
        _emit(display.recipe_document(loaded), json, lambda: display.show_recipe(loaded))
        return
    results = run_recipe(
        loaded, before=display.announce_step(loaded), after=display.results_writer(loaded)
    )
    document = display.results_document(loaded, results)
    _emit(document, json, lambda: display.show_run(loaded, results))


def _demo(
    *,
    out: Annotated[str, Parameter(help="Folder for everything the demo makes.")] = "demo-run",
    overwrite: Annotated[bool, Parameter(help="Start anew instead of resuming.")] = False,
    json: Json = False,
) -> None:
    """From raw text to a small, measured model in minutes, with nothing to download."""
    from prunella.demo.run import run_demo

    result = run_demo(out, overwrite=overwrite)
    _emit(result.document, json, result.show)


def _dry_run(settings: Any, json: bool) -> None:
    if isinstance(settings, s.AdaptSettings):
        from prunella.stages.adapt import plan_locks

        locks = plan_locks(settings)
        _emit(display.locks_document(locks), json, lambda: display.show_locks(locks))
        return
    from prunella.stages.prune import plan_targets

    targets = plan_targets(settings)
    _emit(display.targets_document(targets), json, lambda: display.show_targets(targets))


def _print(result: Any, json: bool) -> None:
    _emit(display.document(result), json, lambda: display.show(result))


def _emit(document: Any, json: bool, show: Callable[[], None]) -> None:
    if not is_main():
        return
    if json:
        json_module.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        show()


def _assignment(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"--set {item}: expected name=value")
    return name, value


def _sort_into_groups(kind: type[BaseModel], group: Group | None = None) -> None:
    """Gives each flag the help group of the class that declares it (cyclopts reads metadata)."""
    for name, field in kind.model_fields.items():
        if (kind, name) in _REFUSED:  # not in the list that the settings above share
            field.metadata = [Parameter(show=False)]
        if any(isinstance(item, Parameter) for item in field.metadata):
            continue
        owner = next(c for c in reversed(kind.__mro__) if name in getattr(c, "__annotations__", {}))
        # Only what is on by default needs a flag that switches it off, or what data may switch on.
        negative = _OFF.get((owner, name)) or (f"--no-{name}" if field.default is True else ())
        any_word = (owner, name) in _TAKES_ANY_WORD  # the next flag as well, if it took several
        field.metadata.append(
            Parameter(
                group=group or _GROUPS.get(owner, _OWN),
                negative=negative,
                allow_leading_hyphen=any_word,
                consume_multiple=get_origin(field.annotation) is tuple and not any_word,
            )
        )
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                _sort_into_groups(inner)


def _default_mixes(kind: type[BaseModel]) -> str:
    """What stands in place of flags that belong together when none of them is given."""
    notes = []
    for name, field in kind.model_fields.items():
        if isinstance(field.default, BaseModel):
            values = field.default.model_dump(exclude_defaults=True)
            flags = " ".join(f"--{name}.{key} {value}" for key, value in values.items())
            notes.append(f"Without any --{name} flag: {flags}.")
    return " ".join(notes)


def _usage(error: CycloptsError) -> str:
    """The message of a wrong command line."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        command = " ".join(error.command_chain or ())
        kind = VERBS[command].settings if command in VERBS else s.Settings
        return explain(cause, kind, f"prunella {command}")
    if isinstance(error, UnusedCliTokensError):
        return _unused(error)
    return " ".join(str(error).split())


def _unused(error: UnusedCliTokensError) -> str:
    """What to do about words that no flag takes."""
    tokens = list(error.unused_tokens or ())
    message = f"nothing takes {', '.join(map(repr, tokens))}"
    if "run" in (error.command_chain or ()) and all("=" in token for token in tokens):
        flags = " ".join(f"--set {token}" for token in tokens)
        return f"{message}; each variable has a --set of its own: {flags}"
    return f"{message}; this flag takes one value (see --help)"


def _lost() -> str:
    return (
        f"another of the {world_size()} processes of this run is gone: killed, or failed on "
        "another machine; the same command resumes"
    )


def _fail(message: str, code: int, tokens: Sequence[str], details: str = "") -> int:
    """Says what went wrong, once for all processes of a machine."""
    if not reports_failure():
        return code
    sys.stderr.write(details)
    if "--json" in tokens:
        json_module.dump({"error": message, "exit_code": code}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    console = Console(stderr=True, highlight=False)
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False, soft_wrap=not console.is_terminal)
    return code
