"""ONNX files: ONNX Runtime and OpenVINO predict what the checkpoint predicts."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertTokenizer,
)

from prunella.errors import InputError
from prunella.exporting import Exported, export, load_with_head
from prunella.grid import load_scales
from prunella.hub import fetch
from prunella.quantization import calibrate_free, restore, save_scales
from prunella.settings import ExportSettings
from prunella.sparsity.targets import find_targets, pruned_parameters

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

Make = Callable[..., Path]
Predict = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
HEADS: dict[str, Any] = {
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
    "ForMaskedLM": AutoModelForMaskedLM,
}
TEXT = "The king sleeps in the castle.\nNobody knows why the young queen paints a box.\n" * 8


@pytest.fixture(scope="module")
def checkpoint(
    tiny_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, bool], Path]:
    """Makes a checkpoint with a head, quantised if asked for."""
    made: dict[tuple[str, str, bool], Path] = {}

    def make(family: str, head: str, quantized: bool) -> Path:
        key = (family, head, quantized)
        if key not in made:
            source = tiny_checkpoint(family, "base" if head == "none" else "classifier")
            folder = tmp_path_factory.mktemp("checkpoint")
            if head in HEADS:
                with torch.random.fork_rng():
                    torch.manual_seed(1)
                    model = HEADS[head].from_pretrained(source)
                model.save_pretrained(folder)
            else:
                model = load_with_head(fetch(str(source)))[0]
            for file in source.iterdir():
                if not (folder / file.name).exists():
                    (folder / file.name).write_bytes(file.read_bytes())
            if quantized:
                layers = pruned_parameters(model, find_targets(model))
                for weight in layers.values():
                    weight.data *= torch.rand_like(weight) < 0.5
                names = [name.removesuffix(".weight") for name in layers]
                scales = calibrate_free(model, names)
                model.save_pretrained(folder)
                save_scales(folder, scales)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text(TEXT)
    return str(path)


def padded_batch(folder: Path) -> dict[str, np.ndarray]:
    """Rows of 17, 9, 2 and 1 tokens."""
    config = json.loads((folder / "config.json").read_text())
    ids = np.random.default_rng(3).integers(5, config["vocab_size"], (4, 17))
    mask = np.ones_like(ids)
    for row, length in enumerate((17, 9, 2, 1)):
        ids[row, length:] = config["pad_token_id"]
        mask[row, length:] = 0
    types = np.zeros_like(ids)
    types[0, 8:] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def expected_outputs(folder: Path, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the checkpoint predicts, in 8 bits if it is quantised."""
    model, _ = load_with_head(fetch(str(folder)))
    if scales := load_scales(folder):
        restore(model, scales)
    with torch.no_grad():
        return [x.numpy() for x in model(**tensors(model, batch)).to_tuple()]


def tensors(model: Any, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    return {k: torch.from_numpy(v) for k, v in batch.items() if typed or k != "token_type_ids"}


def in_onnxruntime(path: str) -> Predict:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name] for name in names})


def in_openvino(path: str) -> Predict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip("openvino")
    # Processors with bf16 instructions would round to it.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    names = [item.get_any_name() for item in compiled.inputs]
    return lambda batch: list(compiled({n: batch[n] for n in names}).values())


def run(folder: Path, out: Path, **given: Any) -> Exported:
    return export(ExportSettings(model=str(folder), onnx=str(out), **given))


def assert_alike(folder: Path, path: str, tolerance: float) -> None:
    """Both runtimes give the checkpoint's outputs on a padded batch, within a share of them."""
    batch = padded_batch(folder)
    real = batch["attention_mask"].astype(bool)
    for predict in (in_onnxruntime(path), in_openvino(path)):
        found = predict(batch)
        expected = expected_outputs(folder, batch)
        assert len(found) == len(expected)
        for theirs, ours in zip(found, expected, strict=True):
            assert theirs.shape == ours.shape
            by_token = ours.shape[:2] == real.shape
            theirs, ours = (theirs[real], ours[real]) if by_token else (theirs, ours)
            assert np.linalg.norm(theirs - ours) <= tolerance * np.linalg.norm(ours)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("bert", "ForQuestionAnswering"),
        ("roberta", "ForTokenClassification"),
        ("distilbert", "ForSequenceClassification"),
        ("distilbert", "none"),
        ("electra", "ForMaskedLM"),
    ],
)
def test_fp32_predicts_alike(
    checkpoint: Callable[..., Path], family: str, head: str, tmp_path: Path
) -> None:
    folder = checkpoint(family, head, False)
    done = run(folder, tmp_path / "out.onnx")
    assert done.weights == "fp32" and done.activations is None
    assert done.difference is not None and done.difference < 1e-5
    assert_alike(folder, done.path, 1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("roberta", "ForTokenClassification"),
        ("distilbert", "ForQuestionAnswering"),
        ("electra", "ForSequenceClassification"),
    ],
)
def test_int8_keeps_the_weights_and_predicts_alike(
    checkpoint: Callable[..., Path], family: str, head: str, tmp_path: Path, text: str
) -> None:
    folder = checkpoint(family, head, True)
    done = run(folder, tmp_path / "out.onnx", calibrate=text)
    assert (done.weights, done.activations) == ("int8", "static")
    assert_weights_are_the_checkpoints(folder, done)
    assert_alike(folder, done.path, 0.15)  # how far ranges of a few texts move a random model


