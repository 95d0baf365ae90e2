"""The command line: help, one JSON document, exit codes, and a clear word on every bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers
from pydantic import BaseModel
from transformers import BertTokenizer

from prunella.cli import main
from prunella.settings import PruneSettings
from prunella.verbs import VERBS

Make = Callable[..., Path]
COMMANDS = [*VERBS, "run", "demo"]


@dataclass
class Answer:
    """What a command returned and printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


@dataclass
class Bench:
    """Commands on small files in a folder of their own."""

    folder: Path
    make: Make
    corpus: Path
    tasks: dict[str, dict[str, Path]]
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Answer:
        self.capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *self.capsys.readouterr())

    def model(self, *args: Any, **given: Any) -> str:
        return str(self.make(*(args or ("bert",)), **given))

    def out(self, name: str = "out") -> str:
        return str(self.folder / name)

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def prune(self, *more: object, **changed: object) -> list[object]:
        given = {"--model": self.model(), "--text": self.corpus, "--out": self.out(), "--steps": 3}
        given |= {"--length": 16, "--batch-tokens": 64, "--threads": 1, "--precision": "fp32"}
        given |= {"--cache": self.folder / "cache"}
        return ["prune", *flat(given, changed), *more]

    def transfer(self, *more: object, verb: str = "transfer", **changed: object) -> list[object]:
        given = {"--model": self.model(), "--train": self.tasks["single"]["train"], "--steps": 2}
        given |= {"--out": self.out(), "--max-length": 24, "--batch-size": 8, "--threads": 1}
        return [verb, *flat(given | {"--precision": "fp32"}, changed), *more]


def flat(given: dict[str, Any], changed: dict[str, Any]) -> list[object]:
    """Flags and values; None leaves a flag out."""
    flags = given | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [part for flag, value in flags.items() if value is not None for part in (flag, value)]


