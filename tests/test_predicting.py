"""predict: from texts and files to results, through the command line."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine.conftest import Tiny, tiny  # noqa: F401  (a fixture)
from engine.reference import ReferenceRunner

from prunella import predicting, prediction_files
from prunella.cli import main
from prunella.columns import Layout, find_columns, pick
from prunella.engine.model import Model, Outcome
from prunella.engine.results import Regression
from prunella.errors import InputError
from prunella.packed.read import open_packed
from prunella.packed.write import TensorSpec, write

Tinies = Callable[..., Tiny]
OUTCOME = Outcome(Regression(0.5, (0.5,)), tokens=9, cut=0)
TEXTS = ["the queen leaves", "a lantern", "nobody knows why the farmer paints", "dawn"]


@dataclass
class Bench:
    """Runs `prunella predict` on a tiny classifier."""

    folder: Path
    subject: Tiny
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: Any, model: Path | None = None) -> tuple[int, str, str]:
        model = model or self.subject.packed.path
        code = main(["predict", "--model", str(model), *map(str, arguments)])
        captured = self.capture.readouterr()
        return code, captured.out, captured.err

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def lines(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def expected(self, texts: list[Any], **options: Any) -> list[dict[str, Any]]:
        return [result.to_json() for result in self.subject.model()(texts, **options)]


@pytest.fixture
def bench(
    tiny: Tinies,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    def load(path: str, *, threads: Any, task: Any, batch_tokens: int) -> Model:
        packed = open_packed(path)
        return Model(packed, ReferenceRunner(packed), task=task, batch_tokens=batch_tokens)

    monkeypatch.setattr(predicting, "load", load)
    return Bench(tmp_path, tiny("bert", "SequenceClassification"), capsys)


def near(found: Any, expected: Any) -> None:
    """Equal but for the last bits of scores."""
    assert json.loads(json.dumps(found)) == [
        {k: pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for k, v in row.items()}
        for row in expected
    ]


# -------------------------------------------------------------------------------- texts


def test_texts(bench: Bench) -> None:
    code, out, _ = bench("--text", TEXTS[0], "--text", TEXTS[1])
    assert code == 0
    near([json.loads(line) for line in out.splitlines()], bench.expected(TEXTS[:2]))


def test_texts_as_one_document(bench: Bench) -> None:
    code, out, _ = bench("--text", TEXTS[0], "--text-pair", TEXTS[1], "--top-k", 2, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["texts"] == 1 and document["out"] is None
    assert document["tokens"] > 5 and document["tokens_per_second"] > 0
    assert len(document["results"][0]["scores"]) == 2
    label = bench.expected([(TEXTS[0], TEXTS[1])])[0]["label"]
    assert document["results"][0]["label"] == label


def test_a_text_may_begin_with_a_hyphen(bench: Bench) -> None:
    _, out, _ = bench("--text", "- the queen", "--text", "--model")
    assert len(out.splitlines()) == 2


def test_the_model_needs_no_flag(bench: Bench) -> None:
    assert main(["predict", str(bench.subject.packed.path), "--text", TEXTS[0]]) == 0
    near([json.loads(bench.capture.readouterr().out)], bench.expected(TEXTS[:1]))
    assert main(["inspect", str(bench.subject.packed.path)]) == 0
    assert main(["inspect"]) == 2


def test_another_task(bench: Bench) -> None:
    _, out, _ = bench("--text", "a", "--task", "embedding", "--pooling", "cls", "--normalize")
    vector = json.loads(out)["embedding"]
    assert len(vector) == 32 and sum(v * v for v in vector) == pytest.approx(1)


def test_a_threshold_of_nothing_is_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def attempt(model: Model, inputs: Any, **options: Any) -> list[Outcome]:
        seen.append(options)
        return [OUTCOME for _ in inputs]

    monkeypatch.setattr(Model, "attempt", attempt)
    bench("--text", "a", "--threshold", 0)
    bench("--text", "a")
    assert seen == [{"threshold": 0.0}, {}]


def test_questions(bench: Bench, tiny: Tinies) -> None:  # noqa: F811
    path = tiny("bert", "QuestionAnswering").packed.path
    content = json.dumps({"id": 7, "question": "who?", "context": "the queen leaves at dawn"})
    rows = bench.write("q.jsonl", content)
    code, _, _ = bench("--file", rows, "--out", bench.folder / "out.jsonl", model=path)
    assert code == 0
    (found,) = bench.lines()
    assert found["text"] == "the queen leaves at dawn"[found["start"] : found["end"]]
    pair = ("--text", "who?", "--text-pair", "the queen leaves at dawn")
    _, out, _ = bench(*pair, "--no-answer", "--threshold", -1000, model=path)
    assert json.loads(out)["text"] == ""


def test_choices(bench: Bench, tiny: Tinies) -> None:  # noqa: F811
    path = tiny("bert", "MultipleChoice").packed.path
    choices = ["in the attic", "at dawn", "never"]
    content = [{"id": 7, "prompt": "the queen leaves", "choices": choices}]
    content += [{"prompt": "the queen leaves", "choices": "at dawn"}]
    rows = bench.write("q.jsonl", "\n".join(map(json.dumps, content)))
    code, _, err = bench(
        "--file", rows, "--out", bench.folder / "o.jsonl", "--skip-bad", model=path
    )
    assert code == 0
    (found,) = map(json.loads, (bench.folder / "o.jsonl").read_text().splitlines())
    assert found["text"] == choices[found["index"]] and len(found["scores"]) == 3
    assert "line 2: column 'choices' is no list but str" in err
    code, _, err = bench("--text", "the queen leaves", model=path)
    assert code == 2 and "a text needs its choices" in err


# -------------------------------------------------------------------------------- files

FILES = {
    "jsonl": ("t.jsonl", "\n".join(json.dumps({"text": t, "n": 1}) for t in TEXTS)),
    "strings": ("t.jsonl", "\n".join(map(json.dumps, TEXTS))),
    "csv": ("t.csv", "id,sentence\n" + "\n".join(f'{i},"{t}"' for i, t in enumerate(TEXTS))),
    "tsv": ("t.tsv", "sentence\tid\n" + "\n".join(f"{t}\t{i}" for i, t in enumerate(TEXTS))),
    "one column": ("t.csv", "whatever\n" + "\n".join(TEXTS)),
    "lines": ("t.txt", "\n".join(TEXTS) + "\n\n"),
    "packed lines": ("t.txt.gz", gzip.compress("\n".join(TEXTS).encode())),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(bench: Bench, kind: str) -> None:
    rows = bench.write(*FILES[kind])
    out = bench.folder / "out.jsonl"
    code, printed, _ = bench("--file", rows, "--out", out)
    assert code == 0
    assert "4 texts in" in printed and "tokens/s" in printed and "texts/s" in printed
    first = 2 if rows.suffix in (".csv", ".tsv") else 1
    lines = bench.lines()
    assert [line.pop("line") for line in lines] == list(range(first, first + 4))
    near(lines, bench.expected(TEXTS))
    assert sorted(p.name for p in bench.folder.iterdir()) == sorted([rows.name, "out.jsonl"])


def test_pairs_by_their_usual_names_or_by_given_ones(bench: Bench) -> None:
    rows = [{"premise": t, "hypothesis": TEXTS[0], "text2": "x", "other": t} for t in TEXTS]
    path = bench.write("t.jsonl", "\n".join(map(json.dumps, rows)))
    bench("--file", path, "--out", bench.folder / "out.jsonl")
    expected = bench.expected([(t, TEXTS[0]) for t in TEXTS])
    near([{k: v for k, v in line.items() if k != "line"} for line in bench.lines()], expected)
    columns = ("--columns", "other", "--columns", "hypothesis")
    bench("--file", path, "--out", bench.folder / "two.jsonl", *columns)
    assert bench.lines("two.jsonl") == bench.lines()
    bench("--file", path, "--out", bench.folder / "one.jsonl", "--columns", "other")
    assert [line["label"] for line in bench.lines("one.jsonl")] == [
        row["label"] for row in bench.expected(TEXTS)
    ]


def test_standard_input_and_output(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    code, out, err = bench("--file", "-", "--out", "-")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert "4 texts in" in err


def test_a_reader_that_has_read_enough(bench: Bench) -> None:
    path = bench.write("t.txt", "\n".join(TEXTS))
    command = [sys.executable, "-m", "prunella", "predict", str(bench.subject.packed.path)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*command, "--file", str(path), "--out", "-", "--threads", "1"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.returncode == 2
    assert done.stderr == "error: standard output was closed before all results were written\n"


def test_memory_does_not_grow_with_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_ROWS", 20)
    monkeypatch.setattr(Model, "attempt", lambda self, inputs, **options: [OUTCOME] * len(inputs))
    peaks = []
    for rows in (1_000, 20_000):
        path = bench.write("t.txt", "the queen leaves the castle at dawn\n" * rows)
        tracemalloc.start()
        code, printed, _ = bench("--file", path, "--out", bench.folder / "o.jsonl", "--overwrite")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert code == 0 and f"{rows:,} texts" in printed
    assert peaks[1] < 1.2 * peaks[0]


def test_many_chunks_keep_the_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_ROWS", 3)
    texts = [" ".join(TEXTS[i % 4].split() * (1 + i % 3)) for i in range(11)]
    path = bench.write("t.txt", "\n".join(texts))
    code, printed, _ = bench("--file", path, "--out", bench.folder / "out.jsonl", "--json")
    assert code == 0
    assert json.loads(printed)["texts"] == 11
    lines = bench.lines()
    assert [line.pop("line") for line in lines] == list(range(1, 12))
    near(lines, bench.expected(texts))


def test_cut_texts_are_counted(bench: Bench) -> None:
    path = bench.write("t.txt", "short\n" + "long " * 100)
    _, printed, _ = bench("--file", path, "--out", bench.folder / "out.jsonl")
    assert "texts cut because they were too long: 1" in printed
    _, printed, err = bench("--text", "long " * 100)
    assert len(printed.splitlines()) == 1  # results and nothing else
    assert "texts cut because they were too long: 1" in err


def test_nothing_in_nothing_out(bench: Bench) -> None:
    code, _, _ = bench("--file", bench.write("t.jsonl", ""), "--out", bench.folder / "out.jsonl")
    assert code == 0 and bench.lines() == []


# ------------------------------------------------------------------------------ bad rows

BAD = '{"text": "fine"}\n{"text": 3}\n{"text": \n{"txt": "x"}\n{"text": "last"}\n'


def test_a_bad_row_ends_the_run(bench: Bench) -> None:
    path = bench.write("t.jsonl", BAD)
    code, _, err = bench("--file", path, "--out", bench.folder / "out.jsonl")
    assert code == 2
    said = " ".join(err.split())
    assert "t.jsonl, line 2: column 'text' is no text but int; repair it, or pass" in said
    assert not (bench.folder / "out.jsonl").exists()
    assert [line["line"] for line in bench.lines("out.jsonl.partial")] == [1]
    code, printed, _ = bench("--file", path, "--out", bench.folder / "out.jsonl", "--skip-bad")
    assert code == 0 and "kept from an interrupted run: 1" in printed
    assert [line["line"] for line in bench.lines()] == [1, 5]


def test_bad_rows_are_passed_over(bench: Bench) -> None:
    path = bench.write("t.jsonl", BAD)
    out = bench.folder / "out.jsonl"
    code, printed, err = bench("--file", path, "--out", out, "--skip-bad")
    assert code == 0
    assert [line["line"] for line in bench.lines()] == [1, 5]
    said = " ".join(err.split())
    for line, words in ((2, "no text but int"), (3, "not valid JSON"), (4, "'text' is missing")):
        assert f"line {line}:" in said and words in said
    assert "bad rows passed over: 3" in printed


def test_bad_texts_on_the_command_line(bench: Bench, tiny: Tinies) -> None:  # noqa: F811
    model = tiny("bert", "MaskedLM").packed.path
    texts = ("--text", "the [MASK]", "--text", "no mask")
    code, _, err = bench(*texts, model=model)
    assert code == 2 and "text 2: no [MASK]" in " ".join(err.split())
    code, out, _ = bench(*texts, "--skip-bad", "--json", model=model)
    document = json.loads(out)
    assert (document["texts"], document["bad"]) == (1, 1)
    assert "no [MASK]" in document["results"][1]["error"]


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), "exactly one of --text and --file"),
    "both": (("--text", "a", "--file", "t.txt"), "exactly one of --text and --file"),
    "half a pair": (("--text", "a", "--text", "b", "--text-pair", "c"), "2 --text and 1"),
    "no out": (("--file", "t.txt"), "--file needs --out"),
    "out of texts": (("--text", "a", "--out", "x.jsonl"), "--out is for the results of --file"),
    "missing": (("--file", "no.txt", "--out", "o.jsonl"), "no such file"),
    "format": (("--file", "t.doc", "--out", "o.jsonl"), "unknown format"),
    "csv out": (("--file", "t.txt", "--out", "o.csv"), "results are JSON lines"),
    "folder": (("--file", "t.txt", "--out", "."), "is a folder"),
    "columns": (
        ("--file", "t.jsonl", "--out", "o.jsonl", "--columns", "texd"),
        "line 1: no column 'texd'; the columns are 'text', 'note'; did you mean 'text'?",
    ),
    "no usual column": (
        ("--file", "u.jsonl", "--out", "o.jsonl"),
        "cannot tell which columns to read: they are 'body', 'note'; name them with --columns",
    ),
    "three columns": (
        ("--file", "t.txt", "--out", "o.jsonl", *("--columns", "a") * 3),
        "--columns names 3 columns",
    ),
    "option of another task": (
        ("--text", "a", "--pooling", "cls"),
        "classification has no option 'pooling'",
    ),
    "too long": (("--text", "a", "--max-length", "500"), "max_length 500: this model takes"),
    "folder of texts": (("--file", ".", "--out", "o.jsonl"), "is a folder; give one file of texts"),
    "out is file": (
        ("--file", "t.jsonl", "--out", "t.jsonl", "--overwrite"),
        "t.jsonl: is what is read; choose another --out",
    ),
    "other marks": (
        ("--file", "m.csv", "--out", "o.jsonl"),
        "line 2: the only column is 'text;note', which looks like several",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(bench.folder)
    bench.write("t.txt", "a\n")
    bench.write("t.doc", "a\n")
    bench.write("t.jsonl", '{"text": "a", "note": "b"}\n')
    bench.write("u.jsonl", '{"body": "a", "note": "b"}\n')
    bench.write("m.csv", "text;note\na;b\n")
    before = sorted(bench.folder.iterdir())
    arguments, words = REFUSED[case]
    code, _, err = bench(*arguments)
    assert code == 2
    assert words in " ".join(err.split())
    assert sorted(bench.folder.iterdir()) == before  # nothing is left behind


# -------------------------------------------------------------------------- interruptions


def interrupted_after(results: int) -> Any:
    """An `attempt` that is interrupted when so many results are there."""
    honest, made = Model.attempt, 0

    def attempt(self: Model, inputs: Any, **options: Any) -> Any:
        nonlocal made
        if made >= results:
            raise KeyboardInterrupt
        made += len(inputs)
        return honest(self, inputs, **options)

    return attempt


def test_the_same_command_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_ROWS", 2)
    path = bench.write("t.txt", "\n\n".join(TEXTS * 2))
    command = ("--file", path, "--out", bench.folder / "out.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Model, "attempt", interrupted_after(4))
        code, _, err = bench(*command)
    assert code == 130 and "the same command resumes" in err
    assert not (bench.folder / "out.jsonl").exists()
    partial = bench.folder / "out.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 4
    with partial.open("a") as stream:
        stream.write('{"line": 9, "la')  # killed while it wrote
    code, printed, _ = bench(*command, "--json", "--batch-tokens", 100)
    assert code == 0
    assert (json.loads(printed)["texts"], json.loads(printed)["earlier"]) == (4, 4)
    lines = bench.lines()
    assert [line.pop("line") for line in lines] == [1, 3, 5, 7, 9, 11, 13, 15]
    near(lines, bench.expected(TEXTS * 2))
    assert sorted(p.name for p in bench.folder.iterdir()) == ["out.jsonl", "t.txt"]


def test_results_of_other_settings_are_not_mixed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_ROWS", 2)
    path = bench.write("t.txt", "\n".join(TEXTS))
    command = ("--file", path, "--out", bench.folder / "out.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Model, "attempt", interrupted_after(2))
        assert bench(*command)[0] == 130
    code, _, err = bench(*command, "--top-k", 2)
    assert code == 2 and "an interrupted run with other settings (--top-k)" in " ".join(err.split())
    bench.write("t.txt", "\n".join(TEXTS[::-1]) + "\n")
    code, _, err = bench(*command)
    assert code == 2 and f"({path} was changed)" in " ".join(err.split())
    assert bench(*command, "--overwrite")[0] == 0
    assert [line["line"] for line in bench.lines()] == [1, 2, 3, 4]
    code, _, err = bench(*command)
    assert code == 2 and "exists; choose another --out or pass --overwrite" in " ".join(err.split())


def test_two_processes_do_not_write_one_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_ROWS", 2)
    path = bench.write("t.txt", "\n".join(TEXTS))
    command = ("--file", path, "--out", bench.folder / "out.jsonl")
    honest, refused = Model.attempt, []

    def attempt(self: Model, inputs: Any, **options: Any) -> Any:
        if not refused:  # the second one begins in the middle of the first
            refused.append(None)
            refused[:] = [bench(*command, *more) for more in ((), ("--overwrite",))]
        return honest(self, inputs, **options)

    monkeypatch.setattr(Model, "attempt", attempt)
    assert bench(*command)[0] == 0
    for code, _, err in refused:
        assert code == 2
        said = " ".join(err.split())
        assert "out.jsonl.partial: another process is working on it; wait or stop it" in said
    assert [line["line"] for line in bench.lines()] == [1, 2, 3, 4]
    assert sorted(p.name for p in bench.folder.iterdir()) == ["out.jsonl", "t.txt"]


def test_what_was_finished_meanwhile_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write("t.txt", "\n".join(TEXTS))
    honest, seen = prediction_files._check_absent, []

    def check(out: Path, overwrite: bool) -> None:
        honest(out, overwrite)
        if not seen:  # another process ends between the question and the lock
            seen.append(out)
            bench.write("out.jsonl", "its results\n")

    monkeypatch.setattr(prediction_files, "_check_absent", check)
    code, _, err = bench("--file", path, "--out", bench.folder / "out.jsonl")
    assert code == 2 and "exists; choose another --out" in " ".join(err.split())
    assert (bench.folder / "out.jsonl").read_text() == "its results\n"
    assert sorted(p.name for p in bench.folder.iterdir()) == ["out.jsonl", "t.txt"]


def test_out_that_cannot_be_written(bench: Bench) -> None:
    path = bench.write("t.txt", "a\n")
    code, _, err = bench("--file", path, "--out", path / "out.jsonl")
    assert code == 2 and "cannot be written" in " ".join(err.split())


# ------------------------------------------------------------------------------- columns


FOUND = {"columns": {"text": "one", "pair": "two", "label": "label", "choices": None}}
ONE = {"columns": {"text": "sentence", "pair": None, "label": "label", "choices": None}}


@pytest.mark.parametrize(
    ("names", "task", "trained", "expected"),
    [
        (["text", "text_pair"], "classification", {}, ("text", "text_pair")),
        (["text", "text_pair"], "token-classification", {}, ("text",)),
        (["id", "tokens", "tags"], "token-classification", {}, ("tokens",)),
        (["sentence", "body"], "classification", {"text": "body"}, ("body",)),
        (["a", "b", "text"], "classification", {"text": "a", "pair": "b"}, ("a", "b")),
        (["text"], "classification", {"text": "a", "pair": "b"}, ("text",)),
        (["question", "context", "id"], "question-answering", {}, ("question", "context")),
        (["anything"], "embedding", {}, ("anything",)),
        (["id", "question", "choices"], "multiple-choice", {}, ("question", "choices")),
        (["a", "b", "text"], "multiple-choice", {"text": "a", "choices": "b"}, ("a", "b")),
        # Those that training found come first, and only as many as it had.
        (["text", "text_pair", "two", "one"], "classification", FOUND, ("one", "two")),
        (["text", "sentence"], "classification", ONE, ("sentence",)),
        (["one", "two", "text"], "embedding", FOUND, ("text",)),
        (["question", "context", "one", "two"], "question-answering", FOUND, ("one", "two")),
        (["premise", "hypothesis", "text"], "regression", {"pairs": False}, ("text",)),
        (
            ["text", "premise", "hypothesis"],
            "regression",
            {"pairs": True},
            ("premise", "hypothesis"),
        ),
        (
            ["a", "b", "c", "d", "question", "choices"],
            "multiple-choice",
            {"columns": {"text": "a", "pair": "b", "choices": "c,d"}},
            ("a", "b", "c", "d"),
        ),
    ],
)
def test_columns(names: list[str], task: str, trained: dict[str, Any], expected: Any) -> None:
    assert find_columns(names, given=(), task=task, trained=trained).names == expected
    with pytest.raises(InputError, match="cannot tell"):
        find_columns(["x", "y"], given=(), task=task, trained=trained)


@pytest.mark.parametrize("given", [(), ("text",)])
def test_single_texts_for_a_model_of_pairs(given: tuple[str, ...]) -> None:
    trained = {"pairs": True}
    with pytest.raises(InputError, match="holds single texts, the model was trained on pairs of t"):
        find_columns(["text"], given=given, task="classification", trained=trained)
    assert find_columns(["text"], given=given, task="embedding", trained=trained) == Layout("text")


@pytest.mark.parametrize("given", [(), ("sentence1", "sentence2")])
def test_pairs_for_a_model_of_single_texts(given: tuple[str, ...]) -> None:
    names, trained = ["sentence1", "sentence2"], {"pairs": False}
    with pytest.raises(InputError, match="holds pairs of texts, the model was trained on single "):
        find_columns(names, given=given, task="classification", trained=trained)


def test_choices_behind_a_second_text_are_no_usual_ones() -> None:
    trained = {"columns": {"text": "article", "pair": "question", "choices": "options"}}
    with pytest.raises(InputError, match="cannot tell"):
        find_columns(["text", "choices"], given=(), task="multiple-choice", trained=trained)


PAIR, ENDS = Layout("a", "b"), Layout("a", "b", ("c", "d"))
LISTS = Layout("a", None, ("c",))


@pytest.mark.parametrize(
    ("record", "layout", "how", "expected"),
    [
        ({"a": "x", "b": "y"}, PAIR, {}, ("x", "y")),
        ({"a": "x", "b": None}, PAIR, {"pairs": True}, ("x", "")),  # as training reads it
        ({"a": "x"}, Layout("a", "text_pair"), {}, "x"),
        ({"a": "x"}, Layout("a", "text_pair"), {"pairs": True}, ("x", "")),
        ({"a": ["x", "y", 3]}, Layout("a"), {"words": True}, "x y 3"),
        ({"a": "x", "b": "y", "c": "1", "d": "2"}, ENDS, {}, ("x", ["y 1", "y 2"])),
        ({"a": "x", "c": ["1", "2"]}, LISTS, {}, ("x", ["1", "2"])),
        ({"a": "x", "c": {"label": ["A"], "text": ["1"]}}, LISTS, {}, ("x", ["1"])),
    ],
)
def test_what_is_picked(record: Any, layout: Layout, how: dict[str, Any], expected: Any) -> None:
    assert pick(record, layout, **how) == expected


@pytest.mark.parametrize(
    ("record", "layout", "how", "words"),
    [
        ({"a": "x", "b": None}, PAIR, {}, "column 'b' is no text but NoneType"),
        ({"a": ["x"]}, Layout("a"), {}, "column 'a' is no text but list"),
        ({"a": ["x", None]}, Layout("a"), {"words": True}, "column 'a' is no text but list"),
        ({"a": "x", "c": "1"}, LISTS, {}, "column 'c' is no list but str"),
        ({"a": "x", "b": "y", "c": "1"}, ENDS, {}, "column 'd' is missing"),
        ("x", PAIR, {"pairs": True}, "holds single texts, the model was trained on pairs"),
    ],
)
def test_what_cannot_be_picked(record: Any, layout: Layout, how: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pick(record, layout, **how)


def test_a_model_of_pairs_takes_no_single_texts(bench: Bench) -> None:
    packed = bench.subject.packed
    path = bench.folder / "pairs.prn"
    specs = [TensorSpec(name, packed.tensor(name), "dense") for name in packed.names]
    record = {"kind": "classification", "pairs": True}
    write(path, specs, {**packed.metadata, "task": record}, packed.files)
    words = "holds single texts, the model was trained on pairs of texts"
    lines = bench.write("t.txt", "\n".join(TEXTS))
    for asked in (("--text", TEXTS[0]), ("--file", lines, "--out", bench.folder / "o.jsonl")):
        code, _, err = bench(*asked, model=path)
        assert code == 2 and words in " ".join(err.split())
    assert not list(bench.folder.glob("o.jsonl*"))
    assert bench("--text", TEXTS[0], "--text-pair", TEXTS[1], model=path)[0] == 0
    assert bench("--text", TEXTS[0], "--task", "embedding", model=path)[0] == 0
