"""Every criterion and pattern through the stages that prune, on tiny models."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from stages.faults import run_with
from stages.tiny import Place, arrays, zeros
from transformers import AutoModel

from prunella import display
from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.recipe import load_recipe
from prunella.settings import base
from prunella.sparsity import criteria
from prunella.sparsity.criterion import learns
from prunella.sparsity.selection import keep_count
from prunella.stages.prune import prune
from prunella.stages.transfer import transfer

Make = Callable[..., Path]
CRITERIA = get_args(base.Score)
LATE: dict[str, Any] = {"window": 2, "update_every": 2, "growth_end": 4, "freeze": 5}


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("criteria"), corpus_file, task_files)


def test_the_criteria_are_the_files() -> None:
    wanted = "l0 lottery magnitude movement obert random snip soft_movement sparsegpt wanda"
    assert set(CRITERIA) >= set(wanted.split())


@pytest.mark.parametrize("score", CRITERIA)
def test_prune_reaches_the_sparsity_exactly(
    place: Place, tiny_checkpoint: Make, score: str
) -> None:
    model, out = str(tiny_checkpoint("bert")), f"pruned-{score}"
    given = {**LATE, **place.text, "steps": 6, "score": score, "sparsity": 0.8}
    prune(s.PruneSettings(model=model, out=place.out(out), **given))
    found = zeros(place.open(out))
    assert len(found) == 12
    for name, where in found.items():
        assert where.size - where.sum() == keep_count(where.size, 0.8), name


@pytest.mark.parametrize("score", [score for score in CRITERIA if not learns(score)])
def test_transfer_prunes_in_one_shot_and_recovers(
    place: Place, tiny_checkpoint: Make, score: str
) -> None:
    model, out = str(tiny_checkpoint("bert")), f"shot-{score}"
    shot = s.PruningSettings(score=score, one_shot=True, window=2, scope="global", sparsity=0.7)
    rows = {**place.rows(), "steps": 5, "accumulation": 2}
    result = transfer(s.TransferSettings(model=model, out=place.out(out), prune=shot, **rows))
    found = zeros(place.open(out))
    total, kept = sum(w.size for w in found.values()), sum((~w).sum() for w in found.values())
    assert kept == keep_count(total, 0.7)
    assert result.metrics["steps"] == 5


@pytest.mark.parametrize("pattern", ["4x1", "2:4", "heads", "neurons"])
def test_patterns_through_prune(
    place: Place, tiny_checkpoint: Make, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(tiny_checkpoint("bert")), f"pattern-{pattern.replace(':', '-of-')}"
    given = {**place.text, "steps": 3, "pattern": pattern}
    if pattern != "2:4":
        given["sparsity"] = 0.5
    result = prune(s.PruneSettings(model=model, out=place.out(out), **given))
    loaded, info = AutoModel.from_pretrained(place.out(out), output_loading_info=True)
    assert not info["mismatched_keys"]
    found = zeros(place.open(out))
    if pattern == "neurons":
        assert loaded.config.intermediate_size == 32
        assert result.provenance["removed"]["neurons"] == 32
        display.show(result)
        assert "each layer has 32 neurons left of 64." in capsys.readouterr().out
        assert not any(where.any() for where in found.values())
        return
    ffn = next(where for name, where in found.items() if "intermediate" in name)
    query = next(where for name, where in found.items() if "query" in name)
    assert query.mean() == 0.5
    if pattern == "heads":
        assert query.reshape(2, -1).all(1).sum() == 1
        assert not ffn.any()
    elif pattern == "2:4":
        assert (ffn.reshape(-1, 4).sum(1) == 2).all()
    else:
        blocks = ffn.reshape(16, 4, 32)
        assert (blocks.all(1) == blocks.any(1)).all()


def upstream(place: Place, model: str, *more: str) -> list[str]:
    return [
        *("prune", "--model", model, "--text", str(place.corpus), "--cache", place.out("cache")),
        *("--steps", "12", "--save-every", "3", "--length", "16", "--batch-tokens", "64"),
        *("--accumulation", "2", "--threads", "1", "--precision", "fp32", "--sparsity", "0.8"),
        *("--window", "4", "--update-every", "4", "--growth-end", "8", "--freeze", "12", *more),
    ]


@pytest.mark.parametrize("score", ["abp", "obert", "wanda", "l0"])
def test_killed_and_resumed_to_the_same_bits(
    place: Place, tiny_checkpoint: Make, score: str
) -> None:
    """The state in step 3 and 6 lies in the middle of a window."""
    command = upstream(place, str(tiny_checkpoint("bert")), "--score", score)
    assert main([*command, "--out", place.out(f"whole-{score}")]) == 0
    wanted, out = arrays(place.out(f"whole-{score}")), place.out(f"killed-{score}")
    for fault in ("step:8", "step:9"):
        ended = run_with(fault, [*command, "--out", out], place.folder)
        assert ended.code == -signal.SIGKILL, ended.stderr
    assert main([*command, "--out", out]) == 0
    found = arrays(out)
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == []


TOY = '''
"""Toy: the first inputs matter most."""

from __future__ import annotations

import torch
from torch import Tensor

from prunella.sparsity.criterion import Context, Criterion


class Toy(Criterion):
    """s = -index of the input, times `sign`."""

    def __init__(self, context: Context, sign: float = 1.0) -> None:
        super().__init__(context)
        self.sign = sign

    def score(self, name: str) -> Tensor:
        weight = self.masks.parameters[name]
        return -self.sign * torch.arange(weight.shape[1]).expand(weight.shape).float()


CRITERION = Toy
'''
WITH_TOY = """
import sys
from prunella.sparsity import criteria
criteria.__path__.append(sys.argv.pop(1))
from prunella.cli import main
sys.exit(main())
"""


def test_a_new_criterion_is_a_new_file(place: Place, tiny_checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    command = upstream(place, str(tiny_checkpoint("bert")), "--score", "toy")
    command += ["--score-options.sign", "-1", "--out", place.out("toy")]
    ended = subprocess.run(
        [sys.executable, "-c", WITH_TOY, str(tmp_path), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for where in zeros(place.open("toy")).values():
        gone = round(0.8 * where.shape[1])  # the last column of them in part
        assert where[:, : gone - 1].all()
        assert not where[:, gone + 1 :].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("CRITERION = Toy", ""), r"toy\.py: says CRITERION of no class; end it with CRITERION ="),
        (
            ("import torch\n", "import nowhere\n"),
            r"'toy': .* imported \(ModuleNotFoundError: .*nowhere",
        ),
        (("arange(weight.shape[1])", "arange(3)[:, None]"), r"Toy: scores .* and the matrix has"),
    ],
)
def test_what_is_wrong_with_a_criterion_is_said(
    place: Place,
    tiny_checkpoint: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    message: str,
) -> None:
    written = TOY.replace(*change).replace(".expand(weight.shape)", "")
    (tmp_path / "toy.py").write_text(written)
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "prunella.sparsity.criteria.toy", raising=False)
    model, text = str(tiny_checkpoint("bert")), {**place.text, "steps": 2}
    asked = s.PruneSettings(model=model, out=place.out("never"), overwrite=True, **text)
    with pytest.raises(InputError, match=message):
        prune(asked.model_copy(update={"score": "toy"}))


def test_criteria_in_a_recipe(place: Place, tmp_path: Path) -> None:
    step = {
        "prune": {
            "out": "pruned",
            "model": "somewhere",
            "text": [str(place.corpus)],
            "score": "obert",
            "score_options": {"block": 16},
            "pattern": "4x1",
            "densities": {"ffn_in": 0.1},
        }
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "criteria", "out": str(tmp_path), "steps": [step]}))
    loaded = load_recipe(str(path))
    assert loaded
    step["prune"]["score"] = "magnitud"
    path.write_text(yaml.safe_dump({"name": "criteria", "out": str(tmp_path), "steps": [step]}))
    with pytest.raises(InputError, match=r"score = 'magnitud'.*'magnitude'"):
        load_recipe(str(path))


def test_wrong_words_on_the_command_line(
    place: Place, tiny_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_checkpoint("bert"))
    wrong = {
        ("--pattern", "4y1"): "'4y1' is no pattern",
        ("--densities.ffn", "0.5"): "'ffn' is neither a role nor a module",
        ("--score-options.rate", "1"): "'magnitude' has no option 'rate'",
        ("--pattern", "3x1"): "--exclude",
        ("--one-shot", "--score", "wanda", "--window", "99"): "raise --steps or lower --window",
    }
    for flags, message in wrong.items():
        command = upstream(place, model, *flags, "--out", place.out("wrong"), "--overwrite")
        if "--window" in flags:
            command.remove("--window")
            command.remove("4")  # its value, the first of them
        assert main(command) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_transfer_names_its_own_flags(
    place: Place, tiny_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer", "--model", str(tiny_checkpoint("bert")), "--threads", "1", "--train"]
    command += [str(place.tasks["single"]["train"]), "--steps", "2", "--out", place.out("flags")]
    shot = ["--prune.one-shot", "--prune.score", "snip"]
    assert main([*command, *shot]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "raise --steps or lower --prune.window" in said
    layer = ["--prune.densities.bert.encoder.layer.0", "0.5", "--prune.sparsity", "0.9"]
    assert main([*command, *shot, "--prune.window", "1", *layer]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "were those of a random head: fine-tune first" in said
    shares = {n: where.mean() for n, where in zeros(place.open("flags")).items()}
    assert shares["bert.encoder.layer.0.output.dense.weight"] == 0.5
    assert shares["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(0.9, abs=1e-3)


def test_what_was_pruned_is_what_is_stored(place: Place) -> None:
    record = open_checkpoint(place.out("pruned-magnitude")).provenance
    assert record is not None
    assert record["settings"]["score"] == "magnitude"
    assert record["sparsity"]["total"] == pytest.approx(0.8, abs=1e-3)
