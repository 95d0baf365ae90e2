"""The same tables in 80 columns."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prunella.report.tables import Cell, Column, human_duration
from prunella.report.terminal import human_bytes, table


def printed(*arguments) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(table(*arguments))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (17_400_000, "17.4 MB"),
        (2.5e9, "2.50 GB"),
        (7e12, "7.00 TB"),
    ],
)
def test_human_bytes(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (4379, "1 h 12 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_human_duration(seconds, text):
    assert human_duration(seconds) == text


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_human_bytes_keeps_three_digits_and_the_order(a, b):
    units = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

    def back(count: int) -> float:
        number, unit = human_bytes(count).split()
        return float(number) * units[unit]

    assert back(a) == pytest.approx(a, rel=0.0051)
    if a <= b:
        assert back(a) <= back(b)


def test_a_wide_table_fits_80_columns_and_keeps_every_number_whole():
    columns = [
        Column("Model"),
        *(Column(f"Task number {n}", "accuracy, %", format=".2f", numeric=True) for n in range(3)),
        Column("Zeros in the encoder", "%", format=".1f", numeric=True),
        Column("Encoder on disk", format="bytes", numeric=True),
        Column("Latency", "ms", format=".2f", numeric=True),
    ]
    rows = [
        ["sparse 90 % + int8", 77.123, 78.5, 100.0, 90.0, 123_456_789, 104.123],
        ["dense", 1.0, 2.0, None, 0.0, 999_999_999, None],
    ]
    lines = printed(columns, rows, "Title")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for number in ("77.12", "78.50", "100.00", "90.0", "123 MB", "104.12", "1.00 GB", "–"):
        assert number in text
    assert lines[0].strip() == "Title"


def test_numbers_are_aligned_right_and_text_left():
    lines = printed([Column("Name"), Column("N", format="d", numeric=True)], [["a", 1], ["b", 100]])
    assert [line.rstrip() for line in lines[-2:]] == ["a       1", "b     100"]


def test_markup_in_a_cell_is_text():
    assert "[bold]x[/bold]" in "\n".join(printed([Column("A")], [["[bold]x[/bold]"]]))


def test_best_is_bold():
    drawn = table([Column("A")], [[Cell("x", best=True)]])
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[1mx" in console.file.getvalue()


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="row 1 has 2 values for 1 columns"):
        table([Column("A")], [[1, 2]])
