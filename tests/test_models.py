"""Loading models: heads found or missing, poolers kept, reasons a user can act on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertTokenizer,
)

from prunella.checkpoint import Checkpoint, open_checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.models import (
    check_length,
    check_same_vocabulary,
    load_encoder,
    load_finished,
    load_for_task,
    load_masked_lm,
    load_tokenizer,
    set_dropout,
    takes_token_types,
    task_head,
)

FAMILIES = ["bert", "roberta", "distilbert", "electra"]


@pytest.fixture
def copied(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint that a test may damage."""

    def copied(*args: Any, **given: Any) -> Path:
        return Path(shutil.copytree(tiny_checkpoint(*args, **given), tmp_path / "copy"))

    return copied


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlm_head_is_found(tiny_checkpoint: Callable[..., Path], family: str) -> None:
    path = tiny_checkpoint(family, "mlm")
    model, had_head = load_masked_lm(open_checkpoint(path))
    assert had_head
    assert same_weights(model, AutoModelForMaskedLM.from_pretrained(path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_mlm_head_is_told(tiny_checkpoint: Callable[..., Path], family: str) -> None:
    path = tiny_checkpoint(family, "base")
    model, had_head = load_masked_lm(open_checkpoint(path))
    assert not had_head
    assert same_weights(model.base_model, AutoModel.from_pretrained(path))  # type: ignore[arg-type]


def test_warnings_of_transformers_are_silenced_only_while_loading(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "level", logging.INFO)
    load_encoder(open_checkpoint(tiny_checkpoint("bert", "base")))
    assert logger.level == logging.INFO


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_pooler_survives_masked_language_modelling(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    path = tiny_checkpoint(family, "base")
    pooler: Any = AutoModel.from_pretrained(path).pooler
    model: Any = load_masked_lm(open_checkpoint(path))[0]
    assert torch.equal(model.base_model.pooler.dense.weight, pooler.dense.weight)
    model.save_pretrained(tmp_path)
    again: Any = load_encoder(open_checkpoint(tmp_path))
    assert torch.equal(again.pooler.dense.weight, pooler.dense.weight)


def test_no_pooler_is_made_up(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("bert", "mlm"))
    model: Any = load_masked_lm(checkpoint)[0]
    encoder: Any = load_encoder(checkpoint)
    assert model.bert.pooler is None
    assert encoder.pooler is None
    assert encoder(torch.tensor([[2, 9, 3]])).last_hidden_state.shape == (1, 3, 32)


@pytest.mark.parametrize("load", [load_masked_lm, load_encoder])
def test_a_hole_in_the_encoder_is_an_error(
    copied: Callable[..., Path], load: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    path = copied("bert", "mlm")
    weights = load_file(path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"the weights lack (bert\.)?encoder\.layer\.1\.output\.dense"
    ):
        load(open_checkpoint(path))


def classifier(checkpoint: Checkpoint, labels: int, names: list[str]) -> Any:
    problem = "single_label_classification"
    return load_for_task(checkpoint, "SequenceClassification", labels, names, problem)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("head", "outputs", "shape"),
    [
        ("TokenClassification", 3, (1, 4, 3)),
        ("QuestionAnswering", 2, (1, 4)),
        ("MultipleChoice", 1, (1, 1)),
    ],
)
def test_heads_of_other_kinds(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    family: str,
    head: str,
    outputs: int,
    shape: tuple[int, ...],
) -> None:
    source = open_checkpoint(tiny_checkpoint(family, "mlm"))
    model: Any = load_for_task(source, head, outputs, [], None)
    model.save_pretrained(tmp_path)
    tokens = torch.tensor([[2, 9, 8, 3]])
    tokens = tokens[None] if head == "MultipleChoice" else tokens
    output = model.eval()(input_ids=tokens)
    found = output.start_logits if head == "QuestionAnswering" else output.logits
    assert found.shape == shape
    assert task_head(open_checkpoint(tmp_path)) == head
    assert same_weights(load_finished(open_checkpoint(tmp_path)), model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_task_head(tiny_checkpoint: Callable[..., Path], family: str) -> None:
    path = tiny_checkpoint(family, "mlm")
    names = ["no", "maybe", "yes"]
    model: Any = classifier(open_checkpoint(path), 3, names)
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert model.config.problem_type == "single_label_classification"
    assert model(input_ids=torch.tensor([[2, 9, 3]])).logits.shape == (1, 3)
    base: Any = load_encoder(open_checkpoint(path))
    assert torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)


def test_a_regression_has_one_output(tiny_checkpoint: Callable[..., Path]) -> None:
    model: Any = load_for_task(
        open_checkpoint(tiny_checkpoint("bert")), "SequenceClassification", 1, [], "regression"
    )
    assert model.config.num_labels == 1
    assert model.config.problem_type == "regression"


def test_a_task_head_that_is_there_is_kept(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("bert", "classifier"))
    first, second = (classifier(checkpoint, 2, ["a", "b"]) for _ in range(2))
    assert same_weights(first, second)


def test_a_head_of_another_size_is_explained(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("bert", "classifier", labels=3))
    with pytest.raises(InputError, match="transformers cannot load it"):
        classifier(checkpoint, 2, ["a", "b"])


def test_a_finished_model_is_ready_to_predict(tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("distilbert", "classifier"))
    assert task_head(checkpoint) == "SequenceClassification"
    model = load_finished(checkpoint)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("head", ["mlm", "base"])
def test_a_model_without_task_head_is_not_finished(
    tiny_checkpoint: Callable[..., Path], head: str
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("electra", head))
    assert task_head(checkpoint) is None
    with pytest.raises(InputError, match=r"no task head.*prunella transfer"):
        load_finished(checkpoint)


def test_dropout_is_set_everywhere_or_left(tiny_checkpoint: Callable[..., Path]) -> None:
    model = load_encoder(open_checkpoint(tiny_checkpoint("bert", "base")))

    def rates() -> set[float]:
        return {m.p for m in model.modules() if isinstance(m, nn.Dropout)}

    set_dropout(model, None)
    assert rates() == {0.1}
    set_dropout(model, 0.0)
    assert rates() == {0.0}
    model.train()
    ids = torch.tensor([[2, 9, 30, 3]])
    with torch.no_grad():
        assert torch.equal(model(ids)[0], model(ids)[0])


def test_who_reads_token_types(tiny_checkpoint: Callable[..., Path]) -> None:
    answers = {
        f: takes_token_types(AutoConfig.from_pretrained(tiny_checkpoint(f))) for f in FAMILIES
    }
    assert answers == {"bert": True, "roberta": False, "distilbert": False, "electra": True}


@pytest.mark.parametrize(("family", "longest"), [("bert", 72), ("distilbert", 72), ("roberta", 71)])
def test_rows_must_fit_the_positions(
    tiny_checkpoint: Callable[..., Path], family: str, longest: int
) -> None:
    """RoBERTa's positions begin behind its padding index; the model itself is the judge."""
    model: Any = load_encoder(open_checkpoint(tiny_checkpoint(family, "base")))
    check_length("max_length", longest, model.config)
    model(input_ids=torch.full((1, longest), 9))
    with pytest.raises(InputError, match=f"max_length {longest + 1}.*{longest}.*--max-length"):
        check_length("max_length", longest + 1, model.config)


def test_the_tokenizer_comes_along(
    tiny_checkpoint: Callable[..., Path], tiny_tokenizer: BertTokenizer
) -> None:
    for family in FAMILIES:
        tokenizer = load_tokenizer(open_checkpoint(tiny_checkpoint(family)))
        assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
        assert tokenizer.is_fast


def test_different_vocabularies_are_refused(tiny_tokenizer: BertTokenizer) -> None:
    vocabulary = tiny_tokenizer.get_vocab()
    paths = {"model": Path("here"), "teacher": Path("there")}
    check_same_vocabulary(tiny_tokenizer, BertTokenizer(vocab=vocabulary), paths)
    first, second = (token for token, i in vocabulary.items() if i in (40, 41))
    swapped = vocabulary | {first: vocabulary[second], second: vocabulary[first]}
    token = min(first, second, key=vocabulary.__getitem__)
    with pytest.raises(InputError, match=f"there and student here.*120.*'{token}'"):
        check_same_vocabulary(tiny_tokenizer, BertTokenizer(vocab=swapped), paths)
    larger = vocabulary | {"zebra": len(vocabulary)}
    with pytest.raises(InputError, match=r"121 and 120 entries.*only the teacher has"):
        check_same_vocabulary(tiny_tokenizer, BertTokenizer(vocab=larger), paths)
    with pytest.raises(InputError, match="'zebra'"):
        check_same_vocabulary(BertTokenizer(vocab=larger), tiny_tokenizer, paths)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nothing", "a/b/c", "~/nothing-of-that-name"]
)
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        fetch(name)


def test_a_name_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(name: str, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("offline, and nothing cached\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        fetch("someone/some-model")
    assert "someone/some-model: no such folder" in str(caught.value)
    assert "offline, and nothing cached" in str(caught.value)
    assert "more lines" not in str(caught.value)


def test_a_hub_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def snapshot_download(name: str, **kwargs: Any) -> str:
        raise ConnectionResetError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did not give a model .*\(ConnectionResetError\)"):
        fetch("someone/some-model")


def test_a_local_folder_wins(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_checkpoint("bert")
    monkeypatch.chdir(path.parent)
    assert fetch(path.name).path == Path(path.name)
    assert fetch(str(path)).path == path


@pytest.mark.parametrize(
    "damage", ['{"model_type": "no-such-type"}', "{}", '{"model_type": "bert", "vocab_size": 7}']
)
def test_what_transformers_cannot_load_is_explained(
    copied: Callable[..., Path], damage: str
) -> None:
    path = copied("bert", "mlm")
    (path / "config.json").write_text(damage)
    checkpoint = open_checkpoint(path)
    for load in (load_encoder, load_masked_lm):
        with pytest.raises(InputError, match=f"{path}: transformers cannot load it"):
            load(checkpoint)


def test_cut_weights_are_explained(copied: Callable[..., Path]) -> None:
    path = copied("bert", "mlm")
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot load it|damaged safetensors"):
        load_encoder(open_checkpoint(path))


def test_a_broken_configuration_of_a_task_model_is_explained(copied: Callable[..., Path]) -> None:
    path = copied("bert", "classifier")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type"}))
    with pytest.raises(InputError, match="cannot load it"):
        classifier(open_checkpoint(path), 2, ["a", "b"])


def test_a_folder_without_tokenizer_is_explained(copied: Callable[..., Path]) -> None:
    path = copied("bert", "mlm")
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match=str(path)):
        load_tokenizer(open_checkpoint(path))
