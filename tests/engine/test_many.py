"""One packed backbone, many masks: each task answers as its own checkpoint does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engine.conftest import random_model

import prunella
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError
from prunella.mask_application import apply_mask, save_mask
from prunella.packed.read import open_packed
from prunella.packing import pack
from prunella.settings import ApplyMaskSettings, PackSettings

if TYPE_CHECKING:
    from transformers import BertTokenizer

TEXTS = ["the quiet baker", "a lantern in the harbour waits for the captain", "who"]
FAMILIES = ("bert", "roberta", "distilbert", "electra")


@dataclass(frozen=True)
class Tasks:
    """A packed backbone, masks of it, and each mask applied and packed alone."""

    folder: Path
    backbone: Path
    masks: list[str]
    alone: list[str]


@pytest.fixture(scope="session")
def tasks(
    tiny_tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Tasks]:
    made: dict[Any, Tasks] = {}

    def make(family: str = "bert", tables: bool = False) -> Tasks:
        if (family, tables) not in made:
            folder = tmp_path_factory.mktemp(f"many-{family}")
            made[family, tables] = _tasks(folder, family, tiny_tokenizer, tables)
        return made[family, tables]

    return make


def _tasks(folder: Path, family: str, tokenizer: BertTokenizer, tables: bool) -> Tasks:
    import torch

    base = random_model(family, None, len(tokenizer), {})
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    source = open_checkpoint(folder / "base")
    masks, alone = [], []
    heads = {"mood": "SequenceClassification", "words": "TokenClassification"}
    for number, (name, head) in enumerate(heads.items()):
        model = random_model(family, head, len(tokenizer), {})
        getattr(model, model.base_model_prefix).load_state_dict(base.state_dict(), strict=False)
        torch.manual_seed(number)
        masked = set()
        with torch.no_grad():
            for parameter, weight in model.named_parameters():
                inside = ".layer." in parameter or (tables and "word_embeddings" in parameter)
                if inside and weight.ndim == 2:
                    weight.mul_(torch.rand_like(weight) < (0.4, 0.9)[number]).add_(0.0)
                    masked.add(parameter)
        model.save_pretrained(folder / name)
        path = folder / f"{name}.mask"
        save_mask(path, open_checkpoint(folder / name), source, masked, {"task": {}})
        masks.append(str(path))
        applied = str(folder / f"{name}-applied")
        apply_mask(ApplyMaskSettings(model=str(source.path), mask=str(path), out=applied))
        alone.append(_packed(applied, "fp32"))
    return Tasks(folder, Path(_packed(str(source.path), "fp32")), masks, alone)


def _packed(model: str, weights: Any, name: str | None = None) -> str:
    out = str(Path(model).parent / name) if name else f"{model}.prn"
    pack(PackSettings(model=model, out=out, weights=weights))
    return out


def outputs(model: Any) -> list[Any]:
    found = model.attempt(TEXTS)
    assert all(not isinstance(outcome, InputError) for outcome in found)
    return [outcome.result for outcome in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_task_answers_as_its_checkpoint(tasks: Callable[..., Tasks], family: str) -> None:
    made = tasks(family)
    models = prunella.load(made.backbone, masks=made.masks, threads=1)
    assert list(models) == ["mood", "words"]
    for (name, model), path in zip(models.items(), made.alone, strict=True):
        alone = prunella.load(path, threads=1)
        assert model.task.name == alone.task.name
        ids = np.array([2, 7, 9, 11, 3], np.int32)
        run = (ids, np.zeros(5, np.int32), np.array([5], np.int32), np.arange(5, dtype=np.int32))
        np.testing.assert_allclose(
            model.runner.run(*run), alone.runner.run(*run), rtol=1e-4, atol=1e-5, err_msg=name
        )
        assert len(outputs(model)) == len(outputs(alone)) == len(TEXTS)


def test_masks_of_a_rounded_backbone(tasks: Callable[..., Tasks]) -> None:
    """A backbone that was packed as int8 still is the one that the masks were learned on."""
    made = tasks()
    rounded = _packed(str(made.folder / "base"), "int8", "rounded.prn")
    ids = np.array([2, 7, 9, 11, 3], np.int32)
    run = (ids, np.zeros(5, np.int32), np.array([5], np.int32), np.arange(5, dtype=np.int32))
    models = prunella.load(rounded, masks=made.masks, threads=1)
    assert {row["arithmetic"] for row in models["mood"].describe()} >= {"int8"}
    for model, path in zip(models.values(), made.alone, strict=True):
        found, wanted = model.runner.run(*run), prunella.load(path, threads=1).runner.run(*run)
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95


def test_one_task_is_compiled_at_a_time(tasks: Callable[..., Tasks]) -> None:
    made = tasks()
    models = prunella.load(made.backbone, masks=made.masks, threads=1)
    bits = sum(Path(mask).stat().st_size for mask in made.masks)
    assert models.memory == bits
    for model in (*models.values(), models["mood"]):
        outputs(model)
        assert models.memory == bits + model.runner.memory  # of this one alone
    both = prunella.load(made.backbone, masks=made.masks, threads=1, resident=2)
    for model in both.values():
        outputs(model)
    apart = sum(model.runner.memory for model in both.values())
    words = 4 * open_packed(made.backbone).info("embeddings.word_embeddings.weight").elements
    assert both.memory <= bits + apart - words  # one table of embeddings for both


def test_tasks_that_mask_the_tables_have_tables_of_their_own(tasks: Callable[..., Tasks]) -> None:
    made = tasks(tables=True)
    models = prunella.load(made.backbone, masks=made.masks, threads=1, resident=2)
    ids = np.array([2, 7, 9, 11, 3], np.int32)
    run = (ids, np.zeros(5, np.int32), np.array([5], np.int32), np.arange(5, dtype=np.int32))
    for model, path in zip(models.values(), made.alone, strict=True):
        alone = prunella.load(path, threads=1)
        np.testing.assert_allclose(
            model.runner.run(*run), alone.runner.run(*run), rtol=1e-4, atol=1e-5
        )
    bits = sum(Path(mask).stat().st_size for mask in made.masks)
    assert models.memory == bits + sum(model.runner.memory for model in models.values())


def test_the_longest_unused_makes_room() -> None:
    from prunella.engine.many import Shelf

    made: list[str] = []

    def maker(name: str) -> Any:
        return lambda: made.append(name) or name

    shelf = Shelf(2)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert shelf.get(name, maker(name)) == name
    assert made == ["a", "b", "c", "b"]
    assert list(shelf.held().values()) == ["a", "b"]


def test_names_of_tasks(tasks: Callable[..., Tasks], tmp_path: Path) -> None:
    made = tasks()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.mask").write_bytes(Path(made.masks[0]).read_bytes())
    folders = [tmp_path / "first" / "task.mask", tmp_path / "second" / "task.mask"]
    assert list(prunella.load(made.backbone, masks=folders)) == ["first", "second"]
    named = prunella.load(made.backbone, masks={"x": made.masks[0]})
    assert list(named) == ["x"]
    with pytest.raises(KeyError, match="no task 'y'; there are x"):
        named["y"]
    assert "y" not in named
    with pytest.raises(InputError, match="would both be called 'mood'"):
        prunella.load(made.backbone, masks=[made.masks[0]] * 2)


def test_what_cannot_be_loaded_is_refused(tasks: Callable[..., Tasks], tmp_path: Path) -> None:
    made = tasks()
    with pytest.raises(InputError, match="is the mask of a task; .* runs it as it is"):
        prunella.load(made.masks[0])
    with pytest.raises(InputError, match="holds no mask"):
        prunella.load(made.backbone, masks=[made.backbone])
    with pytest.raises(InputError, match="another backbone"):
        prunella.load(made.alone[0], masks=made.masks)
    with pytest.raises(InputError, match="resident must be a whole number above 0"):
        prunella.load(made.backbone, masks=made.masks, resident=0)
    with pytest.raises(InputError, match="must be a list of files"):
        prunella.load(made.backbone, masks=made.masks[0])
    broken = tmp_path / "broken.mask"
    broken.write_bytes(Path(made.masks[0]).read_bytes()[:-70])
    with pytest.raises(InputError, match="cut short"):
        prunella.load(made.backbone, masks=[broken])
