"""What is said about wrong settings: what, where, and the right word where it is near."""

from __future__ import annotations

from typing import Any

import pytest

from prunella import settings as s
from prunella.errors import InputError
from prunella.validation import parse_settings, suggestion

PRUNE = {"model": "m", "text": ["t"], "out": "o"}
TRANSFER = {"model": "m", "train": "t", "out": "o"}


def complaint(kind: type[s.Settings], values: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_settings(kind, values, "here")
    return str(caught.value).splitlines()


def test_good_settings_are_frozen() -> None:
    found = parse_settings(s.PruneSettings, {**PRUNE, "sparsity": "0.5", "steps": 7}, "here")
    assert (found.sparsity, found.steps, found.text) == (0.5, 7, ("t",))
    with pytest.raises(ValueError, match="frozen"):
        found.sparsity = 0.1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mistyped_key() -> None:
    assert complaint(s.PruneSettings, {**PRUNE, "sparsty": 0.5}) == [
        "here: unknown setting 'sparsty'; did you mean 'sparsity'?"
    ]


def test_a_mistyped_key_inside() -> None:
    assert complaint(s.PruneSettings, {**PRUNE, "distillation": {"hiden": 1}}) == [
        "here: unknown setting 'distillation.hiden'; did you mean 'hidden'?"
    ]
    assert complaint(s.TransferSettings, {**TRANSFER, "prune": {"sparcity": 0.5}}) == [
        "here: unknown setting 'prune.sparcity'; did you mean 'sparsity'?"
    ]


def test_a_key_unlike_any_other() -> None:
    (line,) = complaint(s.PackSettings, {"model": "m", "out": "o", "zzz": 1})
    assert line == (
        "here: unknown setting 'zzz'; known: backbone, embeddings, model, out, overwrite, weights"
    )


def test_a_missing_key_tells_what_it_means() -> None:
    lines = complaint(s.PackSettings, {"model": "m"})
    assert lines == ["here: 'out' is missing: File to write, usually *.prn."]


@pytest.mark.parametrize("value", [1, 1.0, -0.1, float("nan"), float("inf"), "most"])
@pytest.mark.parametrize("name", ["sparsity", "initial_sparsity"])
def test_sparsity_lies_in_0_to_1(name: str, value: Any) -> None:
    (line,) = complaint(s.PruneSettings, {**PRUNE, name: value})
    assert line.startswith(f"here: {name} = {value!r}: input should be ")


def test_the_value_the_reason_and_the_meaning() -> None:
    assert complaint(s.TransferSettings, {**TRANSFER, "prune": {"sparsity": 1}}) == [
        "here: prune.sparsity = 1: input should be less than 1. Share of the prunable weights to "
        "remove, in [0, 1); with n:m by default what the pattern removes."
    ]


def test_everything_wrong_at_once() -> None:
    values = {"model": "m", "text": ["t"], "steps": 0, "roles": ["key", "lock"], "seeed": 1}
    lines = complaint(s.PruneSettings, values)
    assert len(lines) == 4
    assert {line.split("'")[1] for line in lines if "setting" in line} == {"seeed"}
    assert any("roles = 'lock'" in line and "'query', 'key'" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "values", "wrong"),
    [
        (s.PruneSettings, {**PRUNE, "batch_tokens": 0}, "batch_tokens"),
        (s.PruneSettings, {**PRUNE, "learning_rate": 0}, "learning_rate"),
        (s.PruneSettings, {**PRUNE, "warmup": 1.5}, "warmup"),
        (s.PruneSettings, {**PRUNE, "mask_probability": 1}, "mask_probability"),
        (s.PruneSettings, {**PRUNE, "text": "file.txt"}, "text"),
        (s.PruneSettings, {**PRUNE, "precision": "fp16"}, "precision"),
        (s.TransferSettings, {**TRANSFER, "epochs": -1}, "epochs"),
        (s.TransferSettings, {**TRANSFER, "dropout": 1}, "dropout"),
        (s.TransferSettings, {**TRANSFER, "lock": "yes"}, "lock"),
        (s.EvaluateSettings, {"model": "m", "data": "d", "level": 2}, "level"),
    ],
)
def test_values_out_of_range(kind: type[s.Settings], values: dict[str, Any], wrong: str) -> None:
    (line,) = complaint(kind, values)
    assert line.startswith(f"here: {wrong} = ")


def test_suggestion() -> None:
    assert suggestion("transfr", ["transfer", "teach"]) == "did you mean 'transfer'?"
    assert suggestion("x", ["b", "a"]) == "known: a, b"
