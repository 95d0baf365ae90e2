"""The benchmark: what it computes is the same everywhere, and the arithmetic of its figures."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from prunella.bench import run as bench_run
from prunella.bench.arms import Arm, Files, arms_of, check_same_shape, default_forms
from prunella.bench.engines import load
from prunella.bench.rotation import Timing, WorkerFailed, rotate, workers
from prunella.bench.run import bench
from prunella.bench.table import measurements
from prunella.bench.workloads import (
    Batch,
    equal_lengths,
    load_batches,
    parse_shapes,
    read_texts,
    save_workload,
    text_batches,
)
from prunella.checkpoint import open_checkpoint
from prunella.cli import main
from prunella.errors import InputError
from prunella.packed.dense import dense_array
from prunella.packed.read import open_packed
from prunella.packing import pack
from prunella.roles import role_of
from prunella.settings import BenchSettings, PackSettings

Make = Callable[..., Path]
PEERS = ("onnx", "onnxscript", "onnxruntime", "openvino")
needs_peers = pytest.mark.skipif(
    any(find_spec(name) is None for name in PEERS), reason="the other engines are not installed"
)
needs_engine = pytest.mark.skipif(
    find_spec("prunella.engine.compiled") is None, reason="the engine is not built"
)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed classifier with three quarters of zeros."""
    from safetensors.numpy import load_file, save_file

    source = tiny_checkpoint("bert", "classifier")
    folder = tmp_path_factory.mktemp("sparse")
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    arrays = load_file(source / "model.safetensors")
    generator = np.random.default_rng(0)
    for name, array in arrays.items():
        if role_of(name) and array.ndim == 2:
            array *= generator.random(array.shape) < 0.25
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    out = folder / "model.prn"
    pack(PackSettings(model=str(folder), out=str(out), weights="int8"))
    return out


def arm(
    engine: str = "onnxruntime", form: str = "sparse-int8", variant: str = "", **more: Any
) -> Arm:
    return Arm(engine, form, variant, Path(more.get("file", "x")), more.get("options", {}))


# ----------------------------------------------------------------------------------- workloads


