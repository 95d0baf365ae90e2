"""Rows out of files of every format, good and bad, in constant memory."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path
from typing import Any

import pytest

from prunella.errors import InputError
from prunella.rows import Row, Rows


def read(path: Path, content: bytes | str, **settings: Any) -> list[Row]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = Rows(str(path), **settings)
    try:
        return list(rows)
    finally:
        rows.close()


def plain(rows: list[Row]) -> list[tuple[int, Any]]:
    """(line, record), errors as their message."""
    return [(r.line, str(r.record) if isinstance(r.record, InputError) else r.record) for r in rows]


GOOD = {
    "r.jsonl": '{"text": "a"}\n\n"b"\r\n  {"text": "\u2028", "n": 1}',
    "r.ndjson": '\ufeff{"text": "a"}\n\n"b"\n{"text": "\u2028", "n": 1}\n',
}


@pytest.mark.parametrize("name", GOOD)
def test_json_lines(tmp_path: Path, name: str) -> None:
    assert plain(read(tmp_path / name, GOOD[name])) == [
        (1, {"text": "a"}),
        (3, "b"),
        (4, {"text": "\u2028", "n": 1}),
    ]


def test_csv_quotes_line_breaks(tmp_path: Path) -> None:
    rows = read(tmp_path / "r.csv", 'text,label\n"a ""b""\n, c",1\n\nd,2\n')
    assert plain(rows) == [
        (2, {"text": 'a "b"\n, c', "label": "1"}),
        (5, {"text": "d", "label": "2"}),
    ]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    rows = read(tmp_path / "r.tsv", 'text\tlabel\r\n"a\t1\r\n\r\nb"\t2')
    assert plain(rows) == [(2, {"text": '"a', "label": "1"}), (4, {"text": 'b"', "label": "2"})]


def test_plain_lines(tmp_path: Path) -> None:
    assert plain(read(tmp_path / "r.txt", "{a}\n\n  b \n")) == [(1, "{a}"), (3, "  b ")]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed(tmp_path: Path, suffix: str, pack: Any) -> None:
    content = "".join(f"line {i}\n" for i in range(5000))
    path = tmp_path / f"r.txt{suffix}"
    assert len(read(path, pack(content.encode()))) == 5000
    rows = Rows(str(path))
    assert rows.total == path.stat().st_size
    for _ in rows:
        assert 0 < rows.position <= rows.total
    assert rows.position == rows.total
    rows.close()
    with pytest.raises(InputError, match=rf"r.txt{suffix}, line \d+: cannot be read"):
        read(path, pack(content.encode())[:-30])


BAD = {
    "broken JSON": ("r.jsonl", '{"text": "a"}\n{"text": \n"b"\n', 2, "not valid JSON"),
    "no object": ("r.jsonl", '"a"\n[1]\n"b"\n', 2, "expected an object"),
    "deep": ("r.jsonl", '"a"\n' + "[" * 200_000 + '\n"b"\n', 2, "unreadable JSON"),
    "a huge number": ("r.jsonl", '"a"\n' + "9" * 5000 + '\n"b"\n', 2, "unreadable JSON"),
    "JSON in Latin-1": ("r.jsonl", b'"a"\n"\xe9"\n"b"\n', 2, "not UTF-8"),
    "lines in Latin-1": ("r.txt", b"a\n\xe9\nb\n", 2, "not UTF-8"),
    "csv in Latin-1": ("r.csv", b"text\na\n\xe9\nb\n", 3, "not UTF-8"),
    "too few cells": ("r.csv", "text,label\na,1\nb\nc,2\n", 3, "1 fields"),
    "too many cells": ("r.tsv", "text\tlabel\na\t1\nb\t\t\nc\t2\n", 3, "3 fields"),
    "stray quote": ("r.csv", 'text\na\n"b"c\nd\n', 3, "a quote left open"),
    "endless line": ("r.txt", "a\n" + "x" * (1 << 25) + "\nb\n", 2, "longer than 16 MB"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_does_not_end_the_file(tmp_path: Path, case: str) -> None:
    name, content, line, words = BAD[case]
    rows = read(tmp_path / name, content)
    bad = [row for row in rows if isinstance(row.record, InputError)]
    assert [row.line for row in bad] == [line]
    assert words in str(bad[0].record)
    assert len(rows) == 3 and rows.index(bad[0]) == 1


def test_quote_left_open(tmp_path: Path) -> None:
    rows = read(tmp_path / "r.csv", 'text\na\n"b\nc\n')
    assert rows[0].record == {"text": "a"}
    assert len(rows) == 2 and rows[1].line == 3 and isinstance(rows[1].record, InputError)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.doc", "a", "unknown format"),
        ("r.json", "[]", "unknown format"),
        ("r.csv", "a,a\n1,2\n", "names a column twice"),
        ("r.csv", b"\xe9\n1\n", "column names cannot be read"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes | str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path / name, content)


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a")
    with pytest.raises(InputError, match=r"did you mean 'texts.txt'"):
        Rows(str(tmp_path / "text.txt"))
    with pytest.raises(InputError, match="cannot read .*: Is a directory"):
        Rows(str(tmp_path), "text")


def test_nothing_is_no_error(tmp_path: Path) -> None:
    for name in ("r.csv", "r.jsonl", "r.txt", "r.tsv"):
        assert read(tmp_path / name, "") == []


@pytest.mark.parametrize(
    ("content", "records"),
    [(b'{"text": "a"}\n', [{"text": "a"}]), (b"\n\nplain\n{x\n", ["plain", "{x"])],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes, records: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    rows = Rows("-")
    assert [row.record for row in rows] == records
    assert rows.total is None and rows.position == 0
    rows.close()


def test_format_by_name_of_the_user(tmp_path: Path) -> None:
    assert plain(read(tmp_path / "r.log", "a\tb\n1\t2\n", format="tsv")) == [
        (2, {"a": "1", "b": "2"})
    ]
