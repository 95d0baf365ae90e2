"""The results as a page: all of the document's text, tables and pictures, in the reports' templates."""

from __future__ import annotations

from benchmarks.results_html import page_of
from benchmarks.results_page import Page as Document
from prunella.report.html import Code, Figure, Table, render
from prunella.report.tables import Cell

DOCUMENT = """# Results

What *it* costs, see [there](there.md).

## First

One `code` and
two lines.

<!-- results:x -->
| model | score, % | note |
|---|---|---|
| `--only a` | 85.84 ± 0.25 (2) | −1 |
| b | – | |
| c | −1,204 | x |

![What it shows.](plot.svg)
<!-- /results -->

Behind.

- **QQP**: not the split.

### Second

```bash
python -m this
```
"""


def test_all_of_a_document() -> None:
    page = page_of(DOCUMENT, {"plot.svg": "<svg>drawn</svg>"}.__getitem__)
    assert (page.title, page.lead.strip()) == ("Results", "What it costs, see there.")
    first, behind, second = page.sections
    assert (first.title, first.text) == ("First", "One `code` and two lines.")
    table, figure = first.blocks
    assert isinstance(table, Table) and isinstance(figure, Figure)
    assert [column.label for column in table.columns] == ["model", "score, %", "note"]
    assert [column.numeric for column in table.columns] == [False, True, False]
    assert [row[0] for row in table.rows] == ["--only a", "b", "c"]
    assert [row[1] for row in table.rows] == [
        Cell(85.84, text="85.84 ± 0.25 (2)"), Cell(None, text="–"), Cell(-1204, text="−1,204")
    ]  # fmt: skip
    assert (figure.svg, figure.alt) == ("<svg>drawn</svg>", "What it shows.")
    assert (behind.title, behind.text) == ("", "Behind.\n\nQQP: not the split.")
    assert (second.title, second.blocks) == ("Second", [Code("python -m this")])


def test_tables_sort_by_the_number_and_show_the_text() -> None:
    html = render(page_of(DOCUMENT, lambda name: "<svg></svg>"))
    assert 'data-key="85.84">85.84 ± 0.25 (2)</td>' in html
    assert 'data-key="">–</td>' in html


def test_the_real_results_make_a_page() -> None:
    files = Document().files()
    read = {path.name: text for path, text in files.items()}
    html = render(page_of(read["results.md"], read.__getitem__))
    tables = [line for line in read["results.md"].splitlines() if line.startswith("|---|")]
    assert html.count("<table>") == len(tables) > 5
    assert html.count('<figure class="plot">') == sum(name.endswith(".svg") for name in read)
    assert "src=" not in html and "<!-- results" not in html