def test_padding_holds_every_sequence() -> None:
    ids = np.arange(10, 19, dtype=np.int32)
    types = np.array([0, 0, 1, 0, 0, 0, 0, 1, 1], np.int32)
    batch = Batch(ids, types, np.array([3, 1, 5], np.int32))
    padded = batch.padded(7)
    assert padded["input_ids"].tolist() == [
        [10, 11, 12, 7, 7],
        [13, 7, 7, 7, 7],
        [14, 15, 16, 17, 18],
    ]
    assert padded["attention_mask"].sum(1).tolist() == [3, 1, 5]
    assert padded["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0] * 5, [0, 0, 0, 1, 1]]
    assert {array.dtype for array in padded.values()} == {np.dtype(np.int64)}


def test_workloads_survive_the_file(tmp_path: Path) -> None:
    workload = equal_lengths("two", [(2, 4), (1, 3)], 50)
    assert (workload.tokens, workload.padded_tokens) == (11, 11)
    save_workload(workload, tmp_path / "load.npz")
    again = load_batches(tmp_path / "load.npz")
    for ours, theirs in zip(workload.batches, again, strict=True):
        for part in ("ids", "types", "lengths"):
            assert np.array_equal(getattr(ours, part), getattr(theirs, part))
    assert all((batch.ids >= 5).all() and (batch.ids < 50).all() for batch in again)


def test_shapes() -> None:
    assert parse_shapes("1x16, 8x128") == [(1, 16), (8, 128)]
    for wrong in ("16", "1x", "x4", "0x4", "1x16x2", "axb"):
        with pytest.raises(InputError, match="BATCHxLENGTH"):
            parse_shapes(wrong)


def test_texts(model: Path, tmp_path: Path) -> None:
    rows = [{"sentence1": "The king sleeps.", "sentence2": "Is he old?"}] * 2
    rows += [{"text": "A queen paints the old box in the attic before noon."}]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    texts = read_texts(path, 10)
    assert texts[0] == ("The king sleeps.", "Is he old?") and texts[2][1] == ""
    tokenizer = Tokenizer.from_buffer(open_packed(model).files["tokenizer.json"])
    workload = text_batches("texts", texts, tokenizer, 2, 20)
    assert [len(batch.lengths) for batch in workload.batches] == [2, 1]
    first = workload.batches[0]
    expected = tokenizer.encode(*texts[0])
    assert first.ids[: len(expected.ids)].tolist() == expected.ids
    assert first.types[: len(expected.ids)].tolist() == expected.type_ids
    assert workload.batches[1].lengths.tolist() == [20]
    assert read_texts(path, 1) == texts[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no text"), (b"\n \n", "holds no text"), (b"\xff\xfe", "cannot be read")],
)
def test_texts_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(path, 5)
    rows = tmp_path / "rows.jsonl"
    for line in ('{"body": "x"}', "[1]", "{"):
        rows.write_text('{"text": "fine"}\n' + line)
        with pytest.raises(InputError, match="line 2"):
            read_texts(rows, 5)


# ---------------------------------------------------------------------------------- the files


def test_forms_hold_what_they_say(model: Path, tmp_path: Path) -> None:
    files = Files(model, None, tmp_path)
    assert files.prn("sparse-int8") == model
    sparse, dense = open_packed(files.prn("sparse-fp32")), open_packed(files.prn("dense-fp32"))
    original = open_packed(model)
    assert set(sparse.names) == set(dense.names) == set(original.names)
    for name in original.names:
        weight = dense_array(original, name)
        assert np.array_equal(dense_array(sparse, name), weight)
        filled = dense_array(dense, name)
        if role_of(name) and weight.ndim == 2:
            kept = weight != 0
            assert np.array_equal(filled[kept], weight[kept]) and filled.all()
            assert 0.5 < filled[~kept].std() / weight[kept].std() < 2
        else:
            assert np.array_equal(filled, weight)
    assert open_packed(files.prn("dense-int8")).metadata["weights"] == "int8"


def test_a_dense_parent_must_have_the_same_shapes(model: Path, tiny_checkpoint: Make) -> None:
    check_same_shape(model, tiny_checkpoint("bert", "classifier", seed=3))
    with pytest.raises(InputError, match="matrices are not those of"):
        check_same_shape(model, tiny_checkpoint("bert", "classifier", hidden=64))
    with pytest.raises(InputError, match="another head"):
        check_same_shape(model, dense_without_head(tiny_checkpoint))


def dense_without_head(tiny_checkpoint: Make) -> Path:
    import shutil

    source = tiny_checkpoint("bert", "classifier")
    copy = source.with_name(source.name + "-renamed")
    if not copy.exists():
        shutil.copytree(source, copy)
        config = json.loads((copy / "config.json").read_text())
        config["architectures"] = ["BertForTokenClassification"]
        (copy / "config.json").write_text(json.dumps(config))
    return copy


@needs_engine
@needs_peers
def test_every_engine_computes_the_same(model: Path, tmp_path: Path) -> None:
    files = Files(model, None, tmp_path)
    workload = equal_lengths("w", [(1, 9)], 100)
    lengths = np.array([4, 2, 3], np.int32)
    batch = Batch(workload.batches[0].ids, np.zeros(9, np.int32), lengths)
    outputs: dict[str, np.ndarray] = {}
    for engine in ("prunella", "onnxruntime", "openvino"):
        for found in arms_of(engine, "sparse-fp32", files):
            options = dict(found.options)
            if engine == "openvino":
                options["properties"] = {"INFERENCE_PRECISION_HINT": "f32"}
            result: Any = load(engine, found.file, 1, options).prepare(batch)()
            outputs[found.name] = np.array(
                result if engine == "prunella" else next(iter(iterate(result)))
            )
    ours = outputs.pop("prunella sparse-fp32")
    assert len(outputs) == 2 and ours.shape == (3, 2)
    for theirs in outputs.values():
        assert np.allclose(theirs, ours, atol=1e-5)


def iterate(result: Any) -> Any:
    return result.values() if hasattr(result, "values") else result


# ------------------------------------------------------------------------------- the rotation


class Clockwork:
    """A worker that takes the seconds it is told, and writes down its turns."""

    def __init__(self, arm: Arm, seconds: list[float], turns: list[str]) -> None:
        self.arm, self.seconds, self.turns = arm, seconds, turns

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        if "workload" in order:
            return {}
        self.turns.append(f"{self.arm.name} warm" if order["warm"] else self.arm.name)
        taken = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if taken < 0:
            raise WorkerFailed("out of order")
        return {"seconds": taken, "rss": len(self.turns)}


def test_engines_take_turns_and_hopeless_ones_leave() -> None:
    turns: list[str] = []
    fast = Clockwork(arm(variant="a"), [1.0], turns)
    slow = Clockwork(arm(variant="b"), [1.3], turns)
    close = Clockwork(arm(variant="c"), [1.2], turns)
    other = Clockwork(arm("openvino"), [4.0], turns)
    failed: dict[str, str] = {}
    running: Any = [fast, slow, close, other]
    timings = rotate(running, Path("load"), 0.1, failed)
    names = [worker.arm.name for worker in running]
    assert turns[:4] == [f"{name} warm" for name in names]
    assert turns[4:8] == names  # calls this long find nothing in the caches
    assert turns[8:11] == [names[0], names[2], names[3]]
    assert [len(timings[worker.arm].seconds) for worker in running] == [5, 2, 5, 5]
    assert not failed


def test_more_rounds_for_short_calls_and_none_for_broken_engines() -> None:
    turns: list[str] = []
    quick = Clockwork(arm(), [0.01], turns)
    broken = Clockwork(arm("openvino"), [0.01, -1.0], turns)
    failed: dict[str, str] = {}
    running: Any = [quick, broken]
    timings = rotate(running, Path("load"), 0.2, failed)
    assert list(timings) == [quick.arm]
    assert 18 <= len(timings[quick.arm].seconds) <= 21
    assert failed == {"openvino sparse-int8": "out of order"}
    assert all(turn.endswith("warm") for turn in turns)


@needs_peers
def test_a_worker_says_why_it_cannot_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with workers([arm(file=broken, options={"pad_id": 0})], 1) as (running, failed):
        assert not running
        assert "INVALID_PROTOBUF" in failed["onnxruntime sparse-int8"] or "Protobuf" in str(failed)


# -------------------------------------------------------------------------------- the figures


def test_figures() -> None:
    workload = equal_lengths("8x10", [(8, 10)], 100)
    ours = arm("prunella")
    static, dynamic = (
        arm(form="dense-int8", variant="static"),
        arm(form="dense-int8", variant="dyn"),
    )
    plain = arm(form="dense-fp32")
    timings = {
        dynamic: Timing([0.030, 0.020, 0.040, 0.025, 0.035], 7),
        static: Timing([0.050], 9),
        plain: Timing([0.1, 0.1], 9),
        ours: Timing([0.010, 0.010], 3),
    }
    notes = {ours: "quad", dynamic: "", static: "", plain: ""}
    found = measurements(workload, 2, timings, notes, dict.fromkeys(timings, 1))
    assert [(m.engine, m.form, m.ran) for m in found] == [
        ("prunella", "sparse-int8", "quad"),
        ("onnxruntime", "dense-fp32", ""),
        ("onnxruntime", "dense-int8", "dyn"),
    ]
    best = found[2]
    assert (best.median, best.lower_quartile, best.upper_quartile) == pytest.approx((30, 25, 35))
    assert best.others == {"static": pytest.approx(50)}
    assert found[0].against == {"onnxruntime": pytest.approx(3.0)}
    assert found[1].against == {"onnxruntime": pytest.approx(0.3)}
    assert found[0].tokens_per_second == pytest.approx(8000)


def test_default_forms_fit_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunella.bench.arms.cpu_flags", lambda: {"avx2"})
    assert default_forms() == ("dense-fp32", "dense-int8", "sparse-fp32", "sparse-int8")
    monkeypatch.setattr("prunella.bench.arms.cpu_flags", lambda: {"avx512_bf16", "bf16"})
    assert default_forms()[2] == "sparse-bf16"


# ------------------------------------------------------------------------------------ the verb


@needs_engine
@needs_peers
def test_bench_of_all_engines(
    model: Path, tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    given = ["--shapes", "2x8", "--threads", "1", "--arms", "sparse-int8", "--seconds", "0.01"]
    given += ["--texts", str(corpus_file), "--batch", "4", "--batches", "2", "--max-length", "40"]
    assert main(["bench", "--model", str(model), *given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2x8, 1 thread" in printed and "How many times faster" in printed
    assert max(map(len, printed.splitlines())) <= 80
    document = json.loads(out.read_text())
    rows = document["measurements"]
    loads = ["2x8", "texts", "texts, made equal"]
    assert [(r["workload"], r["engine"]) for r in rows] == [
        (name, engine)
        for name in loads
        for engine in ("prunella", "onnxruntime", "openvino", "pytorch")
    ]
    for row in rows:
        assert row["rounds"] >= 1 and row["rss"] > 1e7  # a busy machine makes few
        assert 0 < row["lower_quartile"] <= row["median"] <= row["upper_quartile"]
        assert set(row["against"]) == {"onnxruntime", "openvino"}
    assert rows[4]["tokens"] < rows[8]["tokens"]  # the texts' own lengths, and all made equal
    assert document["environment"]["versions"]["onnxruntime"]
    assert document["notes"] == []


def test_wrong_settings(
    model: Path, tmp_path: Path, tiny_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, **given: Any) -> None:
        with pytest.raises(InputError, match=message):
            bench(BenchSettings(model=given.pop("model", str(model)), **given))

    refused("--engines: 'tvm' is none of prunella, onnxruntime", engines="tvm")
    refused("--arms: 'int8' is none of dense-fp32", arms="int8")
    refused("--threads 0: expected counts", threads="0")
    refused("100 tokens, but the model has 72 positions", shapes="1x100", engines="prunella")
    refused("no such file", model=str(tmp_path / "none.prn"))
    there = tmp_path / "there.json"
    there.write_text("{}")
    refused("exists; choose another --out", out=str(there))
    refused("its folder does not exist", out=str(tmp_path / "no" / "out.json"))
    refused("matrices are not those", dense=str(tiny_checkpoint("bert", "classifier", hidden=64)))
    monkeypatch.setattr(bench_run, "missing_for", lambda engine: f"{engine} is away")
    refused("no engine can run: .*openvino: left out", engines="openvino,pytorch")


def test_models_that_would_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("this system does not tell its free memory")
    monkeypatch.setattr(bench_run, "_bytes", lambda path: 10**15)
    with pytest.raises(InputError, match="2 engines side by side would need about 4000 TB"):
        bench_run._check_memory([arm(), arm("openvino")])


def test_checkpoints_stay_as_they_are(model: Path, tmp_path: Path, tiny_checkpoint: Make) -> None:
    parent = tiny_checkpoint("bert", "classifier", seed=3)
    before = open_checkpoint(parent).weights_hash
    files = Files(model, parent, tmp_path)
    assert files.checkpoint("dense") == parent
    assert open_packed(files.prn("dense-fp32")).metadata["source_sha256"] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense-fp32.prn"]
