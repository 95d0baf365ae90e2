"""The demo, on the standard library alone and with few steps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from prunella.demo import tasks, text
from prunella.demo.docstrings import Document


@pytest.fixture(scope="module")
def read() -> list[Document]:
    """The documents of the standard library."""
    patch = pytest.MonkeyPatch()
    patch.setattr(text, "PACKAGES", ())
    found = text.read_documents()
    patch.undo()
    return found


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_corpus_is_prose_without_held_out_modules(read: list[Document], tmp_path: Path) -> None:
    path = text.write_corpus(tmp_path, read)
    content = path.read_text(encoding="utf-8")
    assert len(content) > 500_000
    assert ">>>" not in content
    lines = [line for line in content.splitlines() if line]
    assert len(lines) == len({line.lower() for line in lines})
    held_out = [document for document in read if text.is_validation(document)]
    assert 0.05 < len(held_out) / len(read) < 0.35
    again = text.write_corpus(tmp_path, read).read_text(encoding="utf-8")
    assert again == content


def test_the_tasks_share_no_text_between_their_splits(read: list[Document], tmp_path: Path) -> None:
    described = tasks.write_tasks(tmp_path, read)
    assert described.keys() == {"single", "pair"}
    for name, column in (("single", "text"), ("pair", "text_pair")):
        train, validation = (rows(tmp_path / f"{name}-{s}.jsonl") for s in ("train", "validation"))
        assert len(train) > 300
        assert len(validation) > 50
        assert not {r[column] for r in train} & {r[column] for r in validation}
    labels = Counter(r["label"] for r in rows(tmp_path / "pair-train.jsonl"))
    assert 0.8 < labels["true"] / labels["false"] < 1.25


def test_a_statement_is_true_exactly_when_it_names_the_subject(
    read: list[Document], tmp_path: Path
) -> None:
    tasks.write_tasks(tmp_path, read)
    subject = {r["text"]: r["label"] for r in rows(tmp_path / "single-train.jsonl")}
    for row in rows(tmp_path / "pair-train.jsonl"):
        says = row["text"].removeprefix("This text is about ").removesuffix(".")
        assert (row["label"] == "true") == (says == subject[row["text_pair"]])


def test_texts_do_not_name_their_package(read: list[Document], tmp_path: Path) -> None:
    tasks.write_tasks(tmp_path, read)
    for row in rows(tmp_path / "single-train.jsonl"):
        words = {word.strip(".,:;()'\"").lower() for word in row["text"].split()}
        assert not words & {"asyncio", "tkinter", "sqlite3", "urllib", "subprocess"}


def test_the_demo_ends_with_its_table_and_report_and_resumes(
    read: list[Document],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from prunella.demo import run

    monkeypatch.setattr(run, "read_documents", lambda: read)
    values = {"teach_steps": "6", "prune_steps": "6", "epochs": "0.05"}
    result = run.run_demo(str(tmp_path / "demo"), values=values)
    dense, sparse, int8 = result.rows
    assert dense.sparsity < 0.01
    assert sparse.sparsity == pytest.approx(0.9, abs=0.001)
    assert int8.encoder_bytes < sparse.encoder_bytes < dense.encoder_bytes / 5
    assert int8.file_bytes < sparse.file_bytes < dense.file_bytes
    page = result.report.read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "http-equiv" not in page
    assert 'src="http' not in page
    result.show()
    printed = capsys.readouterr().out
    assert "sparse + int8" in printed
    assert max(map(len, printed.splitlines()[:8])) <= 80
    again = run.run_demo(str(tmp_path / "demo"), values=values)
    assert [row.quality for row in again.rows] == [row.quality for row in result.rows]
