"""Scales, codes and products against the NumPy reference codec."""

import numpy as np
import pytest
import torch
from ptq_cases import Convolutional, assert_close, normal, rounded_by_numpy
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from tiles.formats import quantize as numpy_quantize
from workbench.ptq import Calibration, Rule, Scheme, quantize
from workbench.ptq.layers import QuantizedConv
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.observer import Observer

ALL = Scheme(name="all", keep_first_last=False)


def batches() -> list[tuple[torch.Tensor, ...]]:
    """The largest magnitude is neither in the first batch nor in the last."""
    return [(normal(5, 24, seed=seed) * (1, 3, 2)[seed],) for seed in range(3)]


def only_layer(model: nn.Module) -> QuantizedLinear:
    (found,) = (m for m in model.modules() if isinstance(m, QuantizedLinear))
    return found


@pytest.mark.parametrize(
    ("recipe", "activation", "weight"),
    [
        ("fp8-ptq-e4m3", "e4m3fn.tensor", "e4m3fn.row"),
        ("fp8-ptq-e3m4", "e3m4fn.tensor", "e3m4fn.row"),
        ("fp8-ptq-mixed", "e4m3fn.tensor", "e3m4fn.row"),
        ("fp8-bert", "e4m3fn.tensor", "e4m3fn.tensor"),
        ("int8-tensor", "int8.tensor", "int8.tensor"),
    ],
)
def test_codes_and_scales_are_those_of_the_reference_codec(
    recipe: str, activation: str, weight: str
) -> None:
    linear = nn.Linear(24, 7)
    given = batches()
    made = quantize(linear, recipe, calibration=given)
    layer = only_layer(made.model)
    reference = numpy_quantize(linear.weight.detach().numpy(), TensorFormat.parse(weight))
    assert layer.codes is not None
    assert layer.codes.scales is not None
    np.testing.assert_array_equal(layer.codes.bits.numpy(), reference.codes.view(np.uint8))
    np.testing.assert_array_equal(layer.codes.scales.numpy(), reference.scales)
    # One scale for all batches: the largest magnitude over the element's largest number.
    amax = max(float(x.abs().max()) for (x,) in given)
    most = TensorFormat.parse(activation).element.max
    scale = float(np.float32(amax) / np.float32(most))
    assert float(layer.operator.operands["input"].scale) == scale  # type: ignore[arg-type]
    x = normal(4, 24, seed=9) * 9  # beyond what was calibrated, so that it saturates
    assert float(x.abs().max()) > amax
    rounded = rounded_by_numpy(x, activation, scale)
    expected = F.linear(rounded, layer.codes.dequantize(), linear.bias)
    with torch.no_grad():
        assert torch.equal(made.model(x), expected)


def test_e5m2_is_a_direct_cast_without_scales() -> None:
    linear, x = nn.Linear(24, 7), normal(4, 24)
    made = quantize(linear, "fp8-ptq-e5m2", calibration=[x * 100])
    layer = only_layer(made.model)
    assert layer.operator.operands["input"].scale is None
    expected = F.linear(
        rounded_by_numpy(x, "e5m2", 1.0),
        rounded_by_numpy(linear.weight.detach(), "e5m2", 1.0),
        linear.bias,
    )
    with torch.no_grad():
        assert torch.equal(made.model(x), expected)
    assert made.operators[0].scales["input"] == "direct"


def test_dynamic_scales_are_those_of_each_call() -> None:
    linear, x = nn.Linear(24, 7), normal(4, 24) * 50
    scheme = Scheme(name="dynamic", dynamic=True)
    made = quantize(linear, "fp8-ptq-e4m3", calibration=batches(), scheme=scheme)
    values = only_layer(made.model).values
    assert values is not None
    with torch.no_grad():
        assert torch.equal(
            made.model(x), F.linear(rounded_by_numpy(x, "e4m3fn"), values, linear.bias)
        )
    assert made.operators[0].scales["input"] == "dynamic"


@pytest.mark.parametrize("recipe", ["mxfp8-e4m3", "mxfp6-e3m2", "mxfp4", "mxint8", "nvfp4"])
def test_blocks_are_those_of_the_reference_codec(recipe: str) -> None:
    linear, x = nn.Linear(40, 7), normal(2, 3, 40)  # a ragged last block
    made = quantize(linear, recipe, calibration=[x])
    layer = only_layer(made.model)
    fmt = layer.operator.operands["input"].format
    from tiles.formats import dequantize

    rounded = dequantize(numpy_quantize(x.reshape(6, 40).numpy(), fmt)).astype(np.float32)
    weight = numpy_quantize(linear.weight.detach().numpy(), layer.weight_format)
    values = torch.from_numpy(dequantize(weight).astype(np.float32))
    expected = F.linear(torch.from_numpy(rounded), values, linear.bias).view(2, 3, 7)
    with torch.no_grad():
        assert_close(made.model(x), expected, rtol=1e-6, atol=1e-6)
    assert any("K of 40 is no multiple of" in note for note in made.operators[0].notes)


def test_percentile_follows_the_rank_of_the_sorted_magnitudes() -> None:
    observer = Observer(Calibration.parse("p99"))
    parts = [normal(300, seed=seed) for seed in range(3)]
    for part in parts:
        observer.add(part)
    magnitudes = np.sort(np.abs(torch.cat(parts).numpy()))
    rank = int(np.ceil(0.99 * len(magnitudes)))
    clip = float(observer.clip(TensorFormat.parse("e4m3fn.tensor")))
    assert magnitudes[rank - 1] <= clip <= magnitudes[rank - 1] * (1 + 2**-8)
    assert clip < magnitudes[-1]


