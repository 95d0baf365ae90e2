"""Working folders: resumed, refused, discarded or left alone, and never shared by two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prunella.checkpoint import PROVENANCE, write_json
from prunella.errors import InputError
from prunella.settings import PruneSettings
from prunella.workspace import Workspace, identity_of, open_workspace


def identity(*, contents: str = "text", **changes: Any) -> dict[str, Any]:
    given = {"model": "bert", "text": ("a.txt",), "out": "out", "learning_rate": 1e-3}
    data = {"text": contents}
    return identity_of("prune", PruneSettings(**(given | changes)), {"model": "abc"}, data)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name("out.partial")


def opened(out: Path, *, overwrite: bool = False, **changes: Any) -> closing[Workspace]:
    return closing(open_workspace(str(out), identity(**changes), overwrite=overwrite))


def finish(out: Path, **changes: Any) -> None:
    """What a stage does at its end."""
    with opened(out, **changes) as workspace:
        workspace.draft.mkdir()
        (workspace.draft / "weights").write_text("first")
        kept = {key: workspace.identity[key] for key in ("sha256", "data")}
        record = {"stage": "prune", "identity": kept}
        write_json(workspace.draft / PROVENANCE, record)
        workspace.log.write_text('{"step": 1}\n')
        workspace.publish()


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user's; whatever a test does, it must stay as it was."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    yield folder
    assert [file.name for file in folder.iterdir()] == ["chapter.txt"]


def test_a_new_run(out: Path, partial: Path) -> None:
    with opened(out) as workspace:
        assert not workspace.finished
        assert workspace.out == out
        assert workspace.draft.parent == workspace.log.parent == partial
        assert json.loads((partial / "run.json").read_text()) == identity()
        assert not out.exists()


def test_a_finished_run_is_found_again(out: Path, partial: Path) -> None:
    finish(out)
    assert {file.name for file in out.iterdir()} == {"weights", PROVENANCE, "log.jsonl"}
    assert not partial.exists()
    with opened(out) as workspace:
        assert workspace.finished
    assert not partial.exists()


def test_a_killed_run_is_resumed(out: Path, partial: Path) -> None:
    with opened(out):
        (partial / "states").mkdir()
        (partial / "states" / "one").write_text("x")
    # --overwrite stays on the command line when a run is repeated; it must not cost its work.
    for overwrite in (False, True):
        with opened(out, overwrite=overwrite) as workspace:
            assert not workspace.finished
            assert (partial / "states" / "one").exists()


def test_a_run_killed_at_its_very_start_is_resumed(out: Path, partial: Path) -> None:
    partial.mkdir(parents=True)
    (partial / "lock").touch()
    (partial / "run.json.tmp").write_text('{"half')
    with opened(out) as workspace:
        assert not workspace.finished


def test_unfinished_work_of_other_settings_is_refused(out: Path, partial: Path) -> None:
    with opened(out):
        (partial / "state").touch()
    with pytest.raises(InputError) as caught:
        opened(out, learning_rate=2e-3, sparsity=0.5)
    message = str(caught.value)
    assert "learning_rate: 0.001 -> 0.002" in message
    assert "sparsity: 0.9 -> 0.5" in message
    assert "--overwrite" in message
    assert "steps" not in message
    assert (partial / "state").exists()
    with opened(out):  # the refusal keeps no lock
        pass


def test_settings_that_were_refused_are_no_work(out: Path, partial: Path) -> None:
    with opened(out) as workspace:
        workspace.abandon()
        assert not partial.exists()
    with opened(out):  # killed before anything was done
        pass
    with opened(out, sparsity=0.5) as workspace:
        assert workspace.identity == identity(sparsity=0.5)
        workspace.log.touch()
        workspace.abandon()
        assert partial.exists()


def test_nested_settings_and_parents_are_named(out: Path, partial: Path) -> None:
    with opened(out):
        (partial / "states").mkdir()
    with pytest.raises(InputError, match=r"distillation\.temperature: 2\.0 -> 4\.0"):
        opened(out, distillation={"logits": 0.5, "temperature": 4.0})
    settings = PruneSettings(model="bert", text=("a.txt",), out="out")
    other = identity_of("prune", settings, {"model": "x"}, {"text": "text"})
    with pytest.raises(InputError, match="model: abc -> x"):
        open_workspace(str(out), other, overwrite=False)


def test_a_run_on_edited_files_is_another_run(out: Path, partial: Path) -> None:
    with opened(out):
        (partial / "states").mkdir()
    with pytest.raises(InputError, match=r"other settings \(text: other contents\)"):
        opened(out, contents="edited")
    finish(out)
    with pytest.raises(InputError, match=r"another run's checkpoint \(text: other contents\)"):
        opened(out, contents="edited")
    with opened(out, contents="edited", overwrite=True) as workspace:
        assert not workspace.finished
    with opened(out) as workspace:
        assert workspace.finished


def test_overwrite_discards_unfinished_work_of_other_settings(out: Path, partial: Path) -> None:
    with opened(out):
        (partial / "states").mkdir()
        (partial / "states" / "one").touch()
        (partial / "log.jsonl").touch()
    with opened(out, overwrite=True, sparsity=0.5):
        assert {file.name for file in partial.iterdir()} == {"lock", "run.json"}


def test_another_runs_checkpoint_is_replaced_only_when_asked(out: Path) -> None:
    finish(out)
    with pytest.raises(InputError, match=r"another run's checkpoint.*--overwrite"):
        opened(out, sparsity=0.5)
    with opened(out, overwrite=True, sparsity=0.5) as workspace:
        assert not workspace.finished
        assert (out / "weights").read_text() == "first"  # until the new one is whole
        workspace.draft.mkdir()
        (workspace.draft / "weights").write_text("second")
        workspace.publish()
    assert (out / "weights").read_text() == "second"


def test_overwrite_repeats_a_finished_run(out: Path) -> None:
    finish(out)
    with opened(out, overwrite=True) as workspace:
        assert not workspace.finished


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_touched(foreign: Path, overwrite: bool) -> None:
    with pytest.raises(InputError, match="Prunella did not make"):
        opened(foreign, overwrite=overwrite)
    assert not foreign.with_name("thesis.partial").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_file_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="Prunella did not make"):
        opened(file, overwrite=overwrite)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("record", [None, "{", '{"run": "of another program"}', "[" * 100_000])
def test_a_foreign_folder_in_the_place_of_ours_is_never_touched(
    tmp_path: Path, foreign: Path, overwrite: bool, record: str | None
) -> None:
    partial = foreign.rename(tmp_path / "out.partial")
    if record:
        (partial / "run.json").write_text(record)
    with pytest.raises(InputError, match="Prunella did not make"):
        opened(tmp_path / "out", overwrite=overwrite)
    (partial / "run.json").unlink(missing_ok=True)
    partial.rename(foreign)


def test_an_empty_folder_may_be_used(out: Path) -> None:
    out.mkdir(parents=True)
    finish(out)
    assert (out / "weights").exists()


def test_a_provenance_of_another_make_is_foreign(foreign: Path) -> None:
    (foreign / PROVENANCE).write_text("[]")
    with pytest.raises(InputError, match="Prunella did not make"):
        opened(foreign, overwrite=True)
    (foreign / PROVENANCE).unlink()


HOLDER = """
import sys
from prunella.workspace import open_workspace
workspace = open_workspace(sys.argv[1], {"sha256": sys.argv[2]}, overwrite=False)
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_process_is_locked_out_until_the_first_dies(out: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(out), identity()["sha256"]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another process is working on it"):
                opened(out, overwrite=overwrite)
        holder.kill()
    with opened(out) as workspace:  # a lock dies with its process
        assert not workspace.finished


@pytest.mark.parametrize("below", ["out", "deep/out"])
def test_an_unwritable_place_is_explained(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\).*--out"):
        opened(tmp_path / "file" / below)


def test_the_root_folder_is_refused() -> None:
    with pytest.raises(InputError, match="did not make"):
        opened(Path("/"))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"seed": 1},
        {"text": ("b.txt",)},
        {"distillation": {"hidden": 1.0}},
        {"precision": "fp32"},
        {"exclude": ("bert.pooler",)},
        {"contents": "edited"},
    ],
)
def test_what_changes_the_result_changes_the_identity(change: dict[str, Any]) -> None:
    assert identity(**change)["sha256"] != identity()["sha256"]


@pytest.mark.parametrize(
    "change", [{"out": "there"}, {"overwrite": True}, {"save_every": 3}, {"log_every": 1}]
)
def test_what_does_not_leaves_it(change: dict[str, Any]) -> None:
    assert identity(**change) == identity()


def test_stage_and_parents_change_the_identity() -> None:
    settings = PruneSettings(model="bert", text=("a.txt",), out="out")
    hashes = [
        identity_of(stage, settings, {part: digest}, {})["sha256"]
        for stage, part, digest in [
            ("prune", "model", "a"),
            ("teach", "model", "a"),
            ("prune", "teacher", "a"),
            ("prune", "model", "b"),
        ]
    ]
    assert len(set(hashes)) == 4
