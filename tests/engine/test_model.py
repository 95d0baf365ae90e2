"""What users pass, what they get back in which order, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.conftest import FAMILIES, Tiny
from engine.reference import ReferenceRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prunella
from prunella.engine import model as model_module
from prunella.engine.batching import micro_batches
from prunella.engine.model import Model, Outcome
from prunella.errors import InputError
from prunella.packed.read import PackedFile, open_packed
from prunella.packed.write import TensorSpec, write

Tinies = Callable[..., Tiny]
WORDS = "the captain finds a golden lantern in the attic when the queen leaves".split()


def texts(count: int) -> list[str]:
    """Texts of unequal length."""
    rng = np.random.default_rng(count)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(count)]


# ------------------------------------------------------------------------ order and batches


def test_results_come_in_the_order_of_the_inputs(tiny: Tinies) -> None:
    subject = tiny("bert", "SequenceClassification")
    inputs = texts(40)
    alone = [subject.model()(text) for text in inputs]
    for budget in (1, 50, 100_000):
        together = subject.model(batch_tokens=budget)(inputs)
        assert [r.label for r in together] == [r.label for r in alone]
        np.testing.assert_allclose([r.score for r in together], [r.score for r in alone], rtol=1e-5)


def test_batches_keep_to_the_budget(tiny: Tinies) -> None:
    model = tiny("bert", "SequenceClassification").model(batch_tokens=50)
    model(texts(40))
    runner = model.runner
    assert isinstance(runner, ReferenceRunner)
    assert 3 < len(runner.calls) < 40
    assert max(runner.calls) <= 50


@given(st.lists(st.integers(1, 90)), st.integers(1, 200))
def test_micro_batches(lengths: list[int], budget: int) -> None:
    batches = list(micro_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)
    for before, after in zip(batches, batches[1:], strict=False):
        assert sum(lengths[i] for i in before) + lengths[after[0]] > budget


def test_long_lists_are_taken_piece_by_piece(tiny: Tinies, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert", "SequenceClassification").model()
    inputs = texts(20)
    expected = model(inputs)
    monkeypatch.setattr(model_module, "_AT_ONCE", 7)
    found = model(text for text in inputs)
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], rtol=1e-5)
    assert [r.label for r in found] == [r.label for r in expected]
    with pytest.raises(InputError, match="input 9: a text must be a string, not int"):
        model([*inputs[:9], 3])


def test_several_threads_at_once(tiny: Tinies) -> None:
    model = tiny("bert", "SequenceClassification").model()
    parts = [texts(5 + i) for i in range(4)]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: model(parts[i])})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == [model(part) for part in parts]


# ------------------------------------------------------------------------------- inputs


def test_lone_and_listed(tiny: Tinies) -> None:
    model = tiny("bert", "SequenceClassification").model()
    lone = model("the queen")
    assert model(["the queen"]) == [lone]
    assert model({"text": "the queen"}) == lone
    assert model({"text": "the queen", "text_pair": None}) == lone
    assert model(("the queen", "leaves")) == model([("the queen", "leaves")])[0]
    assert model(("the queen", "leaves")) != lone
    assert model([]) == []
    assert model(iter([])) == []


CLASSIFIER = [
    (3, "a text must be a string, not int"),
    (None, "a text must be a string, not NoneType"),
    (b"bytes", "decode them first"),
    ([3], "input 0: a text must be a string, not int"),
    ([["a", "b"]], "a pair is a tuple"),
    (("a",), "a tuple of 2 strings; this one has 1"),
    (("a", "b", "c"), "this one has 3"),
    (("a", 3), "a pair of texts must be a string, not int"),
    ({"txt": "a"}, "a dictionary lacks text; its keys are text, text_pair"),
    ({"text": "a", "label": 1}, "has 'label'"),
    ("\ud800 x", "half of a surrogate pair"),
    (["fine", "\ud800"], "input 1: .*surrogate"),
]


@pytest.mark.parametrize(("value", "words"), CLASSIFIER, ids=range(len(CLASSIFIER)))
def test_inputs_that_are_none(tiny: Tinies, value: Any, words: str) -> None:
    model = tiny("bert", "SequenceClassification").model()
    with pytest.raises(InputError, match=words):
        model(value)


OTHERS: list[tuple[str, Any, str]] = [
    ("TokenClassification", ("a", "b"), "single texts; this is a pair"),
    ("QuestionAnswering", "where?", "a question needs its context"),
    ("QuestionAnswering", {"question": "where?"}, "lacks context"),
    ("QuestionAnswering", ("where?", "  "), "the context is empty"),
    ("QuestionAnswering", ("", "here"), "the question is empty"),
    ("QuestionAnswering", ("where?", "\u200b\x01"), "nothing that the tokenizer keeps"),
    ("MaskedLM", "no mask", r"no \[MASK\] in 'no mask'"),
    ("MaskedLM", "a " * 90 + "[MASK]", r"\[MASK\] stands behind the first 64 tokens"),
]


@pytest.mark.parametrize(("head", "value", "words"), OTHERS, ids=range(len(OTHERS)))
def test_inputs_of_other_tasks(tiny: Tinies, head: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny("bert", head).model()(value)


def test_attempt_answers_for_the_good_ones(tiny: Tinies) -> None:
    model = tiny("bert", "MaskedLM").model()
    first, second, third = model.attempt(["the [MASK]", "none", "a [MASK] a"])
    assert isinstance(second, InputError)
    assert isinstance(first, Outcome) and isinstance(third, Outcome)
    assert [found.result.candidates[0].id for found in (first, third)] == [
        model(text).candidates[0].id for text in ("the [MASK]", "a [MASK] a")
    ]
    assert (first.tokens, first.cut) == (4, 0)


# ------------------------------------------------------------------- length and truncation


def test_long_texts_are_cut(tiny: Tinies) -> None:
    subject = tiny("bert", "SequenceClassification")
    model = subject.model()
    long = " ".join(WORDS * 20)
    tokens = len(subject.tokenizer()(long, add_special_tokens=False)["input_ids"])
    (outcome,) = model.attempt([long])
    assert isinstance(outcome, Outcome)
    assert (outcome.tokens, outcome.cut) == (64, tokens - 62) == (model.max_length, tokens - 62)
    with pytest.raises(InputError, match=rf"{tokens + 2} tokens, 64 is the most"):
        model(long, truncate=False)
    assert model(long, max_length=3) == model(WORDS[0])
    for wrong in (2, 65):
        with pytest.raises(InputError, match=f"max_length {wrong}: this model takes 3 to 64"):
            model(long, max_length=wrong)


def test_texts_are_read_as_training_read_them(tiny: Tinies, tmp_path: Path) -> None:
    long = " ".join(WORDS * 20)
    record = {"max_length": 20, "stride": 6}
    packed = with_record(tiny("bert", "SequenceClassification"), tmp_path, record)
    model, plain = trained(packed), tiny("bert", "SequenceClassification").model()
    assert model(long) == plain(long, max_length=20) != plain(long)
    assert model(long, max_length=model.max_length) == plain(long)  # more, where it is asked for
    with pytest.raises(InputError, match="20 is the most; shorten the text, raise max_length, or"):
        model(long, truncate=False)
    vector, whole = (
        trained(packed, "embedding")(long),
        trained(tiny("bert", "SequenceClassification").packed, "embedding")(long),
    )
    np.testing.assert_array_equal(vector.vector, whole.vector)  # no rows taught it
    beyond = with_record(tiny("bert", "SequenceClassification"), tmp_path, {"max_length": 500})
    assert trained(beyond)(long) == plain(long)  # all that the model takes


@pytest.mark.parametrize("head", ["TokenClassification", "QuestionAnswering"])
def test_windows_are_those_of_training(tiny: Tinies, tmp_path: Path, head: str) -> None:
    long = " ".join(WORDS * 20)
    value = ("where", long) if head == "QuestionAnswering" else long
    packed = with_record(tiny("bert", head), tmp_path, {"max_length": 20, "stride": 6})
    model, plain = trained(packed), tiny("bert", head).model()
    found = model.attempt([value])
    assert found == plain.attempt([value], max_length=20, stride=6)
    assert (
        found != model.attempt([value], stride=0) == plain.attempt([value], max_length=20, stride=0)
    )
    assert model.attempt([value], max_length=64, stride=128) == plain.attempt([value])


def test_a_long_question_leaves_half_of_the_room(tiny: Tinies) -> None:
    """As in training."""
    model = tiny("bert", "QuestionAnswering").model()
    (outcome,) = model.attempt([("where " * 80, "here")])
    assert isinstance(outcome, Outcome)
    assert outcome.cut > 0 and outcome.tokens < 64
    (short,) = model.attempt([("where", "here")])
    assert isinstance(short, Outcome) and short.cut == 0


def test_the_model_limits_what_its_tokenizer_allows(tiny: Tinies, tmp_path: Path) -> None:
    roberta = repacked(
        tiny("roberta"), tmp_path, "tokenizer_config.json", {"model_max_length": 1e30}
    )
    assert prunella.Model(roberta, ReferenceRunner(roberta)).max_length == 71  # 72 - padding - 1
    bert = repacked(tiny("bert"), tmp_path, "tokenizer_config.json", {"model_max_length": None})
    assert prunella.Model(bert, ReferenceRunner(bert)).max_length == 72


def trained(packed: PackedFile, task: str | None = None) -> Model:
    return Model(packed, ReferenceRunner(packed), task=task)


def with_record(subject: Tiny, folder: Path, record: dict[str, Any]) -> PackedFile:
    """The packed file, with this record of a task's training."""
    packed = subject.packed
    specs = [TensorSpec(name, packed.tensor(name), "dense") for name in packed.names]
    path = folder / f"recorded-{subject.folder.name}.prn"
    write(path, specs, {**packed.metadata, "task": record}, packed.files)
    return open_packed(path)


