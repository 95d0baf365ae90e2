"""Writes the tables and plots of docs/results.md from benchmarks/results/; --check only compares.

A table or plot stands between `<!-- results:NAME -->` and `<!-- /results -->`, in README.md
between `<!-- matrix:NAME -->` and `<!-- /matrix -->`. What was not run yet is shown as such. --html
makes one self-contained page of docs/results.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from benchmarks.experiments import plots, tables
from benchmarks.experiments.matrix import FOLDER
from benchmarks.experiments.records import RESULTS
from benchmarks.experiments.summary import Arm
from benchmarks.experiments.times import read_times
from benchmarks.experiments.upstream import read_upstream
from benchmarks.results_html import page_of
from prunella.report import html
from prunella.report.pictures import stamp_of

ROOT = Path(__file__).parent.parent


class Page:
    """The document to fill, and the pictures that belong beside it."""

    def __init__(
        self,
        document: Path = ROOT / "docs" / "results.md",
        results: Path = RESULTS,
        matrices: Path = FOLDER,
        marker: str = "results",
    ) -> None:
        self.document, self.marker = document, marker
        self.results = results
        self.times = read_times(results, "worth")
        self._read = lambda name: tables.read_study(name, results, matrices)

    @cached_property
    def blocks(self) -> dict[str, Callable[[], plots.Block]]:
        """What can stand in the document, by name."""
        ofa, longer, domain = (self._read(name) for name in ("prune-ofa", "longer", "domain"))
        worth, adapting, criteria = (self._read(n) for n in ("worth", "adapting", "criteria"))
        every = [ofa, longer, domain, worth, adapting, criteria]
        beside = ["dense", "sparse-90", "taught-sparse-90", *longer.own()]
        relative = [(Arm("dense", "fp32"), True)]
        in_points = [(Arm("dense", "fp32"), False), (Arm("adapted-dense", "fp32"), False)]
        return {
            "prune-ofa-fp32": lambda: tables.quality_table(ofa, "fp32", relative),
            "prune-ofa-int8": lambda: tables.quality_table(ofa, "int8", relative),
            "prune-ofa-brief": lambda: tables.brief_table(ofa, Arm("dense", "fp32")),
            "prune-ofa-sizes": lambda: tables.size_table(ofa),
            "prune-ofa-further": lambda: tables.further_table(ofa),
            "prune-ofa-plot": lambda: plots.sparsity_plot(ofa),
            "prune-ofa-tuning": lambda: tables.tuning_table(ofa),
            "prune-ofa-notes": lambda: tables.notes(ofa.matrix),
            "longer-fp32": lambda: tables.quality_table(longer, "fp32", relative, beside),
            "longer-int8": lambda: tables.quality_table(longer, "int8", relative, beside),
            "domain-fp32": lambda: tables.quality_table(domain, "fp32", in_points),
            "domain-sizes": lambda: tables.size_table(domain),
            "domain-tuning": lambda: tables.tuning_table(domain),
            "domain-notes": lambda: tables.notes(domain.matrix),
            "worth-table": lambda: plots.worth_table(worth, self.times),
            "worth-plot": lambda: plots.worth_plots(worth, self.times),
            "adapting-table": lambda: tables.level_table(adapting),
            "adapting-plot": lambda: plots.level_plots(adapting),
            "adapting-tuning": lambda: tables.tuning_table(adapting),
            "mask-ablation": lambda: tables.ablation_table(self.results),
            "criteria-table": lambda: tables.level_table(criteria),
            "criteria-plot": lambda: plots.level_plots(criteria),
            "upstream": lambda: tables.upstream_table(every),
            "upstream-scores": lambda: tables.upstream_scores_table(read_upstream(self.results)),
            "environment": lambda: tables.environment(every),
        }

    def files(self) -> dict[Path, str]:
        """The document with its blocks made anew, and the pictures that it shows."""
        pictures: dict[Path, str] = {}

        def block(match: re.Match[str]) -> str:
            made = self.blocks[match.group(1)]()
            if isinstance(made, tuple):
                made, drawn = made
                pictures.update({self.document.parent / name: svg for name, svg in drawn.items()})
            return f"<!-- {mark}:{match.group(1)} -->\n{made}\n<!-- /{mark} -->"

        mark = self.marker
        blocks = re.compile(rf"<!-- {mark}:([\w-]+) -->\n.*?<!-- /{mark} -->", re.DOTALL)
        text = blocks.sub(block, self.document.read_text(encoding="utf-8"))
        return {self.document: text, **pictures}

    def stale(self) -> dict[Path, str]:
        """Of `files` those that differ from what is there; pictures by the data they are of."""
        return {path: text for path, text in self.files().items() if not _current(path, text)}


def _current(path: Path, text: str) -> bool:
    if not path.exists():
        return False
    found = path.read_text(encoding="utf-8")
    stamp = stamp_of(text)  # another machine may set the same picture's letters a little apart
    return found == text if stamp is None else stamp_of(found) == stamp


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if something is not current")
    parser.add_argument("--html", metavar="FILE", help="write a page for browsers as well")
    given = parser.parse_args()
    page, check = Page(), given.check
    stale = page.stale() | Page(ROOT / "README.md", marker="matrix").stale()
    if given.html:
        files = page.files()
        read = {path.name: text for path, text in files.items()}
        html.write(page_of(read[page.document.name], read.__getitem__), given.html)
    if not check:
        for path, text in stale.items():
            path.write_text(text, encoding="utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    print(f"{names}: {'stale' if check else 'written'}" if stale else "all current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
