"""Presets: every usual name, and what each says, read through the real `datasets`."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from prunella.data.formats import hub
from prunella.data.metrics import main_metric, metrics
from prunella.data.presets import PRESETS, Preset, official_metric, preset_of, settled
from prunella.data.readers import read_table
from prunella.data.tasks import Columns
from prunella.errors import InputError


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hub:sst2", "sst2"),
        ("hub:SST-2", "sst2"),
        ("hub:glue/sst2", "sst2"),
        ("hub:nyu-mll/glue/sst2", "sst2"),
        ("hub:glue/STS-B", "stsb"),
        ("hub:mnli-m", "mnli"),
        ("hub:mnli-mm", "mnli_mismatched"),
        ("hub:glue/mnli_mismatched", "mnli_mismatched"),
        ("hub:rajpurkar/squad_v2", "squad_v2"),
        ("hub:squad", "squad"),
        ("hub:swag/regular", "swag"),
        ("hub:allenai/swag", "swag"),
        ("hub:eriktks/conll2003", "conll2003"),
        ("hub:someone/sst2", None),
        ("hub:glue", None),
        ("sst2", None),
    ],
)
def test_names(source: str, name: str | None) -> None:
    found = preset_of(source)
    assert (found and found.name) == name


def test_no_name_means_two_presets() -> None:
    names = [name for preset in PRESETS for name in preset.names()]
    assert len(set(names)) == len(names)


_EXAMPLES: dict[str, tuple[Any, Any]] = {
    "classification": ([0, 1], [1, 1]),
    "regression": ([0.5, 1], [1, 0]),
    "multi-label": ([[0, 1]], [[1, 1]]),
    "token-classification": ([["O"]], [["O"]]),
    "question-answering": ([["a b"]], ["a"]),
    "multiple-choice": ([0, 1], [1, 1]),
}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_the_metric_is_one_of_the_kind(preset: Preset) -> None:
    assert preset.metric in metrics(preset.kind, *_EXAMPLES[preset.kind])


def test_the_metric_that_decides() -> None:
    assert official_metric("classification", "hub:cola") == "matthews"
    assert official_metric("classification", "dev.jsonl", "hub:cola") == "matthews"
    assert official_metric("classification", "hub:cola", "hub:sst2") == "matthews"
    assert official_metric("regression", "hub:cola", None) is None
    assert official_metric("classification", "cola") is None
    assert official_metric("multi-label", "hub:go_emotions") == "f1_macro"
    assert main_metric("regression") == official_metric("regression", "hub:stsb")


def test_what_the_user_sets_comes_first() -> None:
    none = Columns()
    squad = Columns("question", "context", "answers")
    assert settled("hub:squad", none, "auto") == (squad, "question-answering")
    own = Columns(text="title", pair="context", label="id")
    assert settled("hub:squad", own, "auto") == (own, "question-answering")
    # A label alone keeps the preset's texts, and texts alone its label.
    assert settled("hub:rte", Columns(label="idx"), "auto")[0] == Columns(
        "sentence1", "sentence2", "idx"
    )
    assert settled("hub:rte", Columns(text="sentence2"), "auto")[0] == Columns(
        text="sentence2", label="label"
    )
    assert settled("hub:squad", none, "classification") == (none, "classification")
    assert settled("dev.jsonl", own, "auto") == (own, "auto")


def _publish(folder: Path, path: str, config: str, splits: dict[str, datasets.Dataset]) -> None:
    """A data set as the Hub has it: parquet files, and a card that names them."""
    place = folder / path
    (place / config).mkdir(parents=True)
    lines = []
    for split, table in splits.items():
        table.to_parquet(str(place / config / f"{split}-00000-of-00001.parquet"))
        lines.append(f"  - split: {split}\n    path: {config}/{split}-*")
    listed = "\n".join(lines)
    card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{listed}\n---\n"
    (place / "README.md").write_text(card)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to publish in: `datasets` looks there before it asks the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_mnli_is_validated_on_its_matched_part(here: Path) -> None:
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        premise=datasets.Value("string"), hypothesis=datasets.Value("string"), label=names
    )

    def rows(text: str) -> datasets.Dataset:
        values = {"premise": [text, text], "hypothesis": ["x", "y"], "label": [0, 2]}
        return datasets.Dataset.from_dict(values, features=features)

    splits = {s: rows(s) for s in ("train", "validation_matched", "validation_mismatched")}
    _publish(here, "nyu-mll/glue", "mnli", splits)
    for source, split, expected in [
        ("hub:mnli", "train", "train"),
        ("hub:mnli", "validation", "validation_matched"),
        ("hub:mnli", "validation[:1]", "validation_matched"),
        ("hub:mnli", "validation_mismatched", "validation_mismatched"),
        ("hub:glue/mnli", "validation", "validation_matched"),
        ("hub:mnli-mm", "validation", "validation_mismatched"),
        ("hub:mnli-mm", "train", "train"),
    ]:
        table = read_table(source, split)
        assert set(table["premise"]) == {expected}, (source, split)
        assert len(table) == (1 if split.endswith("]") else 2)
        assert table.features["label"].names == names.names
    with pytest.raises(InputError, match=r"hub:mnli, split 'dev': .*dev"):
        read_table("hub:mnli", "dev")


def test_numbers_of_tags_get_their_names(here: Path) -> None:
    rows = {"tokens": [["EU", "rejects"], ["Blackburn"]], "ner_tags": [[3, 0], [1]]}
    _publish(here, "lhoestq/conll2003", "default", {"train": datasets.Dataset.from_dict(rows)})
    table = read_table("hub:conll2003", "train")
    names = table.features["ner_tags"].feature.names
    assert [[names[i] for i in row] for row in table["ner_tags"]] == [["B-ORG", "O"], ["B-PER"]]


def test_a_data_set_that_is_a_script_is_read_as_the_hub_converted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str, config: str | None, split: str, revision: str = "main") -> Any:
        if revision == "main":
            raise RuntimeError(f"Dataset scripts are no longer supported, but found {name}.py")
        return datasets.Dataset.from_dict({"text": [revision]})

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    assert read_table("hub:someone/thing", "train")["text"][:] == ["refs/convert/parquet"]


def test_a_mistyped_name_suggests_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *_: object, **__: object) -> None:
        raise hub.DatasetNotFoundError(name)

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    with pytest.raises(InputError, match="no such data set .did you mean 'hub:squad_v2'"):
        read_table("hub:sqaud_v2", "train")
    with pytest.raises(InputError, match="hub:sst2: the Hub has no such data set, or it"):
        read_table("hub:sst2", "train")
