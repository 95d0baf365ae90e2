"""The demo, on part of this installation and with few steps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from prunella.demo import tasks, text
from prunella.demo.docstrings import Document


@pytest.fixture(scope="module")
def read() -> list[Document]:
    """The documents of the standard library and a few packages."""
    patch = pytest.MonkeyPatch()
    patch.setattr(text, "PACKAGES", ("numpy", "networkx", "mpmath"))
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
    for name in described:
        train, validation = (rows(tmp_path / f"{name}-{s}.jsonl") for s in ("train", "validation"))
        assert len(train) > 100
        assert len(validation) > 20
        texts = [
            {r[column] for r in split for column in ("text", "text_pair") if column in r}
            for split in (train, validation)
        ]
        assert not texts[0] & texts[1]
    labels = Counter(r["label"] for r in rows(tmp_path / "pair-train.jsonl"))
    assert 0.7 < labels["first"] / labels["second"] < 1.4


def test_a_pair_is_labelled_by_the_place_of_the_text_about_numbers(
    read: list[Document], tmp_path: Path
) -> None:
    tasks.write_tasks(tmp_path, read)
    subject = {r["text"]: r["label"] for r in rows(tmp_path / "single-train.jsonl")}
    for row in rows(tmp_path / "pair-train.jsonl"):
        about = [subject[row["text"]], subject[row["text_pair"]]]
        numbers = [s in ("arrays of numbers", "machine learning", "mathematics") for s in about]
        assert numbers == ([True, False] if row["label"] == "first" else [False, True])


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
    assert 'src="http' not in page
    result.show()
    printed = capsys.readouterr().out
    assert "sparse + int8" in printed
    assert max(map(len, printed.splitlines()[:8])) <= 80
    again = run.run_demo(str(tmp_path / "demo"), values=values)
    assert [row.quality for row in again.rows] == [row.quality for row in result.rows]