def repacked(subject: Tiny, folder: Path, name: str, changes: dict[str, Any]) -> Any:
    """The packed file without its tensors but the embeddings', one carried JSON file changed."""
    packed = subject.packed
    files = dict(packed.files)
    files[name] = json.dumps(json.loads(files[name]) | changes).encode()
    specs = [TensorSpec(n, packed.tensor(n), "dense") for n in packed.names]
    path = folder / f"{subject.folder.name}.prn"
    write(path, specs, packed.metadata, files)
    return open_packed(path)


# --------------------------------------------------------------------------- tasks, options


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"topk": 2}, "classification has no option 'topk'; did you mean 'top_k'"),
    ({"stride": 2}, "no option 'stride'; it takes max_length, truncate, top_k"),
    ({"top_k": 0}, "top_k: must be a whole number above 0, not 0"),
    ({"top_k": True}, "top_k: must be"),
    ({"truncate": None}, "truncate: must be True or False"),
    ({"max_length": "64"}, "max_length: must be a whole number"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=range(len(OPTIONS)))
def test_options_are_checked_even_for_nothing(
    tiny: Tinies, options: dict[str, Any], words: str
) -> None:
    model = tiny("bert", "SequenceClassification").model()
    for inputs in ("a", ["a"], []):
        with pytest.raises(InputError, match=words):
            model(inputs, **options)