@pytest.fixture
def bench(
    tmp_path: Path,
    tiny_checkpoint: Make,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    return Bench(tmp_path, tiny_checkpoint, corpus_file, task_files, capsys)


# ---------------------------------------------------------------------------------------- help


def flags_of(kind: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Every flag of some settings with its help text and its default."""
    flags: dict[str, tuple[str, Any]] = {}
    for name, field in kind.model_fields.items():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                flags |= flags_of(inner, f"{prefix}{name}.")
                break
        else:
            default = None if field.is_required() else field.default
            flags[f"--{prefix}{name}".replace("_", "-")] = (field.description or "", default)
    return flags


def squeezed(text: str) -> str:
    """Without the frames and line breaks of the terminal."""
    return re.sub(r"[\s│`]+", "", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(command: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = bench(command, "--help")
    assert answer.code == 0
    assert answer.stderr == ""
    assert max(map(len, answer.stdout.splitlines())) <= 80
    assert "--json" in answer.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_tells_all_of_every_setting(
    verb: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # where nothing wraps
    shown = squeezed(bench(verb, "--help").stdout)
    for flag, (meaning, default) in flags_of(VERBS[verb].settings).items():
        if (verb, flag) == ("mask", "--frozen"):  # inherited, and refused
            assert squeezed(meaning) not in shown
            continue
        assert meaning, f"{flag} has no help text"
        start = shown.find(squeezed(meaning))
        assert start > 0, f"the meaning of {flag} is not shown"
        assert flag.replace("-", "") in shown[:start].replace("-", ""), flag
        if default is not None and default != ():
            until = re.search(r"\[default:(.*?)\]", shown[start:])
            assert until is not None
            assert until.group(1) == squeezed(str(default)), flag


def test_help_tells_the_signals_that_are_on_by_default(bench: Bench) -> None:
    assert "Without any --distillation flag: --distillation.logits 0.5." in " ".join(
        bench("prune", "--help").stdout.split()
    )


def test_what_is_on_by_default_can_be_switched_off(bench: Bench, monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("prunella.stages.transfer.transfer", lambda s: seen.append(s) or Path("x"))
    assert bench(*bench.transfer("--no-bucket")).code == 0
    assert bench(*bench.transfer()).code == 0
    assert [settings.bucket for settings in seen] == [False, True]


def test_what_the_data_may_switch_on_can_be_switched_off(bench: Bench, monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("prunella.stages.transfer.transfer", lambda s: seen.append(s) or Path("x"))
    for more in ([], ["--no-answer"], ["--always-answered"]):
        assert bench(*bench.transfer(*more)).code == 0
    assert [settings.no_answer for settings in seen] == [None, True, False]


def test_the_help_of_mask_apply_shows_what_is_typed(bench: Bench) -> None:
    usage = bench("mask", "apply", "--help").stdout.splitlines()[0]
    assert usage.startswith("Usage: prunella mask apply BACKBONE TASK.MASK --out CHECKPOINT")


def test_figures_on_the_rows_of_the_training_say_nothing(bench: Bench) -> None:
    rows = {split: bench.tasks["single"][split] for split in ("train", "validation")}
    said = "Training and validation rows are the same"
    assert said in bench(*bench.transfer(validation=rows["train"], out=bench.out("same"))).stdout
    assert said not in bench(*bench.transfer(validation=rows["validation"])).stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_without_a_verb(bench: Bench, arguments: list[str]) -> None:
    answer = bench(*arguments)
    assert answer.code == 0
    assert answer.stdout.strip()


# ------------------------------------------------------------------------------- good commands


def test_every_verb_prints_one_json_document_and_runs_once(bench: Bench) -> None:
    """The same command again finds its work done, and tells it to a person in words."""
    rows = bench.tasks["single"]
    scored = ("--validation", rows["validation"])
    steps = {
        "prune": bench.prune(out=bench.out("sparse")),
        "transfer": bench.transfer(*scored, model=bench.out("sparse"), out=bench.out("task")),
        "quantize": bench.transfer(verb="quantize", model=bench.out("task"), out=bench.out("int8")),
        "evaluate": [
            *("evaluate", "--model", bench.out("int8"), "--data", rows["validation"]),
            *("--resamples", 20, "--predictions", bench.out("predictions.jsonl")),
        ],
        "pack": ["pack", "--model", bench.out("int8"), "--out", bench.out("model.prn")],
        "inspect": ["inspect", "--model", bench.out("model.prn")],
        "unpack": ["unpack", "--model", bench.out("model.prn"), "--out", bench.out("back")],
    }
    documents = {}
    for verb, arguments in steps.items():
        answer = bench(*arguments, "--json")
        assert answer.code == 0, answer.stderr
        documents[verb] = answer.document
    assert documents["prune"]["stage"] == "prune"
    assert documents["prune"]["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)
    assert documents["transfer"]["out"] == bench.out("task")
    assert 0 <= documents["transfer"]["metrics"]["accuracy"] <= 1
    assert documents["evaluate"]["interval"][0] <= documents["evaluate"]["metrics"]["accuracy"]
    assert documents["pack"]["bytes"]["model"] <= Path(bench.out("model.prn")).stat().st_size
    assert documents["pack"]["ratio"]["encoder"] > 10
    assert documents["inspect"]["encoder"]["sparsity"] > 0.8
    weights = Path(bench.out("int8"), "model.safetensors").read_bytes()
    for verb in ("prune", "transfer", "quantize"):
        again = bench(*steps[verb], "--json")
        assert again.code == 0
        assert again.document == {**documents[verb], "finished_before": True}
        words = bench(*steps[verb])
        assert words.code == 0
        assert "(finished before, nothing to do)" in " ".join(words.stdout.split())
        assert "next: prunella " in words.stdout
    assert Path(bench.out("int8"), "model.safetensors").read_bytes() == weights
    for verb in ("evaluate", "pack", "inspect"):
        words = bench(*steps[verb])
        assert words.code == 0, words.stderr
        assert max(map(len, words.stdout.splitlines())) <= 80 or verb != "inspect"
        assert "{" not in words.stdout


def test_dry_run_lists_all_matrices_and_why(bench: Bench) -> None:
    more = ("--exclude", "distilbert.transformer.layer.1", "--dry-run")
    arguments = bench.prune(*more, model=bench.model("distilbert"))
    targets = {t["name"]: t for t in bench(*arguments, "--json").document["targets"]}
    assert sum(t["pruned"] for t in targets.values()) == 6
    assert targets["distilbert.transformer.layer.1.ffn.lin1"]["reason"] == "excluded"
    assert targets["vocab_projector"]["reason"].startswith("tied to distilbert.embeddings")
    assert targets["vocab_transform"]["reason"].startswith("no encoder role")
    assert not Path(bench.out()).exists()
    words = bench(*arguments)
    assert words.code == 0
    assert "8,192 weights would be pruned" in words.stdout
    assert "no: excluded" in words.stdout


@pytest.mark.parametrize("head", ["mlm", "base"])
def test_a_dry_run_needs_no_more_than_a_model(
    bench: Bench, tiny_checkpoint: Callable[..., Path], head: str
) -> None:
    model = str(tiny_checkpoint("bert", head))
    found = bench("prune", model, "--roles", "query", "--dry-run", "--json").document["targets"]
    prefix = "bert." if head == "mlm" else ""
    names = {row["name"] for row in found if row["pruned"]}
    assert f"{prefix}encoder.layer.0.attention.self.query" in names
    locks = bench("adapt", "--dry-run", "--model", model, "--json")
    assert locks.code == 0, locks.stderr


def test_log_and_trackers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer gets the trackers; ours is always written."""
    seen: list[Any] = []
    original = transformers.Trainer.__init__

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(kwargs["args"].report_to)
        original(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "__init__", watched)
    assert bench(*bench.prune()).code == 0
    rows = [json.loads(x) for x in Path(bench.out(), "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3]
    assert {"loss", "learning_rate", "sparsity", "tokens", "seconds"} <= rows[0].keys()
    assert "epoch" not in rows[0]  # the Trainer's is a share of the run
    assert rows[0]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    answer = bench(*bench.prune("--report-to", "clearml", out=bench.out("other")))
    assert seen == [[], ["clearml"]]
    assert_refused(answer, "clearml", "install")


def test_progress_in_a_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as rich sees it
    shown = bench(*bench.prune("--log-every", 1)).stderr
    assert "3/3" in shown
    assert "90.0 % zeros" in shown
    failed = bench(*bench.prune(learning_rate=1e38, warmup=0, out=bench.out("nan"))).stderr
    for text in (shown, failed):
        assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is back
    assert failed.rfind("error: ") > failed.rfind("\x1b[?25h")


def test_progress_in_a_log_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunella.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    answer = bench(*bench.prune("--log-every", 1, "--json"))
    assert "prune: 3/3 loss" in answer.stderr
    assert "90.0 % zeros, 0 s left" in answer.stderr
    assert answer.document["stage"] == "prune"


# --------------------------------------------------------------------------------- bad input


def assert_refused(answer: Answer, *words: str) -> None:
    """Exit code 2 and one message, which says what, where and what to do; no traceback."""
    assert answer.code == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    message = " ".join(answer.stderr.split())
    assert message.startswith("error: ")
    for word in words:
        assert word in message, message


# Each: what is done wrong, and words that the message must hold.
Case = tuple[Callable[[Bench], list[object]], tuple[str, ...]]
COMMAND_LINE: dict[str, Case] = {
    "unknown verb": (lambda b: ["prunes"], ('Did you mean "prune"?',)),
    "unknown flag": (lambda b: b.prune("--sparsty", 0.5), ("--sparsty", "--sparsity")),
    "missing flag": (lambda b: b.prune(model=None), ("'model' is missing",)),
    "no number": (lambda b: b.prune(steps="many"), ("steps = 'many'",)),
    "sparsity 1": (lambda b: b.prune(sparsity=1), ("sparsity", "less than 1", "[0, 1)")),
    "sparsity below 0": (lambda b: b.prune(sparsity=-0.1), ("sparsity", "-0.1")),
    "sparsity of a baseline": (lambda b: b.transfer("--prune.sparsity", 2), ("prune.sparsity",)),
    "unknown scope": (lambda b: b.prune(scope="local"), ("local", "uniform", "global")),
    "unknown role": (lambda b: b.prune(roles="querry"), ("querry", "query")),
    "negative weight": (lambda b: b.prune("--distillation.hidden", -1), ("distillation.hidden",)),
    "no steps": (lambda b: b.prune(steps=0), ("steps", "greater than or equal to 1")),
    "two variables after one --set": (
        lambda b: ["run", "r.yaml", "--set", "a=1", "b=2", "c=3"],
        ("nothing takes 'b=2', 'c=3'", "--set b=2 --set c=3"),
    ),
    "two values after one flag": (
        lambda b: b.prune("--score", "snip", "movement"),
        ("nothing takes 'movement'", "this flag takes one value"),
    ),
}


def test_a_flag_takes_all_that_a_shell_makes_of_a_glob(bench: Bench) -> None:
    more = bench.write("more.txt", "Some more text.\n")
    given = bench.prune(
        "--text", bench.corpus, more, "--roles", "query", "key", "--dry-run", text=None
    )
    answer = bench(*given, "--json")
    assert answer.code == 0, answer.stderr
    pruned = {row["role"] for row in answer.document["targets"] if row["pruned"]}
    assert pruned == {"query", "key"}


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_wrong_command_lines(bench: Bench, case: str) -> None:
    arguments, words = COMMAND_LINE[case]
    assert_refused(bench(*arguments(bench)), *words)


def damaged(bench: Bench, file: str, content: str | bytes | None) -> str:
    """A copy of a model whose file is replaced, or removed."""
    copy = Path(shutil.copytree(bench.model(), bench.out("damaged")))
    (copy / file).unlink()
    if content is not None:
        bench.write(f"damaged/{file}", content)
    return str(copy)


MODELS: dict[str, Case] = {
    "no such folder": (lambda b: b.prune(model=b.out("nowhere")), ("nowhere: no such folder",)),
    "an empty folder": (
        lambda b: b.prune(model=Path(b.model()).parent / "."),
        ("not a model directory", "config.json"),
    ),
    "a file": (lambda b: b.prune(model=b.corpus), ("corpus.txt", "is a file", "prunella unpack")),
    "no weights": (
        lambda b: b.prune(model=damaged(b, "model.safetensors", None)),
        ("damaged: no model.safetensors", "save_pretrained"),
    ),
    "cut weights": (
        lambda b: b.prune(model=damaged(b, "model.safetensors", bytes(30))),
        ("model.safetensors: damaged safetensors file", "copy it again"),
    ),
    "broken configuration": (
        lambda b: b.prune(model=damaged(b, "config.json", "{")),
        ("damaged: transformers cannot load it", "not a valid JSON"),
    ),
    "no tokenizer": (
        lambda b: b.prune(model=damaged(b, "tokenizer.json", None)),
        ("damaged: no tokenizer in this folder",),
    ),
    "no head": (
        lambda b: b.prune(model=b.model("bert", "base")),
        ("no masked-language-modelling head", "prunella teach", "--mlm 0"),
    ),
    "no task head": (
        lambda b: b.transfer(verb="quantize"),
        ("no task head", "prunella transfer"),
    ),
    "evaluated without task head": (
        lambda b: ["evaluate", "--model", b.model(), "--data", b.tasks["single"]["train"]],
        ("no task head", "prunella transfer"),
    ),
    "a head of other labels": (
        lambda b: b.transfer(model=b.model("bert", "classifier", labels=3)),
        ("3 outputs", "the task 2 (bad, good)"),
    ),
    "a dense model, lock insisted on": (
        lambda b: b.transfer("--lock", "on"),
        ("--lock on", "dense", "--lock at auto"),
    ),
    "a file that is no packed one": (
        lambda b: ["unpack", "--model", b.corpus, "--out", b.out()],
        ("corpus.txt", "not a packed model"),
    ),
    "nothing to inspect": (lambda b: ["inspect", "--model", b.out("no")], ("no such file",)),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_are_none(bench: Bench, case: str) -> None:
    arguments, words = MODELS[case]
    assert_refused(bench(*arguments(bench)), *words)
    assert not Path(bench.out()).exists()


TEXTS: dict[str, Case] = {
    "missing": (lambda b: b.prune(text=b.out("no.txt")), ("no.txt", "no such file")),
    "no match": (lambda b: b.prune(text=b.out("*.none")), ("*.none", "no file matches")),
    "a folder": (lambda b: b.prune(text=b.folder), ("is a folder", "*.txt")),
    "empty": (lambda b: b.prune(text=b.write("e.txt", "")), ("e.txt", "holds no text")),
    "a table": (
        lambda b: b.prune(text=b.write("t.csv.gz", b"text,label\n")),
        ("t.csv.gz: is a table, not text", ".jsonl"),
    ),
    "broken UTF-8": (
        lambda b: b.prune(text=b.write("b.txt", b"fine\n\xff\xfe bad\n")),
        ("b.txt, line 2", "not UTF-8", "iconv"),
    ),
    "no text column": (
        lambda b: b.prune(text=b.write("t.jsonl", '{"body": "x"}\n')),
        ("t.jsonl, line 1", '"text"'),
    ),
    "blocks too long": (lambda b: b.prune(length=500), ("length 500", "72 positions")),
    "missing rows": (lambda b: b.transfer(train=b.out("no.csv")), ("no.csv",)),
    "empty rows": (lambda b: b.transfer(train=b.write("e.csv", "")), ("e.csv is empty",)),
    "unknown format": (lambda b: b.transfer(train=b.write("x.doc", "a")), ("x.doc", "jsonl")),
    "rows in broken UTF-8": (
        lambda b: b.transfer(train=b.write("b.csv", b"text,label\na,0\n\xff,1\n")),
        ("b.csv", "UTF-8"),
    ),
    "wrong column": (
        lambda b: b.transfer("--text", "sentense"),
        ("no column 'sentense'", "did you mean 'sentence'?"),
    ),
    "no usual column": (
        lambda b: b.transfer(train=b.write("c.csv", "words,klass\na,0\nb,1\n")),
        ("c.csv", "words", "klass"),
    ),
    "labels unknown to the head": (
        lambda b: b.transfer("--validation", b.write("v.csv", "sentence,label\na,bad\nb,worse\n")),
        ("v.csv", "'worse'", "'bad', 'good'"),
    ),
    "one class only": (
        lambda b: b.transfer(train=b.write("o.csv", "sentence,label\na,1\nb,1\n")),
        ("every label is 1",),
    ),
    "scores for classes": (
        lambda b: b.transfer(
            "--kind", "classification", train=b.write("s.csv", "sentence,label\na,1.5\nb,2\n")
        ),
        ("labels with fractions",),
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_wrong_data(bench: Bench, case: str) -> None:
    arguments, words = TEXTS[case]
    assert_refused(bench(*arguments(bench)), *words)
    assert not Path(bench.out()).exists()


def relabelled(bench: Bench) -> Path:
    """A teacher of the same labels in another order."""
    copy = Path(shutil.copytree(bench.model("bert", "classifier"), bench.out("relabelled")))
    config = json.loads((copy / "config.json").read_text())
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    bench.write("relabelled/config.json", json.dumps(config))
    return copy


PLANS: dict[str, Case] = {
    "schedule ends after training": (
        lambda b: b.prune(freeze=50),
        ("ends after training", "freeze step 50", "3 steps", "--steps"),
    ),
    "windows out of order": (
        lambda b: b.prune(growth_end=0.9, freeze=0.5, steps=10),
        ("out of order", "growth_end 9", "freeze 5"),
    ),
    "no role left": (
        lambda b: b.prune("--roles", "pooler"),
        ("nothing to prune", "--roles and --exclude"),
    ),
    "exclusion of nothing": (lambda b: b.prune("--exclude", "bert.layer"), ("'bert.layer'",)),
    "freezing of nothing": (lambda b: b.prune("--frozen", "bert.embed"), ("'bert.embed'",)),
    "no loss": (
        lambda b: b.prune("--mlm", 0, "--distillation.logits", 0),
        ("no loss", "mlm"),
    ),
    "widths differ": (
        lambda b: b.prune("--distillation.hidden", 1, teacher=b.model("bert", hidden=64)),
        ("32 wide", "64", "distillation.attention"),
    ),
    "neither model nor configuration": (
        lambda b: ["teach", "--text", b.corpus, "--out", b.out()],
        ("exactly one",),
    ),
    "unknown architecture": (
        lambda b: [
            *("teach", "--text", b.corpus, "--out", b.out(), "--length", 16, "--cache", b.out("c")),
            *("--config", b.write("c.json", '{"model_type": "berd"}')),
        ],
        ("config", "berd"),
    ),
    "a teacher without a head": (
        lambda b: b.transfer(teacher=b.model()),
        ("teacher has no task head", "prunella transfer"),
    ),
    "a teacher of other labels": (
        lambda b: b.transfer(teacher=relabelled(b)),
        ("teacher's labels are good, bad", "the task's bad, good", "same order"),
    ),
    "no epochs": (lambda b: b.transfer(steps=None, epochs=0), ("epochs",)),
    "longer than the model reads": (
        lambda b: b.transfer(max_length=100),
        ("max_length 100: the model has 72 positions", "--max-length"),
    ),
    "longer than the teacher reads": (
        lambda b: b.transfer(
            max_length=72, model=b.model("distilbert"), teacher=b.model("roberta")
        ),
        ("max_length 72: the model has 71 positions",),
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_settings_that_do_not_fit(bench: Bench, case: str) -> None:
    arguments, words = PLANS[case]
    assert_refused(bench(*arguments(bench)), *words)
    assert not Path(bench.out()).exists()


def test_teacher_of_another_vocabulary(bench: Bench, tiny_tokenizer: BertTokenizer) -> None:
    teacher = Path(shutil.copytree(bench.model(seed=1), bench.out("teacher")))
    words = sorted(tiny_tokenizer.get_vocab(), key=tiny_tokenizer.get_vocab().__getitem__)
    words[-1], words[-2] = words[-2], words[-1]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(teacher)
    answer = bench(*bench.prune(teacher=teacher))
    assert_refused(answer, "different vocabularies", f"first difference '{words[-1]}'")


def test_a_name_that_is_no_model_of_the_hub(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = bench(*bench.prune(model="prunella/no-such-model"))
    assert_refused(answer, "prunella/no-such-model: no such folder", "Hub")


@pytest.mark.parametrize("verb", ["prune", "transfer"])
def test_loss_that_is_no_number(bench: Bench, verb: str) -> None:
    arguments = bench.prune if verb == "prune" else bench.transfer
    answer = bench(*arguments(learning_rate=1e38, warmup=0, steps=6))
    assert_refused(answer, "loss is not finite at step", "Lower --learning-rate")
    assert not Path(bench.out()).exists()


def test_existing_output_is_left_alone(bench: Bench) -> None:
    notes = bench.folder / "out"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        assert_refused(bench(*bench.prune(*more)), "holds files that Prunella did not make")
        assert (notes / "notes.txt").read_text() == "mine"
    (notes / "notes.txt").unlink()
    assert bench(*bench.prune()).code == 0  # an empty folder is no loss
    weights = (notes / "model.safetensors").read_bytes()
    answer = bench(*bench.prune(seed=1))
    assert_refused(answer, "another run's checkpoint", "--overwrite")
    assert (notes / "model.safetensors").read_bytes() == weights
    assert bench(*bench.prune("--overwrite", seed=1)).code == 0
    assert (notes / "model.safetensors").read_bytes() != weights
    packed = bench.write("there.prn", "something")
    assert_refused(bench("pack", "--model", notes, "--out", packed), "there.prn")
    assert Path(packed).read_text() == "something"
    assert_refused(bench("pack", "--model", notes, "--out", bench.folder), "is a folder")


def test_output_that_cannot_be_written(bench: Bench) -> None:
    file = bench.write("file", "content")
    assert_refused(bench(*bench.prune(out=f"{file}/out")), "cannot be written", "Not a directory")
    model = bench.model()
    assert_refused(bench("pack", "--model", model, "--out", f"{file}/m.prn"), "cannot be written")
    rows = bench.write("rows.csv", "sentence,label\nthe king,0\nthe queen,1\n")
    evaluation = ("evaluate", "--model", bench.model("bert", "classifier"), "--data", rows)
    answer = bench(*evaluation, "--max-length", 24, "--predictions", f"{file}/p.jsonl")
    assert_refused(answer, "p.jsonl: predictions cannot be written")
    arguments = bench.prune(out=bench.out("other"), cache=f"{file}/cache")
    assert_refused(bench(*arguments), "cache", "cannot be written")


def test_unfinished_work_of_other_settings(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("prunella.stages.prune.figures", interrupted)
        answer = bench(*bench.prune())
    assert answer.code == 130
    assert "the same command resumes" in answer.stderr
    answer = bench(*bench.prune(sparsity=0.5))
    assert_refused(answer, "other settings", "sparsity: 0.9 -> 0.5", "--overwrite")
    assert bench(*bench.prune("--overwrite", sparsity=0.5)).code == 0


def interrupted(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


# ------------------------------------------------------------------------- faults and errors


def test_errors_are_one_json_document_too(bench: Bench) -> None:
    cases = [["prunes"], ["prune"], bench.prune(sparsity=2), bench.prune(model=bench.out("no"))]
    for arguments in cases:
        answer = bench(*arguments, "--json")
        assert answer.code == 2
        assert answer.document.keys() == {"error", "exit_code"}
        assert answer.document["exit_code"] == 2
        assert answer.document["error"]
        assert " ".join(answer.document["error"].split()) in " ".join(answer.stderr.split())


def test_a_fault_of_ours_is_another_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: PruneSettings) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("prunella.stages.prune.prune", broken)
    answer = bench(*bench.prune("--json"))
    assert answer.code == 1
    assert answer.document == {
        "error": "a fault in Prunella: ZeroDivisionError: by zero",
        "exit_code": 1,
    }
    assert "Traceback" in answer.stderr


def test_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunella.stages.prune.prune", interrupted)
    assert bench(*bench.prune("--json")).document["exit_code"] == 130


_INTERRUPTED_EARLY = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "prunella.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from prunella.__main__ import main
sys.exit(main())
"""


def test_interrupted_while_it_loads() -> None:
    order = [sys.executable, "-c", _INTERRUPTED_EARLY]
    done = subprocess.run(order, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("more", [["--json"], []])
def test_output_that_nobody_reads(bench: Bench, more: list[str]) -> None:
    order = [sys.executable, "-m", "prunella", "inspect", bench.model(), *more]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(order, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode != 0
    assert done.stderr == ""


def test_results_and_json_do_not_share_standard_output(bench: Bench) -> None:
    answer = bench("predict", "m.prn", "--file", "t.txt", "--out", "-", "--json")
    assert answer.code == 2
    assert "--out - and --json" in answer.document["error"]


# ------------------------------------------------------------------------------- without torch

_WITHOUT_TORCH = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "sklearn", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import prunella
from prunella.cli import main
model, folder = sys.argv[1:]
assert main(["inspect", "--model", model]) == 0
assert main(["pack", "--model", model, "--out", folder + "/model.prn", "--weights", "int8"]) == 0
assert main(["inspect", "--model", folder + "/model.prn"]) == 0
assert main(["unpack", "--model", folder + "/model.prn", "--out", folder + "/back"]) == 0
assert main(["prune", "--help"]) == 0
assert main(["prune", "--model", model, "--text", "t", "--out", folder + "/o"]) == 2
"""


def test_the_base_installation_needs_no_torch(bench: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT_TORCH, bench.model(), str(bench.folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"`prunella prune` needs the package '(torch|transformers)'", done.stderr)
    assert 'install "prunella[train]"' in " ".join(done.stderr.split())
    assert (bench.folder / "back" / "model.safetensors").exists()
