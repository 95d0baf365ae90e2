"""Every family from raw text to a packed file and back, on tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from stages.tiny import EVERYTHING, Place, arrays, save_model, zeros
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertTokenizer,
)

from prunella import settings as s
from prunella.checkpoint import open_checkpoint
from prunella.errors import InputError
from prunella.hub import fetch
from prunella.inspection import inspect
from prunella.models import load_finished
from prunella.packing import pack, unpack
from prunella.stages import examples as examples_module
from prunella.stages.evaluate import Evaluation, evaluate
from prunella.stages.examples import open_for_evaluation
from prunella.stages.prune import plan_targets, prune
from prunella.stages.quantize import quantize
from prunella.stages.teach import teach
from prunella.stages.transfer import transfer
from prunella.training.loop import uses_bf16
from prunella.training.task import predict_logits

FAMILIES = ("bert", "roberta", "distilbert", "electra")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
) -> Place:
    return Place(tmp_path_factory.mktemp("place"), corpus_file, task_files)


@dataclass(frozen=True)
class Chain:
    """One family, all stages; `seen` are the last predictions before quantize wrote its model."""

    family: str
    place: Place
    seen: np.ndarray
    evaluation: Evaluation


@pytest.fixture(scope="module", params=FAMILIES)
def chain(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tiny_tokenizer: BertTokenizer,
) -> Chain:
    family: str = request.param
    place = Place(tmp_path_factory.mktemp(family), corpus_file, task_files)
    out, rows = place.out, place.rows()
    # One family under bf16 autocast, which is the default where the processor is fast at it.
    precision = {"precision": "bf16" if family == "bert" else "fp32"}
    text, rows = place.text | precision, rows | precision
    base = save_model(place.folder / "base", family, tiny_tokenizer)
    teach(s.TeachSettings(model=base, out=out("dense"), steps=4, **text))
    prune(s.PruneSettings(model=out("dense"), out=out("sparse"), steps=8, **text))
    transfer(s.TransferSettings(model=out("dense"), out=out("task-dense"), **rows))
    taught: dict[str, Any] = {**rows, "teacher": out("task-dense")}
    transfer(s.TransferSettings(model=out("sparse"), out=out("task"), **taught))
    predict = examples_module.predict_logits
    seen: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            examples_module,
            "predict_logits",
            lambda *a, **k: seen.append(predict(*a, **k)) or seen[-1],
        )
        quantize(s.QuantizeSettings(model=out("task"), out=out("int8"), **taught))
    evaluation = evaluate(
        s.EvaluateSettings(
            model=out("int8"),
            data=rows["validation"],
            predictions=out("predictions.jsonl"),
            resamples=50,
            threads=1,
        )
    )
    pack(s.PackSettings(model=out("int8"), out=out("model.prn")))
    unpack(s.UnpackSettings(model=out("model.prn"), out=out("unpacked")))
    return Chain(family, place, seen[-1], evaluation)


STAGES = {
    "dense": ("teach", "base", AutoModelForMaskedLM),
    "sparse": ("prune", "dense", AutoModelForMaskedLM),
    "task": ("transfer", "sparse", AutoModelForSequenceClassification),
    "int8": ("quantize", "task", AutoModelForSequenceClassification),
}


@pytest.mark.parametrize("name", STAGES)
def test_stock_transformers_loads_every_checkpoint_whole(chain: Chain, name: str) -> None:
    path = chain.place.folder / name
    _, _, kind = STAGES[name]
    model, info = kind.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    encoder, info = AutoModel.from_pretrained(path, output_loading_info=True)
    absent = {key for key in info["missing_keys"] if not key.startswith("pooler.")}
    assert not absent
    stored = {name: torch.from_numpy(array) for name, array in arrays(path).items()}
    prefix = model.base_model_prefix
    for parameter, weight in encoder.named_parameters():
        if f"{prefix}.{parameter}" in stored:
            assert torch.equal(weight, stored[f"{prefix}.{parameter}"])


@pytest.mark.parametrize("name", STAGES)
def test_checkpoint_has_the_ordinary_names_and_no_teacher(chain: Chain, name: str) -> None:
    checkpoint = chain.place.open(name)
    architecture = getattr(transformers, checkpoint.config["architectures"][0])
    fresh = architecture(AutoConfig.from_pretrained(checkpoint.path))
    fresh.save_pretrained(chain.place.folder / f"stock-{name}")
    stock = {t.name: (t.shape, t.dtype) for t in chain.place.open(f"stock-{name}").tensors}
    assert {t.name: (t.shape, t.dtype) for t in checkpoint.tensors} == stock
    assert not any("teacher" in name or "mask" in name for name in stock)


def test_pruned_to_what_was_asked_in_every_matrix(chain: Chain) -> None:
    pruned = zeros(chain.place.open("sparse"))
    assert len(pruned) == 12  # six matrices a layer; no masked-LM class has a pooler
    for where in pruned.values():
        assert where.sum() == round(0.9 * where.size)


@pytest.mark.parametrize(("parent", "child"), [("sparse", "task"), ("task", "int8")])
def test_pattern_is_locked(chain: Chain, parent: str, child: str) -> None:
    before, after = (chain.place.open(name) for name in (parent, child))
    locked, found = zeros(before), zeros(after)
    for name, where in locked.items():
        assert found[name][where].all(), name
    old, new = arrays(before.path), arrays(after.path)
    assert any(not np.array_equal(old[name], new[name]) for name in locked)  # it did train


@pytest.mark.parametrize("name", STAGES)
def test_provenance_is_complete(chain: Chain, name: str) -> None:
    stage, parent, _ = STAGES[name]
    checkpoint = chain.place.open(name)
    record = checkpoint.provenance
    assert record is not None
    assert record["stage"] == stage
    assert record["settings"]["out"] == chain.place.out(name)
    assert record["settings"]["model"] == chain.place.out(parent)
    kind = {"teach": s.TeachSettings, "prune": s.PruneSettings, "transfer": s.TransferSettings}
    assert kind.get(stage, s.QuantizeSettings).model_validate(record["settings"])
    assert record["parents"]["model"]["sha256"] == chain.place.open(parent).weights_hash
    assert record["parents"]["model"]["stage"] == STAGES.get(parent, (None,))[0]
    if stage in ("transfer", "quantize"):
        teacher = chain.place.open("task-dense").weights_hash
        assert record["parents"]["teacher"]["sha256"] == teacher
        assert record["task"]["labels"] == ["bad", "good"]
        assert 0 <= record["metrics"]["accuracy"] <= 1
    else:
        assert record["metrics"]["mlm_loss"] > 0
        assert record["text"]["train_tokens"] > 0
    found = zeros(checkpoint)
    assert record["sparsity"]["matrices"].keys() == found.keys()
    for matrix, share in record["sparsity"]["matrices"].items():
        assert share == pytest.approx(found[matrix].mean())
    whole = np.concatenate([where.ravel() for where in found.values()]).mean()
    assert record["sparsity"]["total"] == pytest.approx(whole)
    assert record["metrics"]["steps"] == {"teach": 4, "prune": 8}.get(stage, 3)
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["cores"] >= 1
    bf16 = uses_bf16(record["settings"]["precision"])
    assert record["arithmetic"] == ("bf16" if bf16 else "fp32")
    assert record["seconds"] >= 0
    log = [json.loads(line) for line in (checkpoint.path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == record["metrics"]["steps"]
    assert {"step", "loss", "learning_rate"} <= log[-1].keys()


def test_another_task_starts_from_the_encoder_of_this_one(chain: Chain) -> None:
    place = chain.place
    rows = {**place.rows("pair"), "steps": 1, "learning_rate": 1e-9, "max_length": 40}
    out = place.out(f"another-{chain.family}")
    transfer(s.TransferSettings(model=place.out("task"), out=out, new_head=True, seed=7, **rows))
    prefix = f"{AutoModelForSequenceClassification.from_pretrained(out).base_model_prefix}."
    before, after = arrays(place.out("task")), arrays(out)
    encoder = [name for name in after if name.startswith(prefix)]
    assert encoder and set(encoder) == {name for name in before if name.startswith(prefix)}
    for name in encoder:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    kept = zeros(open_checkpoint(out))
    assert all(kept[name][where].all() for name, where in zeros(place.open("task")).items())


def test_quantised_model_predicts_after_reload_what_it_did_before(chain: Chain) -> None:
    for name in ("int8", "unpacked"):
        assert np.array_equal(logits_of(chain.place, name), chain.seen)
    plain = AutoModelForSequenceClassification.from_pretrained(chain.place.folder / "int8").eval()
    difference = np.abs(logits_of(chain.place, "int8", plain) - chain.seen).max()
    assert 0 < difference < 0.2  # stock transformers rounds no activations


def logits_of(place: Place, name: str, model: Any = None) -> np.ndarray:
    checkpoint = fetch(place.out(name))
    examples, _ = open_for_evaluation(
        s.EvaluateSettings(model=place.out(name), data=place.rows()["validation"]),
        checkpoint,
        AutoConfig.from_pretrained(checkpoint.path),
    )
    assert examples.reading.max_length == 24  # as in training
    padding = examples.reading.tokenizer.pad_token_id or 0
    return predict_logits(
        model or load_finished(checkpoint), examples.encoded, batch_size=64, pad_id=padding
    )


def test_packed_file_holds_the_checkpoint_exactly(chain: Chain) -> None:
    folder = chain.place.folder
    before, after = arrays(folder / "int8"), arrays(folder / "unpacked")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(array, after[name]), name
    for file in ("config.json", "prunella.json", "tokenizer.json"):
        assert (folder / "int8" / file).read_bytes() == (folder / "unpacked" / file).read_bytes()
    packed = inspect(s.InspectSettings(model=chain.place.out("model.prn")))
    plain = inspect(s.InspectSettings(model=chain.place.out("int8")))
    assert packed.encoder.sparsity == plain.encoder.sparsity
    assert packed.encoder.bytes < plain.encoder.bytes / 4


def test_evaluation_agrees_with_its_predictions(chain: Chain) -> None:
    lines = (chain.place.folder / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == chain.evaluation.rows == 48
    hits = sum(row["prediction"] == row["label"] for row in rows) / 48
    assert chain.evaluation.metrics["accuracy"] == pytest.approx(hits)
    low, high = chain.evaluation.interval
    assert low <= hits <= high
    assert [row["label"] for row in rows] == ["bad", "good"] * 24
    record = chain.place.open("int8").provenance
    assert record is not None
    assert record["metrics"]["accuracy"] == pytest.approx(hits)


@pytest.mark.parametrize(("kind", "figure"), [("pair", "accuracy"), ("regression", "spearman")])
def test_pairs_and_regression(place: Place, tiny_checkpoint: Make, kind: str, figure: str) -> None:
    base = str(tiny_checkpoint("bert"))
    out, rows = place.out, place.rows(kind)
    prune(s.PruneSettings(model=base, out=out(f"{kind}-sparse"), steps=4, **place.text))
    transfer(s.TransferSettings(model=base, out=out(f"{kind}-dense"), **rows))
    taught: dict[str, Any] = {**rows, "teacher": out(f"{kind}-dense"), "distillation": EVERYTHING}
    transfer(s.TransferSettings(model=out(f"{kind}-sparse"), out=out(f"{kind}-task"), **taught))
    result = quantize(
        s.QuantizeSettings(model=out(f"{kind}-task"), out=out(f"{kind}-int8"), **taught)
    )
    assert figure in result.metrics
    config = AutoConfig.from_pretrained(result.out)
    assert config.num_labels == (1 if kind == "regression" else 2)
    assert config.problem_type == (
        "regression" if kind == "regression" else "single_label_classification"
    )
    found = evaluate(
        s.EvaluateSettings(model=out(f"{kind}-int8"), data=rows["validation"], resamples=20)
    )
    assert found.metrics[figure] == pytest.approx(result.metrics[figure])
    locked, after = (zeros(place.open(f"{kind}-{name}")) for name in ("sparse", "int8"))
    assert all(after[name][where].all() for name, where in locked.items())


def test_bert_teaches_distilbert(
    place: Place, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = str(tiny_checkpoint("bert", layers=4))
    student = str(tiny_checkpoint("distilbert"))
    shown: list[bool] = []

    def watched(model: Any) -> Any:
        def look(module: Any, args: Any, inputs: dict[str, Any]) -> None:
            shown.append("token_type_ids" in inputs and bool(inputs["token_type_ids"].any()))

        model.register_forward_pre_hook(look, with_kwargs=True)
        return model.eval().requires_grad_(False)

    monkeypatch.setattr("prunella.stages.upstream.eval_mode", watched)
    settings = s.PruneSettings(
        model=student,
        teacher=teacher,
        out=place.out("taught"),
        steps=6,
        distillation=s.DistillationSettings(**EVERYTHING),
        **{**place.text, "short_share": 0.9, "pair_share": 1.0},
    )
    result = prune(settings)
    assert any(shown)  # second segments reach the teacher, though the student knows none
    assert result.provenance["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)
    after = arrays(place.out("taught"))
    assert after.keys() == arrays(student).keys()
    assert (
        after["distilbert.embeddings.word_embeddings.weight"][1:] != 0
    ).all()  # tied to vocab_projector, which no rule may prune
    last = json.loads((result.out / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss_mlm", "loss_logits", "loss_hidden", "loss_attention", "sparsity"} <= last.keys()


def test_widths_may_differ_for_attention_relations(place: Place, tiny_checkpoint: Make) -> None:
    teacher = str(tiny_checkpoint("bert", layers=3, hidden=64))
    student = str(tiny_checkpoint("bert", "base"))
    settings = s.PruneSettings(
        model=student,
        teacher=teacher,
        out=place.out("relations"),
        steps=4,
        mlm=0,
        distillation=s.DistillationSettings(attention=1.0),
        **place.text,
    )
    assert prune(settings).provenance["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_hidden_states_alone_need_no_head(place: Place, tiny_checkpoint: Make, family: str) -> None:
    base = str(tiny_checkpoint(family, "base"))
    settings = s.PruneSettings(
        model=base,
        out=place.out(f"headless-sparse-{family}"),
        steps=6,
        mlm=0,
        distillation=s.DistillationSettings(hidden=1.0),
        **place.text,
    )
    result = prune(settings)
    found = zeros(open_checkpoint(result.out))
    assert "pooler.dense.weight" in found
    assert all(where.sum() == round(0.9 * where.size) for where in found.values())
    assert result.metrics["hidden_distance"] < 1.5
    assert "mlm_loss" not in result.metrics
    assert arrays(result.out).keys() == arrays(base).keys()
    # From a bare encoder the pattern still reaches the task, whose names have a prefix.
    moved = transfer(
        s.TransferSettings(
            model=str(result.out),
            out=place.out(f"headless-task-{family}"),
            lock="on",
            **place.rows(),
        )
    )
    after = zeros(open_checkpoint(moved.out))
    kept = [name for name in found if f"{family}.{name}" in after]
    assert len(kept) >= 12
    assert all(after[f"{family}.{name}"][found[name]].all() for name in kept)


def test_no_pooler_is_made_up(place: Place, tiny_checkpoint: Make) -> None:
    """The encoder class would add a random one, other in every process, and prune it."""
    found = []
    for name in ("unpooled", "unpooled-again"):
        settings = s.PruneSettings(
            model=str(tiny_checkpoint("bert")),
            out=place.out(name),
            steps=3,
            mlm=0,
            distillation=s.DistillationSettings(hidden=1.0),
            **place.text,
        )
        torch.manual_seed(len(found))  # what came before must not matter
        found.append(arrays(prune(settings).out))
    assert not any("pooler" in name for name in found[0])
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_pooler_survives_masked_language_modelling(
    place: Place, tiny_tokenizer: BertTokenizer
) -> None:
    """MLM classes drop the pooler; a task wants it back, pruned like the rest."""
    base = place.folder / "with-pooler"
    save_model(base, "bert", tiny_tokenizer)
    config = AutoConfig.from_pretrained(base)
    transformers.BertForPreTraining(config).save_pretrained(base)
    pooler = arrays(base)["bert.pooler.dense.weight"]
    prune(s.PruneSettings(model=str(base), out=place.out("pooler-sparse"), steps=4, **place.text))
    kept = arrays(place.out("pooler-sparse"))["bert.pooler.dense.weight"]
    assert (kept == 0).sum() == round(0.9 * kept.size)
    # No gradient reaches it here; a weight that was away comes back within 8 bits of its value.
    np.testing.assert_allclose(kept[kept != 0], pooler[kept != 0], rtol=1 / 16)
    result = transfer(
        s.TransferSettings(
            model=place.out("pooler-sparse"), out=place.out("pooler-task"), **place.rows()
        )
    )
    assert (arrays(result.out)["bert.pooler.dense.weight"][kept == 0] == 0).all()


def test_global_scope_shares_one_threshold(place: Place, tiny_checkpoint: Make) -> None:
    base = str(tiny_checkpoint("bert"))
    result = prune(
        s.PruneSettings(
            model=base,
            out=place.out("global"),
            steps=6,
            scope="global",
            sparsity=0.8,
            exclude=("bert.encoder.layer.0.attention",),
            **place.text,
        )
    )
    shares = result.provenance["sparsity"]["matrices"]
    excluded = {name for name in shares if "layer.0.attention" in name}
    assert len(excluded) == 4
    assert all(shares[name] == 0 for name in excluded)
    free = {
        n: where for n, where in zeros(open_checkpoint(result.out)).items() if n not in excluded
    }
    weights = sum(where.size for where in free.values())
    assert sum(int(where.sum()) for where in free.values()) == round(0.8 * weights)
    assert len({round(shares[name], 4) for name in free}) > 1


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
def test_any_other_transformer_whose_matrices_resolve(
    place: Place, tiny_tokenizer: BertTokenizer, family: str
) -> None:
    base = save_model(place.folder / family, family, tiny_tokenizer)
    targets = plan_targets(s.PruneSettings(model=base, out="-", **place.text))
    assert len([target for target in targets if target.pruned]) == 12
    result = prune(
        s.PruneSettings(model=base, out=place.out(f"{family}-out"), steps=4, **place.text)
    )
    assert result.provenance["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)
    AutoModelForMaskedLM.from_pretrained(result.out)


def test_a_transformer_that_does_not_resolve_says_so(
    place: Place, tiny_tokenizer: BertTokenizer
) -> None:
    base = save_model(place.folder / "xlm", "xlm", tiny_tokenizer)
    settings = s.PruneSettings(model=base, out=place.out("xlm-out"), **place.text)
    with pytest.raises(InputError, match=r"could not resolve .*attentions\.0\.q_lin"):
        prune(settings)
    assert not (place.folder / "xlm-out").exists()


def test_teach_from_a_model_without_head_trains_it_first(
    place: Place, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(tiny_checkpoint("bert", "base"))
    phases: list[tuple[str, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
    from prunella.stages import teach as stage
    from prunella.stages import upstream

    def watched(model: Any, plan: Any, settings: Any, train: Any = stage.train) -> Any:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        summary = train(model, plan, settings)
        phases.append(
            (plan.label, before, {n: p.detach().clone() for n, p in model.named_parameters()})
        )
        return summary

    for module in (stage, upstream):
        monkeypatch.setattr(module, "train", watched)
    result = teach(
        s.TeachSettings(
            model=base, out=place.out("bare-taught"), steps=3, head_steps=2, **place.text
        )
    )
    (first, before, after), (second, _, end) = phases
    assert (first, second) == ("head", "teach")
    same = {name for name in before if torch.equal(before[name], after[name])}
    # The output matrix is tied to the embeddings, so it is as frozen as they are.
    assert {name for name in before if name.startswith("bert.")} <= same
    assert "cls.predictions.transform.dense.weight" not in same
    assert not torch.equal(
        after["bert.encoder.layer.0.output.dense.weight"],
        end["bert.encoder.layer.0.output.dense.weight"],
    )
    assert result.metrics["steps"] == 5
    AutoModelForMaskedLM.from_pretrained(result.out)


def test_teach_from_a_configuration_trains_a_vocabulary(place: Place) -> None:
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    result = teach(
        s.TeachSettings(
            config=config, vocabulary_size=80, out=place.out("new"), steps=3, **place.text
        )
    )
    made = transformers.AutoTokenizer.from_pretrained(result.out)
    model = AutoModelForMaskedLM.from_pretrained(result.out)
    assert 40 < len(made) <= 80
    assert model.config.vocab_size == len(made)
    assert made.unk_token_id not in made("the good cat sees a bird .")["input_ids"]
    assert result.provenance["parents"] == {}
    following = prune(
        s.PruneSettings(model=str(result.out), out=place.out("new-sparse"), steps=3, **place.text)
    )
    assert following.provenance["sparsity"]["total"] == pytest.approx(0.9, abs=1e-3)


def test_teaching_a_sparse_model_further_keeps_its_pattern(
    place: Place, tiny_checkpoint: Make
) -> None:
    base = str(tiny_checkpoint("bert"))
    prune(s.PruneSettings(model=base, out=place.out("domain-sparse"), steps=4, **place.text))
    result = teach(
        s.TeachSettings(
            model=place.out("domain-sparse"), out=place.out("domain"), steps=3, **place.text
        )
    )
    locked, after = zeros(place.open("domain-sparse")), zeros(open_checkpoint(result.out))
    assert all(after[name][where].all() for name, where in locked.items())
