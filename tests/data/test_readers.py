"""Reading tables: every format gives the same rows, every broken file a plain message."""

import contextlib
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from prunella.data.formats import hub
from prunella.data.readers import content_hash, read_table
from prunella.errors import InputError

TEXTS = ['say "no", twice', "naïve\u2028break", "tab-free"]
LABELS = ["a", "b", "a"]
ROWS = [{"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)]


def _csv() -> str:
    cells = ['"' + t.replace('"', '""') + '"' for t in TEXTS]
    return "text,label\r\n" + "".join(f"{c},{y}\r\n" for c, y in zip(cells, LABELS, strict=True))


def _parquet(columns: dict[str, Any] | None = None, metadata: Any = None) -> bytes:
    table = pa.table(columns or {"text": TEXTS, "label": LABELS})
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


def _broken_utf8() -> pa.Array:
    return pa.array([b"caf\xe9"], pa.binary()).view(pa.string())


CONTENTS = {
    "t.csv": _csv().encode(),
    "t.tsv": ("text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in ROWS)).encode(),
    "t.jsonl": "\n\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS).encode(),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "columns.json": json.dumps({"text": TEXTS, "label": LABELS}).encode(),
    "lines.json": "\n".join(map(json.dumps, ROWS)).encode(),
    "t.parquet": _parquet(),
}


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".GZ"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, ending: str) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".GZ": gzip.compress, ".xz": lzma.compress}
    path = tmp_path / (name + ending)
    path.write_bytes(compress[ending](CONTENTS[name]))
    assert read_table(str(path)).to_list() == ROWS


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + CONTENTS["t.csv"])
    assert read_table(str(path)).column_names == ["text", "label"]


