import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from prunella.data import sources
from prunella.data.sources import content_hash, resolve
from prunella.errors import InputError


def documents(*names: str) -> list[list[str]]:
    """The text of sources, as a list of documents, each a list of pieces."""
    found: list[list[str]] = []
    for source in resolve(names):
        for piece in source.pieces():
            if piece.starts_document:
                found.append([])
            found[-1].append(piece.text)
    return found


def write(path: Path, contents: str | bytes) -> str:
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return str(path)


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", "\n\none\n two \r\n \t\n\nthree\n\n")
    assert documents(name) == [["one", "two"], ["three"]]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_without_blank_lines_between_text_each_line_is_a_document(
    tmp_path: Path, ending: str
) -> None:
    assert documents(write(tmp_path / "a.txt", f"one\ntwo{ending}")) == [["one"], ["two"]]


def test_documents_do_not_run_on_into_the_next_file(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.txt", "a\n\nb\nc"), write(tmp_path / "2.txt", "d\ne\n\nf")
    assert documents(one, two) == [["a"], ["b", "c"], ["d", "e"], ["f"]]


def test_only_newlines_end_a_line_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    name = write(tmp_path / "a.txt", "\ufeffa\u2028b\x0bc\n\nd")
    assert documents(name) == [["a\u2028b\x0bc"], ["d"]]


def test_rows_are_documents_and_their_lines_paragraphs(tmp_path: Path) -> None:
    rows = '{"text": "one\\n\\n two", "id": 1}\n\n{"text": ""}\n{"text": "three"}\n'
    assert documents(write(tmp_path / "a.jsonl", rows)) == [["one", "two"], ["three"]]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_compressed_files(tmp_path: Path, name: str, suffix: str, compress: Any) -> None:
    text = '{"text": "x y"}\n' if name == "a.jsonl" else "x y\n\nz"
    plain = write(tmp_path / name, text)
    packed = write(tmp_path / (name + suffix), compress(text.encode()))
    assert documents(packed) == documents(plain)
    write(tmp_path / (name + suffix), compress(text.encode())[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        documents(packed)


def test_globs_are_sorted_recursive_and_overlap_without_doubling(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "no.md"):
        write(tmp_path / name, Path(name).stem)
    every = str(tmp_path / "**" / "*.txt")
    assert documents(every) == [["a"], ["b"], ["c"]]
    assert documents(str(tmp_path / "b.txt"), every) == [["b"], ["a"], ["c"]]
    assert documents(write(tmp_path / "[x].txt", "brackets")) == [["brackets"]]


@pytest.mark.parametrize(
    ("contents", "line", "what"),
    [
        (b"fine\n\nbro\xffken\n", 3, "UTF-8"),
        (b"fine\nends inside \xe2\x82", 2, "UTF-8"),
    ],
)
def test_broken_utf8_is_named_with_its_line(
    tmp_path: Path, contents: bytes, line: int, what: str
) -> None:
    with pytest.raises(InputError, match=rf"a\.txt, line {line}: .*{what}"):
        documents(write(tmp_path / "a.txt", contents))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (b'{"text": "bro\xffken"}', "UTF-8"),
        (b'{"text": ', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'["text"]', '"text" column'),
        (b'{"words": "x"}', '"text" column'),
        (b'{"text": null}', "NoneType"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_broken_rows_are_named_with_their_line(tmp_path: Path, row: bytes, what: str) -> None:
    name = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n\n' + row + b"\n")
    with pytest.raises(InputError, match=rf"a\.jsonl, line 3: .*{what}"):
        documents(name)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for names, what in (
        ([], "No text source"),
        ([str(tmp_path / "missing.txt")], "no such file"),
        ([str(tmp_path / "*.txt")], "no file matches"),
        ([str(tmp_path)], "is a folder"),
    ):
        with pytest.raises(InputError, match=what):
            resolve(names)


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "empty.txt.gz", "empty.txt.xz"])
def test_files_without_text(tmp_path: Path, name: str) -> None:
    contents = {".gz": gzip.compress(b" \n"), ".xz": lzma.compress(b"")}
    with pytest.raises(InputError, match=f"{name}: holds no text"):
        documents(write(tmp_path / name, contents.get(Path(name).suffix, b"")))


@settings(max_examples=50)
@given(lines=st.lists(st.text(st.sampled_from("ab é€𝄞\u00a0"), max_size=60), min_size=1))
def test_long_lines_come_in_bounded_pieces_that_join_to_the_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    lines = ["start", *lines, "end"]
    name = write(tmp_path_factory.mktemp("long") / "a.jsonl.txt", "\n\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE_BYTES", 16)
        pieces = documents(name)
    assert all(len(piece.encode()) <= 2 * 16 for document in pieces for piece in document)
    joined = ["".join("".join(document).split()) for document in pieces]
    assert joined == ["".join(line.split()) for line in lines if line.strip()]


def test_hub_column(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(*arguments: object, **options: object) -> datasets.Dataset:
        calls.append((*arguments, options["split"]))
        return datasets.Dataset.from_dict({"text": ["a\n\nb", "", "c"], "body": ["x", "y", "z"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert documents("hub:owner/name") == [["a", "b"], ["c"]]
    assert documents("hub:owner/name/part:body", "hub:name") == [
        *(["x"], ["y"], ["z"]),
        *(["a", "b"], ["c"]),
    ]
    assert calls == [
        ("owner/name", None, "train"),
        ("owner/name", "part", "train"),
        ("name", None, "train"),
    ]
    with pytest.raises(InputError, match="no column 'title'; it has text, body"):
        resolve(["hub:owner/name:title"])
    with pytest.raises(InputError, match="hub:NAME"):
        resolve(["hub:a/b/c/d"])


def test_hub_data_set_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise DatasetNotFoundError("it is not there")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match="hub:owner/name: cannot be loaded: it is not there"):
        resolve(["hub:owner/name"])


def test_hub_data_set_that_is_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` says so with a RuntimeError; the Hub may have converted it."""
    converted = True

    def load_dataset(*_: object, revision: str = "main", **__: object) -> datasets.Dataset:
        if revision == "main" or not converted:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return datasets.Dataset.from_dict({"text": [revision]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert documents("hub:owner/name") == [["refs/convert/parquet"]]
    converted = False
    with pytest.raises(InputError, match="hub:owner/name: cannot be loaded: .*no longer supported"):
        resolve(["hub:owner/name"])


def test_the_hash_is_of_the_contents(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.txt", "a\n\nb\n"), write(tmp_path / "2.txt", "c\n")
    before = content_hash([one, two])
    assert content_hash([str(tmp_path / "?.txt")]) == before
    assert content_hash([two, one]) != before  # another order of documents
    assert content_hash([one]) != before
    write(tmp_path / "2.txt", "d\n")
    assert content_hash([one, two]) != before
    assert content_hash(["hub:owner/a"]) != content_hash(["hub:owner/b"])
    assert content_hash([one, "hub:owner/a"]) != content_hash([one])
    with pytest.raises(InputError, match="there is no such file"):
        content_hash([one, str(tmp_path / "3.txt")])