@pytest.mark.parametrize(("activations", "tolerance"), [("dynamic", 0.1), ("float", 0.05)])
def test_activations_without_calibration(
    checkpoint: Callable[..., Path], activations: str, tolerance: float, tmp_path: Path
) -> None:
    folder = checkpoint("bert", "ForTokenClassification", True)
    done = run(folder, tmp_path / "out.onnx", activations=activations)
    assert (done.weights, done.activations) == ("int8", activations)
    assert_weights_are_the_checkpoints(folder, done)
    assert_alike(folder, done.path, tolerance)


def assert_weights_are_the_checkpoints(folder: Path, done: Exported) -> None:
    graph = onnx.load(done.path).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    model, _ = load_with_head(fetch(str(folder)))
    scales = load_scales(folder)
    assert scales and done.matrices == len(scales)
    for name, scale in scales.items():
        module = name.removesuffix(".weight")
        codes = stored[f"{module}.codes"]
        assert codes.dtype == np.int8
        assert np.array_equal(stored[f"{module}.scale"], scale)
        weight = model.get_parameter(name).numpy()
        assert np.array_equal(codes.T * scale[:, None], weight)
        assert not any(a.shape == weight.T.shape and (a == weight.T).all() for a in stored.values())


def test_the_graph_is_standard(checkpoint: Callable[..., Path], tmp_path: Path, text: str) -> None:
    folder = checkpoint("bert", "ForSequenceClassification", True)
    done = run(folder, tmp_path / "out.onnx", calibrate=text, texts=4)
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(s.domain, s.version) for s in model.opset_import] == [("", done.opset)]
    shapes = {
        item.name: [d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output)
    }
    both = ["batch", "sequence"]
    inputs = {"input_ids": both, "attention_mask": both, "token_type_ids": both}
    assert shapes == inputs | {"logits": ["batch", 2]}
    kinds = Counter(node.op_type for node in model.graph.node)
    # Two layers of six matrices and a pooler; query, key and value share their input.
    assert kinds["QuantizeLinear"] == 2 * 4 + 1
    assert kinds["DequantizeLinear"] == 2 * 4 + 1 + 13
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["activations"] == "static" and json.loads(metadata["labels"])
    assert str(folder) not in str(metadata) and not model.graph.node[0].metadata_props


def test_int8_of_a_checkpoint_that_is_not_quantised(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = checkpoint("bert", "ForSequenceClassification", False)
    done = run(folder, tmp_path / "out.onnx", weights="int8", activations="float")
    assert done.matrices == 13
    assert_alike(folder, done.path, 0.05)


def test_ranges_come_from_the_rows_it_was_trained_on(
    checkpoint: Callable[..., Path], tmp_path: Path, task_files: dict[str, dict[str, Path]]
) -> None:
    folder = checkpoint("bert", "ForSequenceClassification", True)
    record = {"settings": {"train": str(task_files["pair"]["train"])}, "task": {"max_length": 24}}
    provenance = folder / "prunella.json"
    provenance.write_text(json.dumps(record))
    rows = str(task_files["pair"]["train"])
    try:
        done = run(folder, tmp_path / "out.onnx", texts=5)
        again = run(folder, tmp_path / "named.onnx", texts=5, calibrate=rows)
    finally:
        provenance.unlink()
    assert done.activations == "static"
    assert initializers(done) == initializers(again)


def initializers(done: Exported) -> dict[str, bytes]:
    return {t.name: t.SerializeToString() for t in onnx.load(done.path).graph.initializer}


def test_clear_refusals(
    checkpoint: Callable[..., Path], tiny_checkpoint: Make, tmp_path: Path, text: str
) -> None:
    folder = checkpoint("bert", "ForSequenceClassification", True)
    out = tmp_path / "out.onnx"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "--calibrate FILE .* --activations dynamic"),
        ({"weights": "fp32", "calibrate": text}, "--calibrate: only int8 .* --weights int8"),
        ({"weights": "fp32", "activations": "float"}, "--activations: only int8"),
        ({"activations": "float", "calibrate": text}, "--calibrate: only int8 with static"),
        ({"activations": "dynamic", "texts": 4}, "--texts: only int8 with static"),
        ({"calibrate": str(tmp_path / "no.csv")}, "no.csv"),
        ({"calibrate": str(tmp_path / "no.txt")}, "no.txt"),
    ]
    empty = tmp_path / "columns.csv"
    empty.write_text("a,b\n1,2\n")
    cases.append(({"calibrate": str(empty)}, "no text column; the columns are a, b"))
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            run(folder, out, **given)
        assert not out.exists()
    out.write_text("mine")
    with pytest.raises(InputError, match="exists; .* --overwrite"):
        run(folder, out, activations="float")
    assert out.read_text() == "mine"
    run(folder, out, activations="float", overwrite=True)
    assert out.stat().st_size > 1000
    with pytest.raises(InputError, match="is a folder"):
        run(folder, tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        run(folder, Path(text) / "out.onnx", weights="fp32")


@pytest.mark.parametrize("name", ["calibrate", "activations", "texts"])
def test_what_fp32_has_no_use_for_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, text: str, name: str
) -> None:
    """Also where it is the checkpoint that makes it fp32."""
    folder, out = checkpoint("bert", "ForSequenceClassification", False), tmp_path / "out.onnx"
    value = {"calibrate": text, "activations": "static", "texts": 128}[name]
    words = f"--{name}: only int8 .* not quantised.* --weights int8.*prunella quantize"
    with pytest.raises(InputError, match=words):
        run(folder, out, **{name: value})
    assert not out.exists()
    assert run(folder, out).weights == "fp32"


