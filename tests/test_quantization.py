"""8-bit training: the pattern, the names and the predictions survive; the arithmetic is integer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from prunella import grid, quantization
from prunella.errors import InputError
from prunella.roles import role_of

Batch = dict[str, Tensor]


def make_model(sparsity: float = 0.7) -> BertForSequenceClassification:
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
            id2label={0: "a", 1: "b", 2: "c"},
        )
    ).eval()
    with torch.no_grad():
        for name in encoder_names(model):
            weight = model.get_submodule(name).get_parameter("weight")
            weight.mul_(10.0).mul_(torch.rand_like(weight) >= sparsity)
    return model


def encoder_names(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and role_of(name)
    ]


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(4, 10, dtype=torch.long)
    mask[1, 6:] = 0
    mask[3] = 0  # an empty row: nothing but padding
    return {
        "input_ids": torch.randint(0, 50, (4, 10), generator=generator),
        "attention_mask": mask,
        "labels": torch.randint(0, 3, (4,), generator=generator),
    }


@torch.no_grad()
def predict(model: nn.Module) -> Tensor:
    return model.eval()(**make_batch(7)).logits


def train(model: nn.Module, steps: int, bf16: bool = False) -> list[float]:
    """Some AdamW steps with momentum and weight decay, under a lock of the present zeros."""
    weights = [model.get_submodule(name).get_parameter("weight") for name in encoder_names(model)]
    masks = [weight.detach() != 0 for weight in weights]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    losses = []
    model.train()
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**make_batch(step % 2)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight, mask in zip(weights, masks, strict=True):
                weight.mul_(mask)
        losses.append(loss.item())
    return losses


def make_layer(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    layer = nn.Linear(inputs, outputs, bias=bias)
    quantization.prepare(nn.Sequential(layer), ["0"])
    return layer


def test_names_and_parameters_stay() -> None:
    model = make_model()
    keys, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    names = encoder_names(model)
    assert len(names) == 13  # six in each of two layers, and the pooler
    quantization.prepare(model, names)
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == parameters
    assert encoder_names(model) == names
    scales = quantization.finish(model)
    assert list(model.state_dict()) == keys
    assert list(scales) == [f"{name}.weight" for name in names]
    assert type(model.classifier) is nn.Linear
    assert type(model.bert.embeddings.word_embeddings) is nn.Embedding


def test_prepare_changes_predictions_a_little_and_finish_not_at_all() -> None:
    model = make_model()
    plain = predict(model)
    quantization.prepare(model, encoder_names(model))
    prepared = predict(model)
    quantization.finish(model)
    assert torch.equal(predict(model), prepared)
    assert not torch.equal(prepared, plain)
    assert (prepared - plain).norm() < 0.1 * plain.norm()


@pytest.mark.parametrize("bf16", [False, True])
def test_training_keeps_zeros_and_learns(bf16: bool) -> None:
    model = make_model()
    names = encoder_names(model)
    zeros = {name: model.get_submodule(name).get_parameter("weight") == 0 for name in names}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    quantization.prepare(model, names)
    losses = train(model, 5, bf16)
    assert np.isfinite(losses).all() and losses[4] < losses[0]
    trained = predict(model)
    quantization.finish(model)
    assert torch.equal(predict(model), trained)
    for name in names:
        weight = model.get_submodule(name).get_parameter("weight")
        assert (weight[zeros[name]] == 0).all()
        assert not torch.signbit(weight[weight == 0]).any()
        assert not torch.equal(weight, before[f"{name}.weight"])


def test_saved_model_is_ordinary_and_predicts_bit_identically(tmp_path: Path) -> None:
    model = make_model()
    quantization.prepare(model, encoder_names(model))
    train(model, 5)
    before_finish = predict(model)
    scales = quantization.finish(model)
    model.save_pretrained(tmp_path)
    quantization.save_scales(tmp_path, scales)

    stock = BertForSequenceClassification.from_pretrained(tmp_path)
    assert all(type(stock.get_submodule(name)) is nn.Linear for name in encoder_names(stock))
    for key, value in model.state_dict().items():
        assert torch.equal(stock.state_dict()[key], value), key
    loaded = quantization.load_scales(tmp_path)
    assert loaded is not None
    quantization.restore(stock, loaded)
    assert torch.equal(predict(stock), before_finish)
    # The side file and the weights alone give the packer its codes.
    for name, scale in loaded.items():
        weight = stock.get_parameter(name).detach().numpy()
        codes = quantization.int_weights(weight, scale)
        assert codes.dtype == np.int8 and codes.min() >= -127
        assert np.array_equal(codes * scale[:, None], weight)
        assert np.array_equal(codes == 0, weight == 0)


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
        ElectraConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
        DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    ],
    ids=lambda config: config.model_type,
)
def test_other_families(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = make_batch()["input_ids"]
    names = encoder_names(model)
    assert len(names) == 12
    scales = quantization.calibrate_free(model, names)
    stock = AutoModelForSequenceClassification.from_config(config).eval()
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert not torch.equal(stock(ids).logits, model(ids).logits)
        quantization.restore(stock, scales)
        assert torch.equal(stock(ids).logits, model(ids).logits)


def test_finish_twice_is_finish_once() -> None:
    model = make_model()
    scales = quantization.calibrate_free(model, encoder_names(model))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    again = quantization.finish(model)
    assert all(np.array_equal(again[name], scale) for name, scale in scales.items())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_rounding_without_training_takes_the_nearest_code() -> None:
    layer = nn.Linear(4, 2)
    weight = torch.tensor([[1.27, -0.634, 0.006, 0.004], [-2.54, 0.0, 0.031, 1.0]])
    with torch.no_grad():
        layer.weight.copy_(weight)
    scale = quantization.calibrate_free(nn.Sequential(layer), ["0"])["0.weight"]
    np.testing.assert_allclose(scale, [0.01, 0.02], rtol=1e-6)
    codes = quantization.int_weights(layer.weight.detach().numpy(), scale)
    assert codes.tolist() == [[127, -63, 1, 0], [-127, 0, 2, 50]]


def test_rows_of_zeros_and_of_nothing_but_dust() -> None:
    layer = make_layer(8, 4)
    with torch.no_grad():
        layer.weight[1] = 0.0
        layer.weight[2] = 1e-42  # its scale would be 0
    model = nn.Sequential(layer)
    x = torch.randn(3, 8)
    before = model(x)
    before.sum().backward()
    assert torch.isfinite(before).all() and torch.isfinite(layer.weight.grad).all()  # type: ignore[arg-type]
    scale = quantization.finish(model)["0.weight"]
    assert (scale > 0).all() and scale[1] == 1.0 == scale[2]
    assert (layer.weight[1:3] == 0).all()
    assert torch.equal(model(x), before)
    assert (quantization.int_weights(layer.weight.detach().numpy(), scale)[1:3] == 0).all()


def test_tokens_of_zeros_and_no_tokens() -> None:
    layer = make_layer(8, 4)
    assert torch.equal(layer(torch.zeros(2, 3, 8)), layer.bias.expand(2, 3, 4))
    assert layer(torch.zeros(0, 5, 8)).shape == (0, 5, 4)
    x = torch.zeros(0, 5, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


def test_an_outlier_token_does_not_coarsen_its_neighbours() -> None:
    layer = make_layer(16, 8)
    x = torch.randn(4, 16)
    alone = layer(x)
    x[2, 3] = 1e30
    together = layer(x)
    keep = [0, 1, 3]
    assert torch.equal(together[keep], alone[keep])
    # The outlier's own token has nothing else left; its weights are within half a step.
    column = layer.weight.detach()[:, 3]
    step = quantization.weight_scale(layer.weight)
    assert ((together[2].detach() / 1e30 - column).abs() <= 0.501 * step).all()


def test_an_outlier_weight_is_kept_and_the_rest_of_its_row_rounded_to_it() -> None:
    layer = make_layer(8, 2, bias=False)
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1e30, -1e30, 1.0, 0.0, 5e29, 0.0, 0.0, 0.0])
    scale = quantization.finish(nn.Sequential(layer))["0.weight"]
    codes = quantization.int_weights(layer.weight.detach().numpy(), scale)
    assert codes[0].tolist() == [127, -127, 0, 0, 64, 0, 0, 0]  # 63.5 rounds to the even 64
    assert np.abs(codes[1]).max() == 127  # the other row has its own grid


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (33, 384, 96), (9, 1536, 64)])
def test_forward_is_the_integer_reference_bit_for_bit(
    shape: tuple[int, int, int], bias: bool
) -> None:
    tokens, inputs, outputs = shape
    layer = make_layer(inputs, outputs, bias)
    x = torch.randn(tokens, inputs) * torch.logspace(-3, 3, tokens)[:, None]
    x[0] = x[0].abs()  # ranges on one side of zero
    x[-1] = -x[-1].abs()
    scale = quantization.finish(nn.Sequential(layer))["0.weight"]
    weight = layer.weight.detach().numpy()
    expected = quantization.reference_linear(
        x.numpy(),
        quantization.int_weights(weight, scale),
        scale,
        layer.bias.detach().numpy() if bias else None,
    )
    assert expected.dtype == np.float32
    assert np.array_equal(layer(x).detach().numpy(), expected)


def test_reference_by_hand() -> None:
    # Range -1..4 in 255 steps: scale 5/255, zero point 51, codes 0, 51, 102, 255.
    x = np.array([[-1.0, 0.0, 1.0, 4.0]], np.float32)
    codes, scale, zero_point = grid.quantize_tokens(x)
    assert codes.tolist() == [[0, 51, 102, 255]] and zero_point.tolist() == [[51]]
    assert scale[0, 0] == pytest.approx(5 / 255)
    weight = np.array([[1, 2, 3, 4], [-127, 0, 0, 127]], np.int8)
    bias = np.array([0.5, 0.0], np.float32)
    y = grid.reference_linear(x, weight, np.array([0.1, 1.0], np.float32), bias)
    np.testing.assert_allclose(y, [[(-1 + 0 + 3 + 16) * 0.1 + 0.5, 127 * 5.0]], rtol=1e-6)


def test_largest_code_saturates_where_both_ends_round_outwards() -> None:
    # The zero point is 127.5 rounded to 128, and so is the top: 256 must become 255.
    x = np.array([[-127.5, 127.5]], np.float32)
    codes, _, zero_point = grid.quantize_tokens(x)
    assert codes.tolist() == [[0, 255]] and zero_point.tolist() == [[128]]
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 127.0]]))
    quantization.prepare(nn.Sequential(layer), ["0"])
    assert layer(torch.from_numpy(x)).item() == 127 * 127


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_activations_are_within_a_step_and_zero_is_exact(x: np.ndarray) -> None:
    codes, scale, zero_point = grid.quantize_tokens(x)
    assert (zero_point >= 0).all() and (zero_point <= 255).all()
    value = (codes.astype(np.float64) - zero_point) * scale
    tiny = np.finfo(np.float32).tiny * 256  # narrower tokens count as zeros
    assert (np.abs(value - x) <= np.maximum(scale * 1.001, tiny)).all()
    assert (value[x == 0] == 0).all()


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
@settings(max_examples=100, deadline=None)
def test_any_weights_round_within_half_a_step_and_come_back(weight: np.ndarray) -> None:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    scale = quantization.calibrate_free(nn.Sequential(layer), ["0"])["0.weight"]
    rounded = layer.weight.detach().numpy()
    distance = np.abs(rounded - weight.astype(np.float64))
    assert (distance <= 0.5001 * scale[:, None].astype(np.float64)).all()
    codes = quantization.int_weights(rounded, scale)
    assert np.array_equal(codes * scale[:, None], rounded)
    assert (rounded[weight == 0] == 0).all()


def test_gradients_are_those_of_the_dequantised_product() -> None:
    layer = make_layer(24, 8)
    x = torch.randn(2, 5, 24, requires_grad=True)
    out = torch.randn(2, 5, 8)
    (layer(x) * out).sum().backward()

    codes, scale, zero_point = grid.quantize_tokens(x.detach().reshape(10, 24).numpy())
    on_grid = torch.from_numpy(((codes - zero_point) * scale).astype(np.float32))
    plain_x = on_grid.view(2, 5, 24).requires_grad_()
    weight = layer.weight.detach()
    column = quantization.weight_scale(weight)[:, None]
    plain_weight = ((weight / column).round() * column).requires_grad_()
    plain_bias = layer.bias.detach().clone().requires_grad_()
    (nn.functional.linear(plain_x, plain_weight, plain_bias) * out).sum().backward()
    for ours, plain in ((x, plain_x), (layer.weight, plain_weight), (layer.bias, plain_bias)):
        assert ours.grad is not None and plain.grad is not None
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-5)


def test_gradient_is_the_plain_one_for_values_on_the_grid() -> None:
    torch.manual_seed(2)
    plain = nn.Linear(16, 4)
    with torch.no_grad():
        plain.weight.copy_(torch.randint(-127, 128, (4, 16)) / 128)
        plain.weight[:, 0] = 127 / 128
    x = torch.randint(-100, 156, (6, 16)) / 64.0
    x[:, 0], x[:, 1] = -100 / 64, 155 / 64  # each token spans 255 steps of 1 / 64
    plain(x).square().sum().backward()
    expected = plain.weight.grad
    plain.weight.grad = None
    quantization.prepare(nn.Sequential(plain), ["0"])
    plain(x).square().sum().backward()
    assert expected is not None and plain.weight.grad is not None
    torch.testing.assert_close(plain.weight.grad, expected, rtol=1e-5, atol=1e-4)


def test_frozen_parts_get_no_gradient() -> None:
    layer = make_layer(8, 4)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None and torch.equal(layer.bias.grad, torch.full((4,), 3.0))


def test_bf16_autocast_only_rounds_the_output() -> None:
    layer = make_layer(384, 64)
    x = torch.randn(20, 384)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        again = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    # Two roundings to bf16 (of the sum, of the result), each 2^-9; the bias may cancel.
    bound = 2**-8 * (exact - layer.bias).abs() + 2**-8 * exact.abs() + 1e-6
    assert ((half.float() - exact).abs() <= bound).all()
    rounded_input = layer(x.bfloat16().float())
    bound = 2**-8 * (rounded_input - layer.bias).abs() + 2**-8 * rounded_input.abs() + 1e-6
    assert ((again.float() - rounded_input).abs() <= bound).all()


def test_float16_autocast_does_not_overflow() -> None:
    layer = make_layer(384, 8)
    with torch.no_grad():
        layer.weight.abs_()
    x = torch.rand(3, 384)  # sums of some 10^6 in integers, beyond float16
    exact = layer(x)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(layer(x), exact)


@pytest.mark.filterwarnings("default")
def test_torchao_agrees_where_the_schemes_do() -> None:
    fake = pytest.importorskip("torchao.quantization.qat.fake_quantizer")
    config = pytest.importorskip("torchao.quantization.qat.fake_quantize_config")
    activations = fake.IntxFakeQuantizer(
        config.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    )
    x = torch.randn(50, 96) * torch.logspace(-2, 2, 50)[:, None]
    codes, scale, zero_point = grid.quantize_tokens(x.numpy())
    value = torch.from_numpy(((codes - zero_point) * scale).astype(np.float32))
    assert torch.equal(activations(x), value)
    # Its weights: the same rounding, on a grid of absmax / 127.5 that goes down to -128.
    weights = fake.IntxFakeQuantizer(
        config.IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    )
    weight = torch.randn(32, 96)
    theirs = weights(weight)
    ours = weight.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(weights.scale, ours * (127 / 127.5))
    assert ((theirs - weight).abs() <= 0.501 * weights.scale).all()
    layer = make_layer(96, 32, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    plain = nn.functional.linear(x, weight)
    product = nn.functional.linear(activations(x), theirs)
    error, theirs_error = (layer(x) - plain).norm(), (product - plain).norm()
    assert 0.8 * theirs_error < error < 1.2 * theirs_error


def _nudge(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
    name = list(scales)[3]
    with torch.no_grad():
        weight = model.get_parameter(name)
        weight[0, 0] += float(scales[name][0]) / 3


def _rename(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
    scales["encoder.layer.0.attention.self.query.weight"] = scales.pop(next(iter(scales)))


def _cut(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
    name = next(iter(scales))
    scales[name] = scales[name][:-1]


def _embed(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
    scales["bert.embeddings.word_embeddings.weight"] = np.ones(50, np.float32)


def _spoil(value: float) -> Callable[[nn.Module, dict[str, np.ndarray]], None]:
    def damage(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
        next(iter(scales.values()))[2] = value

    return damage


def _halve(model: nn.Module, scales: dict[str, np.ndarray]) -> None:
    name = next(iter(scales))
    scales[name] = scales[name] / 2  # a finer grid holds the weights too, but not in a byte


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nudge, r"attention\.output\.dense\.weight: 1 of 1024 .* row 0, column 0"),
        (_rename, r"'encoder\.layer\.0\.attention\.self\.query' is no module of this BertFor"),
        (_cut, r"shape \(31,\) do not fit"),
        (_embed, "is a Embedding"),
        (_halve, "query.weight: .* not on the int8 grid"),
        (_spoil(0.0), "query.weight: a scale is not a positive"),
        (_spoil(float("nan")), "query.weight: a scale is not a positive"),
        (_spoil(1e30), "query.weight: .* not on the int8 grid"),
        (_spoil(2e-38), "query.weight: .* not on the int8 grid"),
    ],
)
def test_restore_refuses_what_does_not_fit_and_changes_nothing(
    damage: Callable[[nn.Module, dict[str, np.ndarray]], None], message: str
) -> None:
    model = make_model()
    scales = quantization.calibrate_free(model, encoder_names(model))
    stock = make_model()
    stock.load_state_dict(model.state_dict())
    damage(stock, scales)
    with pytest.raises(InputError, match=message):
        quantization.restore(stock, scales)
    assert not any(isinstance(m, quantization.QuantizedLinear) for m in stock.modules())


def test_prepare_refuses_what_is_no_plain_linear() -> None:
    model = make_model()
    names = encoder_names(model)
    for bad in ("bert.encoder.layer.9.output.dense", "bert.embeddings.word_embeddings", ""):
        with pytest.raises(InputError):
            quantization.prepare(model, [names[0], bad])
        assert type(model.get_submodule(names[0])) is nn.Linear
    quantization.prepare(model, names[:1])
    with pytest.raises(InputError, match="quantised already"):
        quantization.prepare(model, names)
    with pytest.raises(InputError, match=r"dtype=torch\.float32"):
        quantization.prepare(make_model().bfloat16(), names)


def test_finish_refuses_diverged_and_unprepared_models() -> None:
    model = make_model()
    with pytest.raises(InputError, match="no layer of this model is quantised"):
        quantization.finish(model)
    names = encoder_names(model)
    quantization.prepare(model, names)
    with torch.no_grad():
        model.get_submodule(names[1]).get_parameter("weight")[0, 0] = torch.nan
    with pytest.raises(InputError, match=rf"{names[1]}\.weight: not finite"):
        quantization.finish(model)


def test_side_file_round_trip_and_damage(tmp_path: Path) -> None:
    assert quantization.load_scales(tmp_path) is None
    strided = np.arange(1, 9, dtype=np.float32)[::2]
    quantization.save_scales(tmp_path, {"a.weight": strided})
    loaded = quantization.load_scales(tmp_path)
    assert loaded is not None and loaded["a.weight"].tolist() == [1, 3, 5, 7]

    file = tmp_path / quantization.SCALES_FILE
    whole = file.read_bytes()
    for damaged in (b"", whole[:-3], b"\xff" * 64, b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            quantization.load_scales(tmp_path)
    save_file({"a.weight": np.ones(2, np.float32)}, file, metadata={"scheme": "w4"})
    with pytest.raises(InputError, match="quantised as 'w4'"):
        quantization.load_scales(tmp_path)
    with pytest.raises(InputError, match="float32"):
        quantization.int_weights(np.ones((2, 2), np.float32), np.ones(2, np.float64))  # type: ignore[arg-type]


def test_the_grid_needs_no_torch() -> None:
    code = "import sys, prunella.grid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
