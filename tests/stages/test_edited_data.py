"""A run belongs to what its files held: after an edit, the same command is another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stages.tiny import Place

from prunella.checkpoint import PROVENANCE
from prunella.errors import InputError
from prunella.settings import PruneSettings, TeachSettings, TransferSettings
from prunella.stages.prune import prune
from prunella.stages.teach import teach
from prunella.stages.transfer import transfer

Make = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path, corpus_file: Path, task_files: dict[str, dict[str, Path]]) -> Place:
    """With copies of the files, which a test may edit."""
    corpus = Path(shutil.copy(corpus_file, tmp_path / "corpus.txt"))
    rows = {
        split: Path(shutil.copy(path, tmp_path / path.name))
        for split, path in task_files["single"].items()
    }
    return Place(tmp_path, corpus, {"single": rows})


def append_first_line(path: Path) -> None:
    content = path.read_text()
    path.write_text(content + content.splitlines()[0] + "\n")


@pytest.mark.parametrize("edited", ["train", "validation"])
def test_edited_rows(place: Place, tiny_checkpoint: Make, edited: str) -> None:
    given: dict[str, Any] = {"model": str(tiny_checkpoint("bert")), "out": place.out("task")}
    given |= {**place.rows(), "threads": 1}
    first = transfer(TransferSettings(**given))
    assert transfer(TransferSettings(**given)).finished_before
    assert set(first.provenance["identity"]["data"]) == {"train", "validation"}
    append_first_line(place.tasks["single"][edited])
    with pytest.raises(InputError, match=rf"another run's checkpoint \({edited}: other contents"):
        transfer(TransferSettings(**given))
    kept = json.loads((first.out / PROVENANCE).read_text())
    assert kept["identity"] == first.provenance["identity"]
    again = transfer(TransferSettings(**given, overwrite=True))
    assert not again.finished_before
    rows = {part: again.provenance["task"][f"{part}_rows"] for part in ("train", "validation")}
    assert rows == {"train": 96 + (edited == "train"), "validation": 48 + (edited == "validation")}


def test_edited_text(place: Place, tiny_checkpoint: Make) -> None:
    given: dict[str, Any] = {"model": str(tiny_checkpoint("bert")), "out": place.out("sparse")}
    given |= {**place.text, "steps": 3}
    first = prune(PruneSettings(**given))
    assert prune(PruneSettings(**given)).finished_before
    append_first_line(place.corpus)
    with pytest.raises(InputError, match=r"text: other contents"):
        prune(PruneSettings(**given))
    again = prune(PruneSettings(**given, overwrite=True))
    texts = [result.provenance["text"]["fingerprint"] for result in (first, again)]
    assert texts[0] != texts[1]


def test_edited_configuration(place: Place) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 72}
    file = place.folder / "config.json"
    file.write_text(json.dumps(shape))
    given: dict[str, Any] = {"config": str(file), "out": place.out("new"), "vocabulary_size": 120}
    given |= {**place.text, "steps": 2}
    teach(TeachSettings(**given))
    file.write_text(json.dumps(shape, indent=2))  # the same in other words
    assert teach(TeachSettings(**given)).finished_before
    file.write_text(json.dumps(shape | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"config: other contents"):
        teach(TeachSettings(**given))


def test_a_repaired_tokenizer(place: Place, tiny_checkpoint: Make) -> None:
    model = Path(shutil.copytree(tiny_checkpoint("bert"), place.folder / "model"))
    given: dict[str, Any] = {"model": str(model), "out": place.out("task"), **place.rows()}
    given["threads"] = 1
    first = transfer(TransferSettings(**given))
    assert transfer(TransferSettings(**given)).finished_before
    file = model / "tokenizer.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(InputError, match="another run's checkpoint"):
        transfer(TransferSettings(**given))
    again = transfer(TransferSettings(**given, overwrite=True)).provenance
    assert again["parents"] == first.provenance["parents"]  # known by its weights, as ever


def test_missing_rows_are_named_before_anything_is_made(
    place: Place, tiny_checkpoint: Make
) -> None:
    given = {"model": str(tiny_checkpoint("bert")), "out": place.out("task"), **place.rows()}
    given["train"] = place.out("single-trian.jsonl")
    with pytest.raises(InputError, match=r"no such file: .*did you mean 'single-train\.jsonl'"):
        transfer(TransferSettings(**given))
    assert not Path(place.out("task.partial")).exists()
