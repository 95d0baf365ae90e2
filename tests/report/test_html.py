"""The report page: complete in itself, safe, the same twice, written whole or not at all."""

import html.parser
import os
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunella.errors import InputError
from prunella.report import plots
from prunella.report.html import (
    Cell,
    Code,
    Column,
    Fact,
    Facts,
    Figure,
    Page,
    Section,
    Table,
    render,
    write,
)

COLUMNS = (
    Column("Model", help="Which one."),
    Column("Accuracy", "%", format=".1f", numeric=True),
    Column("Size", format="bytes", numeric=True),
)
ROWS = (
    ("dense", Cell(91.25, hint="90.1 to 92.4", best=True), 17_400_000),
    ("sparse", 90.04, None),
)


class Outline(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them; complains about wrong nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@cache
def full_page() -> Page:
    sparsity = {"encoder.layer.0.attention.self.query.weight": 0.9}
    roles = dict.fromkeys(sparsity, "query")
    curves = {"run": [{"step": 1, "loss": 2.0, "sparsity": 0.0, "learning_rate": 1e-3}]}
    points = [{"label": "dense", "bytes": 10**6, "quality": 90.0, "low": 89.0, "high": 91.0}]
    return Page(
        title="A title",
        lead="What came out.",
        sections=[
            Section("", blocks=[Facts([Fact("90 %", "zeros", "as asked")])]),
            Section("Results", "First.\n\nSecond with `code`.", [Table(COLUMNS, ROWS, "Cap", "N")]),
            Section(
                "Pictures",
                blocks=[
                    Figure(plots.sparsity_by_matrix(sparsity, roles), "Heat.", "Heat map"),
                    Figure(plots.training_curves(curves), "Curves.", "Curves"),
                    Figure(plots.quality_against_size(points), "Size.", "Scatter"),
                ],
            ),
            Section("Next", blocks=[Code("prunella prune MODEL", "Then")]),
        ],
        footer="seed 1",
    )


def test_page_is_well_formed_and_shows_everything():
    outline = Outline(render(full_page()))
    text = " ".join(" ".join(outline.texts).split())
    for part in ("A title", "What came out.", "as asked", "Cap", "Heat.", "prunella prune MODEL"):
        assert part in text
    assert outline.attributes("html") == [{"lang": "en"}]
    assert any(a.get("name") == "viewport" for a in outline.attributes("meta"))
    assert [a["aria-label"] for a in outline.attributes("div") if a.get("role") == "img"] == [
        "Heat map",
        "Curves",
        "Scatter",
    ]


def test_page_needs_nothing_from_outside():
    text = render(full_page())
    outline = Outline(text)
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in outline.tags}
    for _, attributes in outline.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    policy = [a["content"] for a in outline.attributes("meta") if "http-equiv" in a]
    assert policy and "default-src 'none'" in str(policy[0])


def test_page_knows_light_and_dark_and_draws_in_its_own_colours():
    text = render(full_page())
    assert "prefers-color-scheme: dark" in text
    body = text[text.index("<body>") : text.index("<script>")]
    assert re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", body) == []
    used, style = set(re.findall(r"var\((--[\w-]+)", text)), text[: text.index("</style>")]
    for variable in used:
        assert style.count(f"{variable}:") == 3  # light, dark by the system, dark by choice


def test_ids_are_unique_and_references_have_a_target():
    text = render(full_page())
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(ids)


def test_the_same_page_gives_the_same_bytes():
    assert render(full_page()) == render(full_page())
    assert not re.search(r"20\d\d-\d\d-\d\d", render(full_page()))


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=40))
def test_no_text_can_become_markup(text):
    hostile = f"<script>alert(1)</script>\"'><b>{text}`<i>`"
    outline = Outline(
        render(
            Page(
                hostile,
                hostile,
                [
                    Section(
                        "x" + hostile,
                        hostile,
                        [
                            Table([Column(hostile, hostile, hostile)], [[hostile]], hostile),
                            Table([Column("a")], [[Cell(hostile, hint=hostile)]]),
                            Facts([Fact(hostile, hostile, hostile)]),
                            Code(hostile, hostile),
                            Figure("<svg></svg>", hostile, hostile),
                        ],
                    )
                ],
                hostile,
            )
        )
    )
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("script") == 1
    assert "b" not in tags and "i" not in tags


def cells(page: Page) -> list[dict[str, str | None]]:
    return [attributes for _, attributes in Outline(render(page)).tags if "data-key" in attributes]


def test_cells_sort_by_value_and_tell_the_number_in_full():
    page = Page("t", "", [Section("s", blocks=[Table(COLUMNS, ROWS)])])
    keys = [(cell["data-key"], cell.get("data-tip")) for cell in cells(page)]
    assert keys == [
        ("dense", None),
        ("91.25", "90.1 to 92.4"),
        ("17400000.0", "17,400,000 bytes"),
        ("sparse", None),
        ("90.04", "90.04"),
        ("", None),
    ]
    text = render(page)
    assert ">91.2<" in text or ">91.3<" in text
    assert ">17.4\u00a0MB<" in text
    assert ">–<" in text


def test_not_a_number_is_missing():
    page = Page("t", "", [Section("s", blocks=[Table(COLUMNS[1:2], [[float("nan")]])])])
    assert cells(page)[0]["data-key"] == ""


def test_neighbouring_figures_share_a_row():
    figure = Figure("<svg></svg>", "c", "a")
    text = render(Page("t", "", [Section("s", blocks=[figure, figure, Code("x"), figure])]))
    assert text.count('<div class="figures">') == 2


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="row 2 has 1 values for 3 columns"):
        Table(COLUMNS, [ROWS[0], ["alone"]])


def test_write_makes_folders_and_replaces_the_file(tmp_path: Path):
    path = tmp_path / "a" / "b" / "report.html"
    assert write(full_page(), path) == path
    first = path.read_text(encoding="utf-8")
    assert first == render(full_page())
    write(Page("other", "", []), path)
    assert "<title>other</title>" in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failing_write_leaves_the_former_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("former")

    def full_disk(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match=r"report\.html: No space left on device"):
        write(full_page(), path)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["report.html"]


def test_write_into_a_file_as_if_it_were_a_folder_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the report"):
        write(full_page(), tmp_path / "file" / "report.html")
