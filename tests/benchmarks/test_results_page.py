"""From results to tables and plots: known figures, and nothing made up where runs are missing."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments import plots, tables
from benchmarks.experiments.matrix import FOLDER, load_matrix
from benchmarks.experiments.records import Mode, record_path, write_record
from benchmarks.experiments.summary import Arm, Scores, Spread
from benchmarks.experiments.times import read_times, times_path
from benchmarks.results_page import ROOT, Page

DENSE, SPARSE = Arm("dense", "fp32"), Arm("sparse-90", "fp32")


def record(arm: Arm, task: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    kept = 1.0 if arm.model == "dense" else 0.1
    return {
        "name": f"prune-ofa/{arm.model}/{task}/{seed}/{arm.weights}",
        "run_hash": f"{arm.model}{task}{seed}{arm.weights}",
        "model": arm.model,
        "weights": arm.weights,
        "task": task,
        "seed": seed,
        "main": "accuracy",
        "metrics": {"accuracy": value, "f1": value},
        "start": {"name": arm.model, "sha256": "0123456789ab", "stage": "prune", "seconds": 90.0,
                  "metrics": {"tokens": 4_100_000, "hidden_loss": 0.21}},
        "sizes": {"encoder_weights": 1000, "encoder_nonzeros": 1000 * kept, "model_weights": 2000,
                  "model_nonzeros": 1000 + 1000 * kept, "bytes": {"encoder": 4000 * kept, "model": 8e6},
                  "dense_fp32_bytes": {"encoder": 4000, "model": 8e6}},
        "machine": {"processor": "P", "threads": 1},
        "versions": {"torch": "2"},
        "seconds": 3600.0,
        **more,
    }  # fmt: skip


def test_means_and_deviations_over_seeds() -> None:
    scores = Scores(record(DENSE, "rte", seed, v) for seed, v in enumerate((0.6, 0.7, 0.8)))
    found = scores.spread(DENSE, "rte")
    assert (
        found
        and (found.n, found.mean) == (3, pytest.approx(70))
        and found.deviation == pytest.approx(10)
    )
    assert Spread.of([]) is None and Spread.of([2.0]) == Spread(2.0, None, 1)
    assert scores.spread(SPARSE, "rte") is None


def test_differences_pair_seeds_and_average_over_tasks() -> None:
    values = {(DENSE, "a"): (0.5, 0.6), (SPARSE, "a"): (0.45, 0.6), (DENSE, "b"): (0.8, 0.8), (SPARSE, "b"): (0.8, 0.72)}  # fmt: skip
    scores = Scores(
        record(*key, seed, v) for key, pair in values.items() for seed, v in enumerate(pair)
    )
    found = scores.difference(SPARSE, DENSE, ["a", "b", "c"], relative=True)
    # Seed 0: -10 % and 0; seed 1: 0 and -10 %.
    assert found and found.tasks == ("a", "b") and found.spread.mean == pytest.approx(-5)
    assert found.spread.deviation == pytest.approx(0) and found.spread.n == 2
    points = scores.difference(SPARSE, DENSE, ["a", "b"], relative=False)
    assert points and points.spread.mean == pytest.approx((-2.5 - 4) / 2)
    assert points.spread.deviation == pytest.approx(1.5 / math.sqrt(2))
    assert scores.difference(SPARSE, DENSE, ["c"], relative=True) is None


def test_averages_take_the_seeds_that_all_have() -> None:
    values = {(DENSE, "a"): (0.9, 0.5), (DENSE, "b"): (0.7, 0.6), (SPARSE, "a"): (0.8,), (SPARSE, "b"): (0.6, 0.1)}  # fmt: skip
    scores = Scores(
        record(*key, seed, v) for key, found in values.items() for seed, v in enumerate(found)
    )
    found = scores.averages([DENSE, SPARSE], ["a", "b"])
    assert {arm: (spread.mean, spread.n) for arm, spread in found.items()} == {
        DENSE: (pytest.approx(80), 1),
        SPARSE: (pytest.approx(70), 1),
    }
    alone = scores.averages([DENSE], ["a", "b"])[DENSE]
    assert (alone.mean, alone.n) == (pytest.approx(67.5), 2)
    assert scores.averages([DENSE, SPARSE], ["a", "c"]) == {} == scores.averages([], [])


def test_a_task_scored_in_two_ways_is_an_error() -> None:
    with pytest.raises(ValueError, match="scored by f1, others by accuracy"):
        Scores([record(DENSE, "a", 0, 0.5), record(DENSE, "a", 1, 0.5, main="f1")])


def written(folder: Path, values: dict[tuple[Arm, str], tuple[float, ...]]) -> Path:
    matrix = load_matrix("prune-ofa")
    for (arm, task), found in values.items():
        for seed, value in enumerate(found):
            path = record_path(folder, Mode(), matrix.cell(arm.model, task, seed), arm.weights)
            write_record(path, record(arm, task, seed, value))
    return folder


def lines_of(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]  # fmt: skip
    return {row[0]: row[1:] for row in rows}


def test_what_was_not_run_is_shown_as_such(tmp_path: Path) -> None:
    results = written(tmp_path, {(DENSE, "rte"): (0.6, 0.62), (SPARSE, "rte"): (0.57,)})
    study = tables.read_study("prune-ofa", results, FOLDER)
    rows = lines_of(tables.quality_table(study, "fp32", [(DENSE, True)]))
    assert rows["fp32"][0] == "RTE, accuracy" and not rows["fp32"][1].startswith("STS-B")
    assert rows["dense"][0] == "61.00 ± 1.41 (2)"
    assert rows["dense"][-2:] == ["", "`--only dense`"]
    assert rows["pruned upstream, 90 %"][0] == "57.00 (1)"
    assert rows["pruned upstream, 90 %"][-2] == "−5.00"
    assert "pruned upstream, 95 %" not in rows
    table = tables.quality_table(study, "fp32", [(DENSE, True)])
    assert table.endswith("NLI-LitL (for MNLI); SQuAD dev-48.")
    assert "Not run yet: pruned upstream, 85 %; pruned upstream, 95 %; " in table
    assert tables.quality_table(study, "int8", []) == tables.NOT_YET
    sizes = lines_of(tables.size_table(study))
    assert sizes["pruned upstream, 90 %, fp32"][0].startswith("10.0 % ")
    assert sizes["pruned upstream, 90 %, fp32"][4] == "10.0x"
    assert "pruned upstream, 90 %, int8" not in sizes


def test_the_brief_table_has_what_was_run_on_several_tasks(tmp_path: Path) -> None:
    few = Arm("gmp-90", "fp32")
    values = {(DENSE, t): (0.8, 0.8) for t in ("rte", "stsb", "sst2")}
    values |= {(SPARSE, t): (0.8,) for t in ("stsb", "sst2")}
    values |= {(SPARSE, "rte"): (0.72,), (few, "rte"): (0.7,), (few, "stsb"): (0.7,)}
    study = tables.read_study("prune-ofa", written(tmp_path, values), FOLDER)
    lines = tables.brief_table(study, DENSE).splitlines()
    assert lines[0].startswith("|  | RTE, accuracy | STS-B, accuracy | SST-2, accuracy | against")
    assert lines[2].startswith("| dense, fp32 | 80.00 ± 0.00 (2) | 80.00 ± 0.00 (2) | ")
    assert lines[3].startswith(
        "| pruned upstream, 90 %, fp32 | 72.00 (1) | 80.00 (1) | 80.00 (1) | −3.33 |"
    )
    assert not any("GMP" in line for line in lines)
    nothing = tables.read_study("prune-ofa", tmp_path / "none", FOLDER)
    assert tables.brief_table(nothing, DENSE) == tables.NOT_YET


def test_a_readme_has_blocks_of_its_own(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    kept = "<!-- results:speed -->\nx\n<!-- /results -->\n"
    document.write_text(f"{kept}<!-- matrix:environment -->\nold\n<!-- /matrix -->\n")
    page = Page(document, tmp_path / "none", marker="matrix")
    text = page.files()[document]
    assert text.startswith(kept) and tables.NOT_YET in text and "old" not in text


def test_the_plots_compare_only_tasks_that_all_arms_have(tmp_path: Path) -> None:
    values = {(DENSE, "rte"): (0.6, 0.6), (DENSE, "sst2"): (0.9, 0.9), (SPARSE, "rte"): (0.57, 0.6)}
    study = tables.read_study("prune-ofa", written(tmp_path, values), FOLDER)
    made = plots.sparsity_plot(study)
    assert isinstance(made, tuple)
    shown, files = made
    assert "the mean over RTE. " in shown and "results-sparsity.svg" in shown
    assert 'data-stamp="' in files["results-sparsity.svg"]
    apart = written(tmp_path / "apart", {**values, (Arm("gmp-90", "fp32"), "qqp"): (0.7,)})
    again = plots.sparsity_plot(tables.read_study("prune-ofa", apart, FOLDER))
    assert isinstance(again, tuple) and "the mean over RTE. " in again[0]
    nothing = tables.read_study("prune-ofa", tmp_path / "none", FOLDER)
    assert plots.sparsity_plot(nothing) == plots.worth_plots(nothing, []) == tables.NOT_YET


def test_a_plot_is_of_the_tasks_that_show_most_results(tmp_path: Path) -> None:
    few, other = Arm("sparse-85", "fp32"), Arm("sparse-95", "fp32")
    values = {(arm, task): (0.8,) for arm in (DENSE, SPARSE) for task in ("stsb", "sst2", "qnli")}
    values |= {(few, "stsb"): (0.7,), (few, "sst2"): (0.7,), (other, "qqp"): (0.7,)}
    results = written(tmp_path, values)
    study = tables.read_study("prune-ofa", results, FOLDER)
    # Two arms on three tasks and three arms on two are as much: the first of the two is taken.
    arms = [DENSE, SPARSE, few, other]
    assert plots.comparable(study, arms) == ([DENSE, SPARSE, few], ("stsb", "sst2"))
    assert plots.comparable(study, arms[:2]) == (arms[:2], ("stsb", "sst2", "qnli"))
    assert plots.comparable(study, [Arm("gmp-90", "fp32")]) == ([], ())


def test_the_page_is_filled_once_and_then_current(tmp_path: Path) -> None:
    document = Path(shutil.copy(ROOT / "docs" / "results.md", tmp_path / "results.md"))
    int8 = {
        (Arm(m, "int8"), t): (0.8, 0.7) for m in ("dense", "sparse-90") for t in ("stsb", "sst2")
    }
    values = {(Arm(arm.model, "fp32"), task): v for (arm, task), v in int8.items()} | int8
    medians = {"dense": 4.0, "sparse-90": 2.0, "student-2x384": 1.5}
    rows = [
        {"model": m, "median": ms, "isa": "avx2", "length": n}
        for m, ms in medians.items()
        for n in (32, 128)
    ]
    machine = {"machine": {"processor": "P"}}
    latency = json.dumps({"rows": rows, "environment": machine, "command": "again"})
    results = written(tmp_path / "results", values)
    worth = load_matrix("worth")
    for task, seed in product(("stsb", "sst2"), range(2)):
        student = record(Arm("student-2x384", "int8"), task, seed, 0.6)
        path = record_path(results, Mode(), worth.cell("student-2x384", task, seed), "int8")
        write_record(path, student)
    times_path(results, "worth", "P", ["avx2"]).write_text(latency, encoding="utf-8")
    page = Page(document, results)
    stale = page.stale()
    pictures = {path.name for path in stale} - {"results.md"}
    assert pictures == {"results-sparsity.svg", "results-ms-avx2-128.svg", "results-bytes.svg"}
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    assert not Page(document, results).stale()
    write = tmp_path / "results" / "experiments" / "prune-ofa" / "dense" / "stsb-seed1-int8.json"
    write_record(write, record(Arm("dense", "int8"), "stsb", 1, 0.9))
    assert {p.name for p in Page(document, results).stale()} >= {
        "results.md",
        "results-ms-avx2-128.svg",
    }


def test_a_run_that_others_took_over_counts_once(tmp_path: Path) -> None:
    study = tables.read_study("adapting", tmp_path, FOLDER)
    rows = [record(DENSE, "stsb", 0, 0.8), record(DENSE, "stsb", 0, 0.8, name="else", run_as="x")]
    rows += [record(Arm("dense", "int8"), "stsb", 0, 0.8), record(DENSE, "stsb", 1, 0.8)]
    said = tables.environment([replace(study, records=rows)])
    assert said.startswith("3 runs, 2.0 hours of fine-tuning.")


def test_times_are_of_the_machine_that_would_use_the_instruction_set(tmp_path: Path) -> None:
    assert read_times(tmp_path, "worth") == []
    machines = {
        "Alpha (R)": [("dense", "amx", 2.0), *((f"m{k}", "avx2", 9.0) for k in range(3))],
        "Alpha": [("dense", "avx2", 7.0)],
        "Beta": [("dense", "avx2", 8.0), ("student", "avx2", 4.0)],
    }
    for name, medians in machines.items():
        rows = [{"model": m, "isa": i, "length": 128, "median": ms} for m, i, ms in medians]
        document = {"rows": rows, "environment": {"machine": {"processor": name}}, "command": "c"}
        path = times_path(tmp_path, "worth", name, {isa for _, isa, _ in medians})
        path.write_text(json.dumps(document), encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {
        "worth-latency-alpha-r-amx.json",
        "worth-latency-alpha-avx2.json",
        "worth-latency-beta-avx2.json",
    }
    amx, avx2 = read_times(tmp_path, "worth")
    assert (amx.title, amx.processor) == ("AMX, 128 tokens", "Alpha (R)")
    assert amx.medians == {"dense": 2.0}
    assert (avx2.processor, avx2.medians) == ("Beta", {"dense": 8.0, "student": 4.0})
    assert avx2.cost.key == "ms-avx2-128"


def test_methods_by_what_they_keep(tmp_path: Path) -> None:
    empty = tables.read_study("adapting", tmp_path, FOLDER)
    assert tables.level_table(empty) == plots.level_plots(empty) == tables.NOT_YET
    matrix = load_matrix("adapting")
    values = {"dense": (0.8, 0.9), "smp-50": (0.7, 0.8), "magnitude-0.1": (0.5,)}
    for model, scores in values.items():
        for seed, value in enumerate(scores):
            written = record(Arm(model, "fp32"), "stsb", seed, value)
            path = record_path(tmp_path, Mode(), matrix.cell(model, "stsb", seed), "fp32")
            write_record(path, written)
    study = tables.read_study("adapting", tmp_path, FOLDER)
    lines = tables.level_table(study).splitlines()
    assert lines[0].startswith("| STS-B") and lines[0].endswith("1 % kept | 0.1 % kept |")
    assert lines[2] == "| dense fine-tuning | 85.00 ± 7.07 (2) |  |  |  |  |  |  |  |"
    assert lines[3] == "| SMP, frozen |  | – | 75.00 ± 7.07 (2) | – | – | – | – | – |"
    assert lines[4] == "| magnitude (GMP), trained |  | – | – | – | – | – | – | 50.00 (1) |"
    assert "SST-2" not in "".join(lines)
    block = plots.level_plots(study)
    assert isinstance(block, tuple)
    assert list(block[1]) == ["results-adapting-stsb.svg"]
