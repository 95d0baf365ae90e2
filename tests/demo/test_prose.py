"""Prose out of docstrings of every habit."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.demo.prose import is_prose, masked, paragraphs, plain

NUMPYDOC = inspect.cleandoc(
    """
    Estimate the spread of samples
    around their mean.

    See `numpy.var` and :func:`~scipy.stats.tstd` for *more* than this [1]_.

    Parameters
    ----------
    samples : array_like, optional
        The numbers whose spread is asked for. If None, then an
        empty list is used.
    n_jobs : int
        The number of jobs that run at the same time.

    Returns
    -------
    float
        The spread, which is never less than zero.

    .. versionadded:: 1.2
       The new option is now the one that is used.

    .. note:: This is the one thing that you must not forget.

    Examples
    --------
    This is an example of how it can be used in code.

    >>> spread([1, 2])
    0.5
    and this is the output that it has in a shell.
    """
)

GOOGLE = inspect.cleandoc(
    """Read the whole of a file into memory.

    For example, this is the way to do it::

        with open(name) as file: it is the content of the file that is read.

    ```python
    this is code in a fence and it is not for the reader.
    ```

    - A list has items, and each of them is a paragraph
      that may go on in the next line.
    - This is the second of the items in the list.

    Args:
        name (str): The name of the file which is to be read,
            with all of its folders.
        `keep_ends` (`bool`, *optional*): Whether the end of each line is kept as it is.
    """
)


def test_numpydoc():
    assert [plain(p) for p in paragraphs(NUMPYDOC)] == [
        "Estimate the spread of samples around their mean.",
        "See numpy.var and scipy.stats.tstd for more than this.",
        "The numbers whose spread is asked for. If None, then an empty list is used.",
        "The number of jobs that run at the same time.",
        "The spread, which is never less than zero.",
        "This is the one thing that you must not forget.",
    ]


def test_google_lists_and_code():
    assert [plain(p) for p in paragraphs(GOOGLE)] == [
        "Read the whole of a file into memory.",
        "For example, this is the way to do it:",
        "A list has items, and each of them is a paragraph that may go on in the next line.",
        "This is the second of the items in the list.",
        "The name of the file which is to be read, with all of its folders.",
        "Whether the end of each line is kept as it is.",
    ]


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("Use `torch.nn` or numpy.asarray here.", "Use X or X here."),
        ("The n_jobs of RandomForest and getValue(x) count.", "The X of X and X count."),
        ("Plain English, e.g. this one, stays.", "Plain English, e.g. this one, stays."),
    ],
)
def test_masked_hides_code(paragraph, expected):
    assert masked(paragraph) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The whole of it is a sentence.", True),
        ("Too short to be.", False),
        ("The whole of it is not a sentence", False),
        ("x = f(y) + g(z) - h(x) for all of the y.", False),
        ("alpha beta gamma delta epsilon zeta eta theta iota.", False),
        ("- the dash is at the start of this one.", False),
    ],
)
def test_is_prose(text, expected):
    assert is_prose(text) is expected


@given(st.text(max_size=300))
def test_no_docstring_breaks_it_and_paragraphs_are_single_lines_of_prose(text):
    for paragraph in paragraphs(text):
        assert is_prose(paragraph)
        assert len(paragraph.splitlines()) == 1
        assert "`" not in plain(paragraph) or paragraph.count("`") % 2


def test_time_grows_with_the_length_only():
    # Regular expressions that backtrack would take minutes here.
    hostile = ["(" * 5000 + " : x", "`" * 5001, "a_" * 5000, "* " * 5000, "x (" * 3000 + ": y"]
    for text in hostile:
        assert paragraphs(text) == []
        masked(text)