@pytest.fixture(scope="module")
def other(
    tiny_tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes a classifier of a family that the engine does not know."""
    common: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 72,
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "num_labels": 3,
    }
    own: dict[str, dict[str, Any]] = {
        "albert": {"embedding_size": 16},
        "mpnet": {},
        "deberta-v2": {
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    }

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        config = AutoConfig.for_model(family, **common, **own[family])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("family", ["albert", "mpnet", "deberta-v2"])
def test_other_families_predict_alike(
    other: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    folder = other(family)
    done = run(folder, tmp_path / "out.onnx")
    assert done.difference is not None and done.difference < 1e-5
    assert_alike(folder, done.path, 1e-4)


@pytest.mark.parametrize("family", ["albert", "deberta-v2"])
@pytest.mark.parametrize("activations", ["static", "dynamic", "float"])
def test_a_matrix_that_is_used_twice_is_in_bytes_twice(
    other: Callable[[str], Path], family: str, activations: str, tmp_path: Path, text: str
) -> None:
    """ALBERT's layers share theirs; DeBERTa's take positions through the words'."""
    folder, out = other(family), tmp_path / "out.onnx"
    given = {"calibrate": text} if activations == "static" else {}
    done = run(folder, out, weights="int8", activations=activations, **given)
    graph = onnx.load(out).graph
    onnx.checker.check_model(onnx.load(out), full_check=True)
    model, _ = load_with_head(fetch(str(folder)))
    weights = [p.numpy() for p in pruned_parameters(model, find_targets(model)).values()]
    assert done.matrices == len(weights)
    for tensor in graph.initializer:  # in neither direction is one left in fp32
        array = onnx.numpy_helper.to_array(tensor)
        assert not any(
            array.shape == shaped.shape and (array == shaped).all()
            for weight in weights
            for shaped in (weight, weight.T)
        )
    assert sum(tensor.name.endswith(".codes") for tensor in graph.initializer) == len(weights)
    assert_alike(folder, done.path, 0.15)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_a_file_that_computes_something_else_is_not_kept(
    checkpoint: Callable[..., Path],
    other: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    family: str,
) -> None:
    """Here as the mask is handed over in a wrong way; an older file stays."""
    folder = checkpoint("bert", "ForSequenceClassification", False)
    if family == "bert":
        monkeypatch.setattr("prunella.exporting._Wrapped", _Unmasked)
    else:
        folder = other(family)
        monkeypatch.setattr("prunella.exporting._adds_masks", lambda model: True)
    out = tmp_path / "out.onnx"
    with pytest.raises(InputError, match=r"no ONNX file was written.*run it in PyTorch"):
        run(folder, out)
    assert not list(tmp_path.iterdir())
    out.write_text("mine")
    with pytest.raises(InputError, match="no ONNX file was written"):
        run(folder, out, overwrite=True)
    assert out.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


class _Unmasked(torch.nn.Module):
    """Stands for a way to call a model that loses its mask."""

    def __init__(self, model: Any, add: bool) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> Any:
        seen = torch.ones_like(attention_mask) + 0 * attention_mask
        return self.model(
            input_ids=input_ids, attention_mask=seen, token_type_ids=token_type_ids
        ).to_tuple()


def test_heads_that_are_not_known(tiny_checkpoint: Make, tmp_path: Path) -> None:
    model = AutoModelForMultipleChoice.from_pretrained(tiny_checkpoint("bert", "base"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="BertForMultipleChoice cannot be exported"):
        run(tmp_path / "model", tmp_path / "out.onnx")


def test_missing_packages(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint("bert", "ForSequenceClassification", True)
    monkeypatch.setattr("prunella.exporting.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'onnx and onnxscript; install "prunella\[train,export\]"'
    ):
        run(folder, tmp_path / "out.onnx", activations="float")
