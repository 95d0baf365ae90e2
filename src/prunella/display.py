"""Results of stages: as JSON documents, and as tables in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from prunella.checkpoint import write_json
from prunella.inspection import Inspection
from prunella.packed.sizes import Sizes
from prunella.packing import Packed
from prunella.processes import is_main
from prunella.recipe import Recipe, Step
from prunella.report.tables import Column, human_bytes, human_duration
from prunella.report.terminal import table

_NEXT = {
    "teach": "prunella prune --model {out} --text TEXT --out {out}-sparse",
    "prune": "prunella transfer --model {out} --train TRAIN --validation DEV --out {out}-task",
    "adapt": "prunella transfer --model {out} --train TRAIN --validation DEV --out {out}-task",
    "transfer": "prunella quantize --model {out} --train TRAIN --out {out}-int8",
    "mask": "prunella evaluate --model {out} --data DEV",
    "quantize": "prunella pack --model {out} --out {out}.prn",
}
_WHEN = ("before", "after")
# Of text that is held out: title, format, key and scale, with a head for masked words and without.
_MLM_FIGURES = (
    ("MLM loss", ".4f", "mlm_loss", 1),
    ("perplexity", ".2f", "perplexity", 1),
    ("accuracy, %", ".2f", "mlm_accuracy", 100),
)
_STATE_FIGURES = (("hidden distance", ".4f", "hidden_distance", 1),)
_SHARES = ("accuracy", "f1", "f1_macro", "exact", "precision", "recall")
_PARTS = {
    "encoder": "encoder matrices",
    "embeddings": "embedding tables",
    "others": "head, biases, norms",
    "files": "tokenizer, settings",
    "header": "header, padding",
}


def document(result: Any) -> dict[str, Any]:
    """What `--json` prints of a result."""
    if hasattr(result, "to_json"):
        return result.to_json()
    if hasattr(result, "provenance"):
        return {
            "out": str(result.out),
            "finished_before": result.finished_before,
            **result.provenance,
        }
    return {"out": str(result)}


def show(result: Any) -> None:
    """Prints a result for a person."""
    console = Console(highlight=False)
    if isinstance(result, Packed):
        _show_packed(console, result)
    elif isinstance(result, Inspection):
        _show_inspection(console, result)
    elif hasattr(result, "provenance"):
        _show_stage(console, result)
    elif hasattr(result, "against"):
        _show_comparison(console, result)
    elif hasattr(result, "interval"):
        _show_evaluation(console, result)
    elif hasattr(result, "show"):
        result.show(console)
    else:
        console.print(f"written: {result}")


def targets_document(targets: Sequence[Any]) -> dict[str, Any]:
    """The plan of `prune --dry-run`."""
    rows = [
        {
            "name": t.name,
            "role": t.role,
            "shape": list(t.shape),
            "pruned": t.pruned,
            "reason": t.reason,
        }
        for t in targets
    ]
    return {"targets": rows, "pruned_weights": _weights(t for t in targets if t.pruned)}


def show_targets(targets: Sequence[Any]) -> None:
    """Prints which matrices would be pruned, and why not the others."""
    console = Console(highlight=False)
    columns = [Column("matrix"), Column("role"), Column("shape"), Column("pruned?")]
    rows = [
        [
            t.name,
            t.role or "-",
            "x".join(map(str, t.shape)),
            "yes" if t.pruned else f"no: {t.reason}",
        ]
        for t in targets
    ]
    console.print(table(columns, rows))
    pruned = _weights(t for t in targets if t.pruned)
    console.print(f"{pruned:,} weights would be pruned, of {_weights(targets):,} in matrices.")


def locks_document(locks: Sequence[Any]) -> dict[str, Any]:
    """The plan of `adapt --dry-run`."""
    rows = [
        {
            "name": lock.target.name,
            "role": lock.target.role,
            "shape": list(lock.target.shape),
            "sparsity": lock.zeros,
            "locked": lock.locked,
            "reason": lock.target.reason,
        }
        for lock in locks
    ]
    return {"targets": rows, "locked_zeros": _locked_zeros(locks)}


def show_locks(locks: Sequence[Any]) -> None:
    """Prints which matrices hold zeros that would be locked."""
    console = Console(highlight=False)
    columns = [
        Column("matrix"),
        Column("role"),
        Column("shape"),
        Column("zeros", unit="%", numeric=True, format=".1f"),
        Column("locked?"),
    ]
    rows = [
        [
            lock.target.name,
            lock.target.role or "-",
            "x".join(map(str, lock.target.shape)),
            100 * lock.zeros,
            "yes" if lock.locked else f"no: {lock.target.reason or 'dense'}",
        ]
        for lock in locks
    ]
    console.print(table(columns, rows))
    weights = _weights(lock.target for lock in locks if lock.target.pruned)
    console.print(f"{_locked_zeros(locks):,} zeros would be locked, of {weights:,} weights.")


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """A checked recipe, its variables filled in."""
    steps = [{step.verb.name: step.settings.model_dump(mode="json")} for step in recipe.steps]
    return {"name": recipe.name, "about": recipe.about, "out": str(recipe.out), "steps": steps}


def show_recipe(recipe: Recipe) -> None:
    """Prints the steps of a recipe."""
    console = Console(highlight=False)
    console.print(f"[bold]{recipe.name}[/]  {recipe.about}".rstrip())
    for step in recipe.steps:
        console.print(f"{step.number:>3}  {step.verb.name:<9} {_target(step)}")


def announce_step(recipe: Recipe) -> Callable[[Step], None]:
    """Says on standard error which step begins."""
    console = Console(stderr=True, highlight=False)

    def announce(step: Step) -> None:
        total = len(recipe.steps)
        if not is_main():
            return
        console.print(f"[bold]step {step.number}/{total}  {step.verb.name}[/]  {_target(step)}")

    return announce


def results_document(recipe: Recipe, results: Sequence[Any]) -> dict[str, Any]:
    """The results of a recipe so far: for each step its verb, target and document."""
    steps = [
        {"verb": step.verb.name, "target": _target(step), **document(result)}
        for step, result in zip(recipe.steps, results, strict=False)
    ]
    return {"recipe": recipe.name, "about": recipe.about, "out": str(recipe.out), "steps": steps}


def results_writer(recipe: Recipe) -> Callable[[Sequence[Any]], None]:
    """Writes the results of a recipe into its folder after every step."""

    def write(results: Sequence[Any]) -> None:
        if is_main():
            recipe.out.mkdir(parents=True, exist_ok=True)
            write_json(recipe.out / "results.json", results_document(recipe, results))

    return write


def show_run(recipe: Recipe, results: Sequence[Any]) -> None:
    """Prints one line for each step that ran."""
    columns = [
        Column("step"),
        Column("checkpoint"),
        Column("zeros", unit="%", numeric=True, format=".1f"),
        Column("figure"),
    ]
    rows = [
        [step.verb.name, _target(step), _zeros(result), _headline(result)]
        for step, result in zip(recipe.steps, results, strict=True)
    ]
    Console(highlight=False).print(table(columns, rows, title=recipe.name))


def _show_stage(console: Console, result: Any) -> None:
    record = result.provenance
    state = " (finished before, nothing to do)" if result.finished_before else ""
    console.print(f"[bold]{record['stage']}[/] -> {result.out}{state}")
    held_out = record.get("held_out", {})
    beside = set(held_out.get("domain", {}).get("after", {}))  # shown before and after
    rows = [["sparsity", f"{100 * record['sparsity']['total']:.2f} %"]]
    if task := record.get("task"):
        count = len(task.get("labels") or ())
        rows.append(["task", f"{task['kind']}, {count} classes" if count else task["kind"]])
    rows += [
        [name.replace("_", " "), _figure(name, value)]
        for name, value in record["metrics"].items()
        if name not in beside
    ]
    rows += _dropped(record.get("text", {}))
    rows.append(["time", human_duration(record["seconds"])])
    console.print(table([Column("figure"), Column("value")], rows))
    if held_out:
        _show_held_out(console, held_out)
    if cut := record.get("removed"):
        left, before = cut["neurons"], cut["neurons_before"]
        console.print(f"The FFN of each layer has {left:,} neurons left of {before:,}.")
    for name in record.get("new_matrices", ()):
        module = name.removesuffix(".weight")
        console.print(f"{module} is new to the model, so it is dense; the sparsity counts it.")
    if head := record.get("dropped_head"):
        console.print(f"The head for {head} of the model is not in this one.")
    for note in record.get("notes", ()):
        console.print(note)
    data = record["identity"]["data"]
    if "validation" in data and data["validation"] == data["train"]:
        console.print("Training and validation rows are the same, so the figures tell nothing.")
    following = _NEXT.get(record["stage"])
    if following:
        console.print(f"next: {following.format(out=result.out)}", soft_wrap=True)


def _show_held_out(console: Console, held_out: Mapping[str, Any]) -> None:
    """Held-out figures of each text, before and after."""
    has_head = all("mlm_loss" in found["after"] for found in held_out.values())
    shown = _MLM_FIGURES if has_head else _STATE_FIGURES
    columns = [
        Column("held-out text"),
        *(
            Column(title, unit=when, numeric=True, format=form)
            for title, form, _, _ in shown
            for when in _WHEN
        ),
    ]
    rows = [
        [name, *(scale * found[when][key] for _, _, key, scale in shown for when in _WHEN)]
        for name, found in held_out.items()
    ]
    console.print(table(columns, rows))
    if "general" not in held_out and has_head:
        console.print("With --general-text it is measured what the model forgets.")


def _dropped(text: Mapping[str, Any]) -> list[list[str]]:
    """How many paragraphs were near duplicates, of each text that was searched for them."""
    return [
        [f"{name} paragraphs dropped", f"{n['dropped']:,} of {n['kept'] + n['dropped']:,}"]
        for name, n in text.get("paragraphs", {}).items()
    ]


def _show_evaluation(console: Console, result: Any) -> None:
    console.print(f"[bold]{result.model}[/] on {_rows(result)} of {result.data}")
    rows = [
        [name.replace("_", " "), _figure(name, value)]
        for name, value in (*result.metrics.items(), *result.counts.items())
    ]
    low, high = (_figure(result.main, bound) for bound in result.interval)
    named = result.main.replace("_", " ")
    rows.append([f"{named}, {100 * result.level:g} % interval", f"{low} to {high}"])
    console.print(table([Column("figure"), Column("value")], rows))
    if len(result.by_type or {}) > 1:
        _show_types(console, result.by_type)
    if result.predictions:
        console.print(f"predictions: {result.predictions}")


def _rows(result: Any) -> str:
    return f"{result.rows:,} row{'' if result.rows == 1 else 's'}"


def _show_types(console: Console, by_type: Mapping[str, Mapping[str, float]]) -> None:
    """Figures of each type of entity."""
    shares = ("precision", "recall", "f1")
    columns = [
        Column("type"),
        *(Column(name, unit="%", numeric=True, format=".2f") for name in shares),
        *(Column(name, numeric=True, format=",d") for name in ("entities", "predicted")),
    ]
    rows = [
        [kind, *(100 * found[name] for name in shares), found["entities"], found["predicted"]]
        for kind, found in by_type.items()
    ]
    console.print(table(columns, rows))


def _show_comparison(console: Console, result: Any) -> None:
    console.print(f"A  [bold]{result.model}[/]\nB  [bold]{result.against}[/]")
    console.print(f"on {_rows(result)} of {result.data}")
    columns = [Column("figure"), *(Column(name, numeric=True) for name in ("A", "B", "A - B"))]
    rows = [
        [
            name.replace("_", " "),
            _figure(name, a),
            _figure(name, b),
            _difference(name, a - b),
        ]
        for name, a in result.metrics.items()
        if (b := result.against_metrics.get(name)) is not None
    ]
    for name in {**result.counts, **result.against_counts}:
        both = (result.counts.get(name, 0), result.against_counts.get(name, 0))
        rows.append([name.replace("_", " "), *(f"{count:,}" for count in both), ""])
    console.print(table(columns, rows))
    low, high = (_difference(result.main, bound) for bound in result.interval)
    points = " points" if result.main.endswith(_SHARES) else ""
    console.print(
        f"{result.main.replace('_', ' ')}, A - B: {_difference(result.main, result.difference)}"
        f"{points}, {100 * result.level:g} % interval {low} to {high}, p = {result.p_value:.3g}"
    )
    if result.differing is not None:
        console.print(f"They differ on {result.differing:,} of {result.rows:,} rows.")
    if result.predictions:
        console.print(f"predictions: {result.predictions}")


def _show_packed(console: Console, packed: Packed) -> None:
    console.print(f"[bold]pack[/] -> {packed.path}  ({packed.weights} weights)")
    _show_sizes(console, packed.sizes)
    if packed.backbone:
        console.print(
            f"It holds only what differs from {packed.backbone}. Whole again: prunella unpack "
            f"--model {packed.path} --backbone {packed.backbone} --out FOLDER"
        )
    # Half of a file, once everything else is small; what rounding costs is in docs/format.md.
    tables, whole = packed.sizes.parts["embeddings"].stored, packed.sizes.model.stored
    if packed.embeddings == "fp32" and tables > whole / 2:
        console.print(
            f"{tables / whole:.0%} of the file are the embedding tables, kept exactly; "
            "--embeddings int8 makes them some 3.5 times smaller, bf16 2.5 times."
        )


def _show_sizes(console: Console, sizes: Sizes) -> None:
    """Each part of a packed file beside dense files, and what papers would say of it."""
    columns = [
        Column("part"),
        Column("on disk"),
        Column("dense fp32"),
        Column("dense int8"),
        Column("smaller than fp32", unit="times", numeric=True, format=".1f"),
        Column("zeros", unit="%", numeric=True, format=".1f"),
    ]
    named = [(_PARTS[name], part) for name, part in sizes.parts.items()]
    rows = [
        [
            name,
            human_bytes(part.stored),
            *([human_bytes(part.fp32), human_bytes(part.int8)] if part.weights else ["–", "–"]),
            part.true_ratio if part.weights else None,
            100 * part.sparsity if part.weights else None,
        ]
        for name, part in (*named, ("whole file", sizes.model))
    ]
    console.print(table(columns, rows))
    encoder = sizes.encoder
    if encoder.weights:
        console.print(
            f"Papers would say {encoder.nominal_ratio:.1f}x: they count the non-zeros of the "
            f"encoder alone; in truth its matrices are {encoder.true_ratio:.1f}x smaller. "
            f"{encoder.bits_per_weight:.2f} bits an encoder weight, "
            f"{100 * encoder.above_bound:.1f} % above the entropy of mask and values."
        )


def _show_inspection(console: Console, found: Inspection) -> None:
    stage = f", made by {found.stage}" if found.stage else ""
    console.print(f"[bold]{found.path}[/]  {found.model_type}{stage}")
    if found.sha256:
        console.print(f"hash of configuration and weights: {found.sha256[:12]}")
    if found.backbone:
        what = "the mask of a task, over" if found.kind == "mask" else "only what differs from"
        console.print(f"{what} its backbone, {found.backbone[:12]}")
    columns = [
        Column("tensor"),
        Column("role"),
        Column("shape"),
        Column("zeros", unit="%", numeric=True, format=".1f"),
        Column("on disk"),
    ]
    rows = [
        [r.name, r.role, "x".join(map(str, r.shape)), 100 * r.sparsity, human_bytes(r.bytes)]
        for r in found.rows
        if r.role
    ]
    others = [r for r in found.rows if not r.role]
    rows.append(
        [f"{len(others)} other tensors", "-", "", None, human_bytes(sum(r.bytes for r in others))]
    )
    whole = "all that it holds" if found.backbone else "whole model"
    for name, total in (("encoder matrices", found.encoder), (whole, found.model)):
        rows.append(
            [name, "", f"{total.weights:,}", 100 * total.sparsity, human_bytes(total.bytes)]
        )
    console.print(table(columns, rows))
    if found.packed is not None and found.kind != "mask":  # ones are no weights
        _show_sizes(console, found.packed)


def _target(step: Step) -> str:
    settings: Any = step.settings
    named = (getattr(settings, name, None) for name in ("out", "onnx", "model"))
    return next((str(name) for name in named if name), None) or ", ".join(settings.models)


def _zeros(result: Any) -> float | None:
    if isinstance(result, Packed):
        return 100 * result.sizes.encoder.sparsity
    if hasattr(result, "provenance"):
        return 100 * result.provenance["sparsity"]["total"]
    return None


def _headline(result: Any) -> str:
    if isinstance(result, Packed):
        return f"{human_bytes(result.sizes.model.stored)} on disk"
    metrics = getattr(result, "metrics", None) or {}
    main = getattr(result, "main", "")
    if hasattr(result, "against"):
        values = (result.difference, *result.interval)
        apart, low, high = (_difference(main, value) for value in values)
        return f"{main.replace('_', ' ')} {apart} ({low} to {high})"
    for name in (main, "accuracy", "spearman", "f1", "hidden_distance", "mlm_loss"):
        if name in metrics:
            return f"{name.replace('_', ' ')} {_figure(name, metrics[name])}"
    return ""


def _figure(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return (
        f"{100 * value:.2f} %" if name.endswith((*_SHARES, "kept", "recovered")) else f"{value:.4f}"
    )


def _difference(name: str, value: float) -> str:
    """With its sign; in points where the metric is a share."""
    scaled, digits = (100 * value, 2) if name.endswith(_SHARES) else (value, 4)
    return f"{round(scaled, digits) + 0.0:+.{digits}f}"  # adding 0.0 takes the sign from -0.0


def _locked_zeros(locks: Sequence[Any]) -> int:
    return sum(round(lock.zeros * _weights([lock.target])) for lock in locks if lock.locked)


def _weights(targets: Iterable[Any]) -> int:
    total = 0
    for target in targets:
        size = 1
        for extent in target.shape:
            size *= extent
        total += size
    return total
