"""Sentences of CoNLL files, and what tells them from tables."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.readers import read_table
from prunella.errors import InputError

TWO_COLUMNS = "Colon\tB-Disease\ncancer\tI-Disease\n\nNone\tO\n"
SENTENCES = [
    {"tokens": ["Colon", "cancer"], "tags": ["B-Disease", "I-Disease"]},
    {"tokens": ["None"], "tags": ["O"]},
]
CONLL_2003 = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n"
    "-DOCSTART- -X- -X- O\n\n# NN B-NP O\n"
)


def _read(folder: Path, name: str, text: str) -> list[dict[str, list[str]]]:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_table(str(path)).to_list()


@pytest.mark.parametrize("name", ["t.conll", "t.iob", "t.bio", "t.tsv", "t.txt", "t.tsv.gz"])
def test_every_name_gives_the_same_sentences(tmp_path: Path, name: str) -> None:
    assert _read(tmp_path, name, TWO_COLUMNS) == SENTENCES
    assert _read(tmp_path, name, TWO_COLUMNS.replace("\t", "  ")) == SENTENCES
    assert _read(tmp_path, name, "\ufeff\n\n" + TWO_COLUMNS.replace("\n", " \r\n")) == SENTENCES
    assert _read(tmp_path, name, "# text = Colon\n" + TWO_COLUMNS) == SENTENCES


@pytest.mark.parametrize("name", ["t.conll", "t.txt", "t.tsv"])
def test_documents_are_parted_and_the_last_column_is_the_tag(tmp_path: Path, name: str) -> None:
    assert _read(tmp_path, name, CONLL_2003) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["#"], "tags": ["O"]},
    ]


@pytest.mark.parametrize("name", ["t.conll", "t.txt", "t.bio"])
def test_comments_before_a_sentence_of_a_file_parted_by_spaces(tmp_path: Path, name: str) -> None:
    text = "# id 12 domain=dev\n# x\nColon B-D\n# O\ncancer I-D\n\n#no O\n\n# end\n"
    assert _read(tmp_path, name, text) == [
        {"tokens": ["Colon", "#", "cancer"], "tags": ["B-D", "O", "I-D"]},
        {"tokens": ["#no"], "tags": ["O"]},
    ]


def test_a_hash_is_a_word_where_tags_are_of_any_kind(tmp_path: Path) -> None:
    assert _read(tmp_path, "t.conll", "# SYM\n5 CD\n")[0]["tokens"] == ["#", "5"]


def test_tags_of_any_kind_in_a_file_named_so(tmp_path: Path) -> None:
    text = "The\tDT\ndog\tNN\n\nbarks\tVBZ"
    found = _read(tmp_path, "t.conll", text)
    assert found[0] == {"tokens": ["The", "dog"], "tags": ["DT", "NN"]}
    with pytest.raises(InputError, match=r"t\.tsv: blank lines between rows .* name the file .con"):
        _read(tmp_path, "t.tsv", text)


def test_other_spaces_are_words(tmp_path: Path) -> None:
    assert _read(tmp_path, "t.tsv", "\xa0\tO\na\u2003b\tB-X\n")[0]["tokens"] == ["\xa0", "a\u2003b"]


@pytest.mark.parametrize(
    "table",
    [
        "text\tlabel\nfine\t1\nbad\t0\n",
        "label\ttext\n1\tO\n0\tall that\n",
        "text\nO\n\nB-X\n",
        "text\ttag\nNew York\tB-LOC\nhe\tno\n",
    ],
)
def test_tables_stay_tables(tmp_path: Path, table: str) -> None:
    header, *rows = (line for line in table.split("\n") if line)
    found = _read(tmp_path, "t.tsv", table)
    assert [list(row.values()) for row in found] == [row.split("\t") for row in rows]
    assert list(found[0]) == header.split("\t")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.conll", "a\tO\nb\n", "line 2: no tag behind 'b'"),
        ("t.conll", "a O\n\nb NN O\n", "line 3: 3 columns where the first line has 2"),
        ("t.tsv", "a\tO\n\tO\n", "line 2: the word is empty"),
        ("t.conll", "a\tO\nb\t \n", "line 2: the tag is empty"),
        ("t.tsv", "a fine day\tlabel\nwell\tO\n\nnot so\tB-x\n", "line 1: 'a fine day label' is"),
        ("t.tsv", "word\ttag\na\tO\nb\tB-X\n", "line 1: 'word tag' is no word with its tag"),
        ("t.conll", "word tag\na O\n\nb B-X\n", "line 1: 'word tag' is no word"),
        ("t.conll", "1 a O\n2 b O\n\n1 c O\n", "first column counts the words"),
        ("t.conll", "-DOCSTART- -X- O\n\n", "has no rows"),
        ("t.txt", "A text.\n\nAnother text.\n", "unknown format; a .txt must hold a word a line"),
        ("t.tsv", "no\tYES\n\nyes\tNO\n", "blank lines between rows of single words"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _read(tmp_path, name, text)
    assert name in str(caught.value)


WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1)
TAGS = st.sampled_from(["O", "B-X", "I-X", "S-a-b", "E-é"])


@given(st.lists(st.lists(st.tuples(WORDS, TAGS), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]]
) -> None:
    text = "\n\n".join("\n".join("\t".join(pair) for pair in words) for words in sentences)
    counted = all([w for w, _ in s] == [str(i + 1) for i in range(len(s))] for s in sentences)
    if counted or text.startswith("-DOCSTART-"):
        return
    folder = tmp_path_factory.getbasetemp()
    expected = [{"tokens": [w for w, _ in s], "tags": [t for _, t in s]} for s in sentences]
    assert _read(folder, "written.tsv", text) == expected