def test_values_of_options(tiny: Tinies) -> None:
    with pytest.raises(InputError, match="pooling: must be one of mean, cls, not 'max'"):
        tiny("bert").model()("a", pooling="max")
    with pytest.raises(InputError, match="threshold: must be a number"):
        tiny("bert", "QuestionAnswering").model()(("a", "b"), threshold="x")
    with pytest.raises(InputError, match="aggregation: must be one of first"):
        tiny("bert", "TokenClassification").model()("a", aggregation="mean")


def test_tasks_that_a_head_cannot_serve(tiny: Tinies) -> None:
    subject = tiny("bert", "SequenceClassification")
    with pytest.raises(
        InputError, match="BertForSequenceClassification cannot do fill-mask; it does"
    ):
        subject.model(task="fill-mask")
    with pytest.raises(InputError, match="task 'ner' is none of classification"):
        subject.model(task="ner")
    with pytest.raises(InputError, match="BertModel cannot do classification"):
        tiny("bert").model(task="classification")
    with pytest.raises(InputError, match="batch_tokens must be above 0"):
        subject.model(batch_tokens=0)


def test_heads_and_families_that_are_not_run(tiny: Tinies, tmp_path: Path) -> None:
    odd = repacked(
        tiny("bert"), tmp_path, "config.json", {"architectures": ["BertForNextSentencePrediction"]}
    )
    with pytest.raises(InputError, match=r'BertForNextSentencePrediction.*task="embedding"'):
        prunella.Model(odd, ReferenceRunner(odd))
    assert prunella.Model(odd, ReferenceRunner(odd), task="embedding")("a").vector.shape == (32,)
    other = repacked(tiny("bert"), tmp_path, "config.json", {"model_type": "gpt2"})
    with pytest.raises(InputError, match="a model of type 'gpt2'; the engine runs bert"):
        prunella.Model(other, tiny("bert").model().runner)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "makes no sense"),
        ({"id2label": ["a"]}, "makes no sense"),
        ({"max_position_embeddings": "many"}, "makes no sense"),
    ],
)
def test_configurations_that_make_no_sense(
    tiny: Tinies, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    subject = tiny("bert", "SequenceClassification")
    packed = repacked(subject, tmp_path, "config.json", changes)
    with pytest.raises(InputError, match=words):
        prunella.Model(packed, subject.model().runner)


def test_a_vocabulary_beyond_the_embeddings(tiny: Tinies, tmp_path: Path) -> None:
    subject = tiny("bert")
    document = json.loads(subject.packed.files["tokenizer.json"])
    vocabulary = document["model"]["vocab"]
    vocabulary |= {f"word{i}": len(vocabulary) + i for i in range(5)}
    packed = repacked(subject, tmp_path, "tokenizer.json", {"model": document["model"]})
    with pytest.raises(InputError, match="its tokenizer has .* tokens, its table of embeddings"):
        prunella.Model(packed, subject.model().runner)


def test_labels_that_the_head_does_not_have(tiny: Tinies, tmp_path: Path) -> None:
    subject = tiny("bert", "SequenceClassification")
    names = {"id2label": {str(i): f"name{i}" for i in range(5)}}
    packed = repacked(subject, tmp_path, "config.json", names)
    with pytest.raises(InputError, match="5 labels, the head has 2 outputs"):
        prunella.Model(packed, subject.model().runner)


# -------------------------------------------------------------------------- the package


def test_load(tiny: Tinies, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Compiled:
        @staticmethod
        def compile_model(packed: Any, threads: int, isa: Any = None, weights: Any = None) -> Any:
            asked.append((threads, isa, weights))
            return ReferenceRunner(packed)

    monkeypatch.setitem(sys.modules, "prunella.engine.compiled", Compiled)
    subject = tiny("bert", "SequenceClassification")
    path = subject.packed.path
    model = prunella.load(path, threads=2, isa="avx2", weights="fp32")
    assert model("the queen") == subject.model()("the queen")
    assert prunella.load(str(path)).describe()
    assert asked[0] == (2, "avx2", "fp32")
    assert asked[1][0] >= 1 and asked[1][1:] == (None, None)
    assert "BertForSequenceClassification, classification" in repr(model)
    with pytest.raises(InputError, match="threads must be a whole number above 0"):
        prunella.load(path, threads=0)
    with pytest.raises(InputError, match="threads must be a whole number above 0, not 1.5"):
        prunella.load(path, threads=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a folder; `prunella pack --model"):
        prunella.load(path.parent)
    with pytest.raises(InputError, match="cannot do fill-mask"):
        prunella.load(path, task="fill-mask")
    assert len(asked) == 2  # nothing was compiled in vain


SAMPLES: dict[str | None, Any] = {
    "SequenceClassification": [("the queen", "leaves"), "nobody knows", ""],
    "TokenClassification": ["the captain finds a lantern", "", "the queen " * 80],
    "QuestionAnswering": [("who leaves?", "when the queen leaves " * 20), ("who?", "nobody")],
    "MaskedLM": ["the [MASK] finds a [MASK]", "[MASK]"],
    None: ["the queen leaves", ""],
}


@pytest.mark.parametrize("head", SAMPLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_native_engine_answers_alike(tiny: Tinies, family: str, head: str | None) -> None:
    subject = tiny(family, head)
    found = prunella.load(subject.packed.path, threads=1)(SAMPLES[head])
    alike([r.to_json() for r in found], [r.to_json() for r in subject.model()(SAMPLES[head])])


def alike(found: Any, expected: Any) -> None:
    """Equal, numbers within rounding."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        alike(list(found.values()), list(expected.values()))
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    else:
        assert found == expected


_LIGHT = """
import sys
import prunella
assert "numpy" not in sys.modules and "tokenizers" not in sys.modules
prunella.load, prunella.Model, prunella.InputError
heavy = {"torch", "transformers", "datasets", "pydantic", "rich", "cyclopts"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_importing_costs_little() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _LIGHT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        getattr(prunella, "lode")


_FORKED = """
import os, sys
sys.path[:0] = sys.argv[2:]
from engine.reference import ReferenceRunner
from prunella import Model
from prunella.packed.read import open_packed
packed = open_packed(sys.argv[1])
model = Model(packed, ReferenceRunner(packed))
here = model(["the queen leaves", "the attic"])
child = os.fork()
if not child:
    os._exit(0 if model(["the queen leaves", "the attic"]) == here else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_tokenising_leaves_fork_alone(tiny: Tinies) -> None:
    """No threads of the tokenizer's library, so no warning of it after a fork."""
    path = tiny("bert", "SequenceClassification").packed.path
    tests = Path(__file__).parent.parent
    command: Sequence[str] = [sys.executable, "-c", _FORKED, str(path), str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# ----------------------------------------------------------------------------- any text


@given(st.lists(st.text(max_size=80) | st.text("aé中 .[]MASK#\n", max_size=200), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_text_gets_a_result_or_a_reason(tiny: Tinies, inputs: list[str]) -> None:
    """And what is found in a text stands there."""
    for found, text in zip(
        tiny("bert", "TokenClassification").model()(inputs), inputs, strict=True
    ):
        ends = [0, *(end for entity in found for end in (entity.start, entity.end)), len(text)]
        assert ends == sorted(ends)
        assert all(entity.text == text[entity.start : entity.end] for entity in found)
    answering = tiny("bert", "QuestionAnswering").model()
    for outcome, text in zip(
        answering.attempt([("the queen?", text) for text in inputs]), inputs, strict=True
    ):
        if isinstance(outcome, InputError):
            assert "context" in str(outcome)
        else:
            answer = outcome.result.to_json()
            assert answer["text"] == text[answer["start"] : answer["end"]] != ""
            json.dumps(answer, allow_nan=False)
    filling = tiny("bert", "MaskedLM").model()
    for outcome, text in zip(filling.attempt(inputs), inputs, strict=True):
        assert isinstance(outcome, InputError) == (
            "[MASK]" not in text or "[MASK] stands behind" in str(outcome)
        )