def test_mse_calibration_is_nearly_the_least_error_of_all_clips() -> None:
    x = normal(4000)
    x[0] = 30.0  # an outlier that int8 gives all its range to
    fmt = TensorFormat.parse("int8.tensor")
    observer = Observer(Calibration(rule=Rule.MSE))
    observer.add(x)

    def error(clip: float) -> float:
        rounded = rounded_by_numpy(x, "int8", float(np.float32(clip) / np.float32(127)))
        return float((rounded.double() - x.double()).square().sum())

    clips = [30.0 * (1 - step / 64) for step in range(32)]
    found = float(observer.clip(fmt))
    assert error(found) <= min(map(error, clips)) * 1.01
    assert error(found) < error(30.0) * 0.99


def test_mse_weights_keep_the_rule_in_their_format() -> None:
    scheme = Scheme(name="mse", weight_rule=Rule.MSE)
    made = quantize(nn.Linear(24, 7), "int8-row", calibration=batches(), scheme=scheme)
    assert made.operators[0].formats["weight"] == "int8.row+mse"


def explicit_columns(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """(B, groups, pixels, K) of the implicit GEMM, pixel by pixel."""
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    kh, kw = conv.kernel_size
    padded = F.pad(x, (conv.padding[1],) * 2 + (conv.padding[0],) * 2)
    high = (padded.shape[2] - dy * (kh - 1) - 1) // sy + 1
    wide = (padded.shape[3] - dx * (kw - 1) - 1) // sx + 1
    pixels = [
        padded[
            :, :, i * sy : i * sy + dy * (kh - 1) + 1 : dy, j * sx : j * sx + dx * (kw - 1) + 1 : dx
        ]
        for i in range(high)
        for j in range(wide)
    ]
    stacked = torch.stack(pixels, dim=1)  # (B, pixels, C, kh, kw)
    groups = stacked.unflatten(2, (conv.groups, -1)).transpose(1, 2)
    return groups.flatten(3)


@pytest.mark.parametrize("recipe", ["mxfp8-e4m3", "int8-row", "fp8-ptq-e4m3"])
@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"stride": 2, "padding": (2, 1)}, {"groups": 2, "dilation": 2, "bias": False}],
    ids=["padded", "strided", "grouped"],
)
def test_convolutions_are_implicit_products(recipe: str, options: dict[str, object]) -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(6, 4, (3, 2), **options)  # type: ignore[arg-type]
    x = normal(2, 6, 7, 8)
    made = quantize(conv, recipe, calibration=[x], scheme=ALL)
    layer = made.model
    assert isinstance(layer, QuantizedConv)
    columns = explicit_columns(x, conv)
    fmt = layer.operator.operands["input"].format
    if fmt.scaling is not None and fmt.scaling.rows == 1:
        from tiles.formats import dequantize

        flat = columns.reshape(-1, columns.shape[-1])
        rounded = dequantize(numpy_quantize(flat.numpy(), fmt)).astype(np.float32)
        columns = torch.from_numpy(rounded).view(columns.shape)
    else:
        columns = rounded_by_numpy(columns, str(fmt), float(x.abs().max() / fmt.element.max))
    assert layer.values is not None
    weights = layer.values.reshape(conv.groups, 4 // conv.groups, -1)
    expected = (columns @ weights.transpose(1, 2)).transpose(2, 3).flatten(1, 2)
    with torch.no_grad():
        y = made.model(x)
        bias = 0 if conv.bias is None else conv.bias[:, None]
        assert_close(y.flatten(2), expected + bias, rtol=1e-5, atol=1e-5)
        assert y.shape == conv(x).shape


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("recipe", ["mxfp8-e4m3", "bf16"])
def test_one_axis_and_padding_modes_come_near_the_layer(recipe: str, mode: str) -> None:
    torch.manual_seed(3)
    conv = nn.Conv1d(8, 4, 3, padding=2, stride=2, padding_mode=mode)
    x = normal(2, 8, 9)
    made = quantize(conv, recipe, calibration=[x], scheme=ALL)
    with torch.no_grad():
        for given in (x, x[0]):
            y, exact = made.model(given), conv(given)
            assert y.shape == exact.shape
            assert float((y - exact).norm() / exact.norm()) < 0.06


def test_embeddings_come_out_of_a_table_of_codes() -> None:
    table = nn.Embedding(6, 32, padding_idx=0)
    bag = nn.EmbeddingBag(6, 32, mode="sum")
    bag.weight = table.weight
    ids = torch.tensor([[1, 2, 0], [5, 5, 3]])
    made = quantize(table, "fp8-ptq-e4m3", calibration=[ids])
    rows = [rounded_by_numpy(table.weight.detach()[i], "e4m3fn") for i in range(1, 6)]
    expected = torch.stack([torch.zeros(32), *rows])[ids]
    assert torch.equal(made.model(ids), expected)
    bags = quantize(bag, "fp8-ptq-e4m3", calibration=[ids]).model
    assert_close(bags(ids), expected.sum(dim=1))
    assert_close(bags(ids.flatten(), torch.tensor([0, 3])), expected.sum(dim=1))


def test_the_first_convolution_and_the_last_linear_layer_stay() -> None:
    model, x = Convolutional(), normal(2, 3, 8, 8)
    made = quantize(model, "fp8-ptq-e4m3", calibration=[x])
    kept = {k.name: k.reason for k in made.kept}
    assert "the first one" in kept["first"]
    assert "the last linear layer" in kept["head"]
    assert [o.name for o in made.operators] == ["second", "middle"]
    assert made.model.first.weight is not None
    assert type(made.model.first) is nn.Conv2d
    every = quantize(model, "fp8-ptq-e4m3", calibration=[x], scheme=ALL)
    assert [o.name for o in every.operators] == ["first", "second", "middle", "head"]
