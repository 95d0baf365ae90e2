"""Reading source files without importing them, and the corpus made of them."""

from pathlib import Path

import pytest

from prunella.demo import text
from prunella.demo.declarations import Declaration, in_words, parameter_declarations
from prunella.demo.docstrings import Document, Entry, read_module, read_package

MODULE = '''
"""This is what the module is about."""
raise SystemExit("must not run")

class Thing:
    r"""A thing with \\d that is in the module."""

    def method(self):
        "This is what the method does with it."

        def inner():
            """This one is not for the reader of it."""

async def function(a, /, b):
    """This is what the function does.

    Args:
        b (`int`, *optional*): The number of things that it does.
    """

def silent():
    return 1
'''


def test_a_module_is_read_in_order_and_never_run(tmp_path: Path):
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    entries = read_module(path)
    assert [entry.paragraphs[0] for entry in entries] == [
        "This is what the module is about.",
        "A thing with d that is in the module.",
        "This is what the method does with it.",
        "This is what the function does.",
    ]
    assert entries[3].parameters == (
        Declaration("b", "int, optional", "The number of things that it does."),
    )


@pytest.mark.parametrize(
    "content",
    [b"def (", b"\x00", b"\xff\xfe\xff", b"# coding: nonsense\n", b"(" * 500, b"x = '\\d'\n", b""],
)
def test_what_does_not_parse_is_left_out(tmp_path: Path, content: bytes):
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    assert read_module(path) == []


def test_a_missing_file_is_left_out(tmp_path: Path):
    assert read_module(tmp_path / "none.py") == []


def write_package(root: Path, names: list[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        said = name.replace("/", " in ").replace("_", " ").removesuffix(".py")
        path.write_text(f'"""This is all that the file {said} has to say."""\n')


def test_a_package_is_read_in_sorted_order_without_tests(tmp_path: Path):
    names = [
        "b.py",
        "a/__init__.py",
        "a/c.py",
        "tests/d.py",
        "a/test_e.py",
        "_vendor/f.py",
        "g/h.py",
    ]
    write_package(tmp_path, names)
    documents = list(read_package(tmp_path, "package", frozenset({"g"})))
    assert [document.name for document in documents] == ["package.a", "package.a.c", "package.b"]


def test_of_a_large_package_a_part_is_read_spread_over_the_names(tmp_path: Path):
    names = [f"{letter}.py" for letter in "abcdefghijklmnopqrst"]
    write_package(tmp_path, names)
    size = (tmp_path / "a.py").stat().st_size
    read = [d.name for d in read_package(tmp_path, "", most_bytes=8 * size)]
    assert len(read) == 8
    assert read == sorted(read)
    assert read != list("abcdefgh")
    assert read == [d.name for d in read_package(tmp_path, "", most_bytes=8 * size)]


@pytest.mark.parametrize(
    ("name", "words"),
    [("n_jobs", "n jobs"), ("keepEnds", "keep ends"), ("_private", "private"), ("URL", "url")],
)
def test_in_words(name, words):
    assert in_words(name) == words


def test_declarations_of_both_habits():
    docstring = (
        "Summary.\n\n"
        "x_min : {float, `int`}\n"
        "    The least of the numbers that are drawn,\n"
        "    or of those that are kept.\n\n"
        "    A second paragraph that is not part of it.\n"
        "y : int\n"
        "    short\n"
        "Args:\n"
        "    z (str): The name of the file that is read.\n"
    )
    assert list(map(str, parameter_declarations(docstring))) == ["x min, {float, int}", "z, str"]
    first = next(parameter_declarations(docstring))
    assert (
        first.description == "The least of the numbers that are drawn, or of those that are kept."
    )


def document(name: str, *paragraphs: str, parameters: tuple[Declaration, ...] = ()) -> Document:
    return Document(name, (Entry(paragraphs, parameters),))


def kept_and_held_out() -> tuple[str, str]:
    names = [f"module{n}" for n in range(40)]
    held_out = [name for name in names if text.is_validation(document(name))]
    return next(name for name in names if name not in held_out), held_out[0]


def test_the_corpus_has_one_paragraph_a_line_and_none_of_the_held_out(tmp_path: Path):
    kept, held_out = kept_and_held_out()
    axis = Declaration("axis", "int", "The axis along which it is `done`.")
    documents = [
        document(kept, "The first one of them.", axis.description, parameters=(axis,)),
        document(held_out, "A secret of the module.", "In both of the modules!"),
        document(kept, "In both, of the modules.", "The first (one) of them."),
        document(kept, "The last one of them all."),
    ]
    path = text.write_corpus(tmp_path / "new" / "folder", documents)
    assert path.read_text(encoding="utf-8") == (
        "The first one of them.\n"
        "axis, int: The axis along which it is done.\n\n"
        "The last one of them all.\n\n"
    )


def test_packages_that_are_not_installed_are_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text, "PACKAGES", ("no_such_package_here",))
    monkeypatch.setattr(text, "read_package", lambda *arguments: iter(()))
    names = [found.name for found in text.read_documents()]
    assert names == sorted(names)
    assert "topics.assignment" in names