def test_a_changed_file_is_read_anew_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nold,1\n")
    before = read_table(str(path))
    path.write_text("text,label\nnew,1\n")
    after = read_table(str(path))
    assert (before["text"][:], after["text"][:]) == (["old"], ["new"])
    assert after.cache_files == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_is_none_among_texts_is_missing(tmp_path: Path) -> None:
    """As pandas writes a missing text."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": NaN}\n{"text": 5.5}\n')
    assert read_table(str(path))["text"][:] == ["a", None, "5.5"]


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nNA,007\nnull,1\n")
    assert read_table(str(path)).to_list() == [
        {"text": "NA", "label": "007"},
        {"text": "null", "label": "1"},
    ]


def test_a_csv_field_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"two\nlines",1\n')
    assert read_table(str(path))["text"][:] == ["two\nlines"]


@pytest.mark.parametrize(
    ("contents", "row"),
    [
        ("text;label\na, b;1\n", {"text": "a, b", "label": "1"}),
        ('text;label\n"a; b";1\n', {"text": "a; b", "label": "1"}),
        ('text,"a;b"\nc;d,1\n', {"text": "c;d", "a;b": "1"}),
    ],
)
def test_semicolons_part_the_cells_of_a_csv_without_commas_in_its_first_line(
    tmp_path: Path, contents: str, row: dict[str, str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(contents)
    assert read_table(str(path)).to_list() == [row]


def test_missing_keys_are_none_and_mixed_columns_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": "x", "b": 2.5}\n{"a": [1, 2], "b": 3}\n')
    assert read_table(str(path)).to_list() == [
        {"a": "1", "b": None},
        {"a": "x", "b": 2.5},
        {"a": "[1, 2]", "b": 3.0},
    ]


def test_parquet_keeps_class_names_and_plain_categories(tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    table.to_parquet(str(tmp_path / "hf.parquet"))
    assert read_table(str(tmp_path / "hf.parquet")).features["label"].names == ["no", "yes"]
    categories = pa.table({"label": pa.array(["x", "y", "x"]).dictionary_encode()})
    pq.write_table(categories, tmp_path / "pandas.parquet")
    assert read_table(str(tmp_path / "pandas.parquet"))["label"][:] == ["x", "y", "x"]


BROKEN = [
    ("t.csv", b"", "is empty"),
    ("t.jsonl", b" \n\n", "is empty"),
    ("t.csv", b"text,label\n", "has no rows"),
    ("t.json", b"[]", "has no rows"),
    ("t.json", b"{}", "has no rows"),
    ("t.csv.gz", b"", "is empty"),
    ("t.csv.gz", gzip.compress(b"text\nabc\n")[:-9], "not a whole .gz file"),
    ("t.csv.gz", b"text,label\na,1\n", "not a whole .gz file"),
    ("t.csv.xz", lzma.compress(b"text\nabc\n")[:-4], "not a whole .xz file"),
    ("t.csv", b"text,label\na,1\ncaf\xe9,1\n", "line 3: not UTF-8 .byte 0xe9"),
    ("t.tsv", b"text\tlabel\na\xff\t1\n", "line 2: not UTF-8"),
    ("t.jsonl", b'{"text": "\xe9"}\n', "line 1: not UTF-8"),
    ("t.jsonl", "text".encode("utf-16"), "line 1: not UTF-8"),
    ("t.jsonl", b'{"a": 1}\n\n{"a": \n', "line 3, character 7: not valid JSON"),
    ("t.jsonl", b'[{"a": 1}]\n', "line 1: expected an object .*found list"),
    ("t.jsonl", b'{"a": "\\ud800"}\n', "row 1, column 'a': half of a surrogate pair"),
    ("t.jsonl", b'{"a": {"b": ["x"]}}\n{"a": {"b": ["\\ud800"]}}\n', "row 2, column 'a': half of"),
    ("t.jsonl", b"[" * 100_000, "line 1: unreadable JSON"),
    ("t.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: unreadable JSON"),
    ("t.json", b'[\n{"a": 1},\n{"a" 2}\n]', "line 3, character 6: not valid JSON"),
    ("t.json", b'{"a": 1}\n{"a" 2}\n', "line 2, character 6: not valid JSON"),
    ("t.json", b'[{"a": 1}, 5]', "item 2: expected an object .*found int"),
    ("t.json", b'{"a": [1, 2], "b": [1]}', "different lengths: {'a': 2, 'b': 1}"),
    ("t.csv", b"text,label\na,1\nb\n", "line 3: 1 fields .* names 2 columns"),
    ("t.csv", b"text;label\na;1;2\n", "line 2: 3 fields .*hold semicolons"),
    ("t.csv", b'text,label\n"a\nb",1\nc,d,e\n', "line 4: 3 fields"),
    ("t.csv", b'text,label\na,1\n"b,1\nc,1\n', "row that starts at line 3: .*quote left open"),
    ("t.csv", b"text,label\n" + b"a" * 200_000 + b",1\n", "line 2: .*use JSON lines"),
    ("t.csv", b"text,text\na,1\n", "names a column twice"),
    ("t.tsv", b"text\tlabel\na\tb\t1\n", "line 2: 3 fields .*tsv has no quoting"),
    ("t.parquet", b"PAR1 nonsense PAR1", "not a whole parquet file"),
    ("t.parquet", _parquet()[:-20], "not a whole parquet file"),
    ("t.parquet", _parquet({"text": _broken_utf8()}), "not a whole parquet file: .*UTF8"),
    ("t.parquet", _parquet(metadata={"huggingface": "{"}), "broken description of its columns"),
    ("t.parquet", _parquet(metadata={"huggingface": "[]"}), "broken description of its columns"),
    ("t.txt", b"text", "unknown format; a .txt must hold a word a line with its tag"),
    ("t.doc", b"text", "unknown format; use one of .csv, .tsv"),
    ("t.gz", b"text", "unknown format"),
]


# Names, not contents: gzip writes the time into its header, and processes that
# share the tests between them must agree on what each test is called.
@pytest.mark.parametrize(
    ("name", "contents", "message"),
    BROKEN,
    ids=[f"{name}-{message}" for name, _, message in BROKEN],
)
def test_broken_files(tmp_path: Path, name: str, contents: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(InputError, match=message) as caught:
        read_table(str(path))
    assert name in str(caught.value)


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "conll", "txt"])
@given(
    contents=st.binary(max_size=40)
    | st.text('{}[]:,"\\\t\r\n ab1\u2028', max_size=40).map(str.encode)
)
@settings(max_examples=50)
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, format: str, contents: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{format}"
    path.write_bytes(contents)
    with contextlib.suppress(InputError):
        assert len(read_table(str(path))) >= 1


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"no such file: .*did you mean 'train.csv'"):
        read_table(str(tmp_path / "trian.csv"))
    with pytest.raises(InputError, match="no such file"):
        read_table(str(tmp_path / "nowhere" / "train.csv"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match="cannot read"):
        read_table(str(tmp_path / "t.csv"))


def test_a_split_is_for_the_hub_only(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(InputError, match="only for 'hub:'"):
        read_table(str(tmp_path / "t.csv"), "train")
    with pytest.raises(InputError, match="which split"):
        read_table("hub:glue/sst2")
    for source in ("hub:", "hub:a//b", "hub:a/b/c/d"):
        with pytest.raises(InputError, match="expected hub:NAME"):
            read_table(source, "train")


@pytest.mark.parametrize(
    ("source", "name", "config"),
    [
        ("hub:imdb", "imdb", None),
        ("hub:nyu-mll/glue/sst2", "nyu-mll/glue", "sst2"),
        ("hub:stanfordnlp/imdb", "stanfordnlp/imdb", None),
        ("hub:glue/sst2", "glue", "sst2"),
    ],
)
def test_hub_names(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, config: str | None
) -> None:
    def load(asked: str, asked_config: str | None, split: str) -> datasets.Dataset:
        if (asked, asked_config) != (name, config):
            raise DatasetNotFoundError(asked)
        return datasets.Dataset.from_dict({"text": [split]})

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    assert read_table(source, "test").to_list() == [{"text": "test"}]
    with pytest.raises(InputError, match="no such data set"):
        read_table("hub:no/such/thing", "test")


def test_a_hub_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise ValueError("Unknown split \"dev\". Should be one of ['train']")

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    with pytest.raises(InputError, match="split 'dev': Unknown split"):
        read_table("hub:imdb", "dev")


def test_the_hash_is_of_the_contents(tmp_path: Path) -> None:
    plain, other = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    plain.write_bytes(CONTENTS["t.csv"])
    other.write_bytes(gzip.compress(CONTENTS["t.csv"]))
    before = content_hash(str(plain))
    assert content_hash(str(other)) == before
    plain.write_bytes(CONTENTS["t.csv"].replace(b"naive", b"navie") + b"one more,a\r\n")
    assert content_hash(str(plain)) != before
    assert content_hash("hub:owner/a") != content_hash("hub:owner/b")
    with pytest.raises(InputError, match=r"no such file.*did you mean 'a\.csv'"):
        content_hash(str(tmp_path / "aa.csv"))
