"""SmoothQuant, GPTQ, LLM.int8(), recalibrated batch statistics: slow twins, and what they gain."""

from dataclasses import replace

import pytest
import torch
from ptq_cases import Convolutional, assert_close, normal
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.formats.torch_encode import decode, encode
from tiles.kernels.outlier_packing import pack_columns
from tiles.recipes import OutlierColumns
from workbench.ptq import EXTENDED, STANDARD, Scheme, quantize
from workbench.ptq.gptq import DAMPING, Hessian, gptq
from workbench.ptq.linear import QuantizedLinear


def error(y: torch.Tensor, exact: torch.Tensor) -> float:
    return float((y - exact).norm() / exact.norm())


def correlated(rows: int, features: int, seed: int = 0) -> torch.Tensor:
    """Inputs that lie near a few directions, as activations do."""
    basis = normal(6, features, seed=seed + 100)
    return normal(rows, 6, seed=seed) @ basis + 0.1 * normal(rows, features, seed=seed + 1)


def with_outliers(rows: int, features: int, seed: int = 0) -> torch.Tensor:
    x = normal(rows, features, seed=seed)
    x[:, [3, 17]] *= 60
    return x


# SmoothQuant


def test_smoothing_factors_follow_the_formula_and_leave_the_product_alone() -> None:
    linear, x = nn.Linear(24, 8), with_outliers(50, 24)
    with torch.no_grad():
        linear.weight[:, 5] = 0.0  # a feature without weights is left alone
    scheme = replace(STANDARD, name="smooth", smooth=0.75)
    made = quantize(linear, "int8-tensor", calibration=[x[:20], x[20:]], scheme=scheme)
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    assert layer.smoothing is not None
    for j in range(24):
        a, w = (float(t[:, j].detach().abs().max()) for t in (x, linear.weight))
        expected = a**0.75 / w**0.25 if w else 1.0
        assert float(layer.smoothing[j]) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        smoothed = F.linear(x / layer.smoothing, linear.weight * layer.smoothing, linear.bias)
        assert_close(smoothed, linear(x), rtol=1e-4, atol=1e-4)
    # The static scale is that of the smoothed input, the codes those of the smoothed weight.
    amax = (x / layer.smoothing).abs().max()
    scale = layer.operator.operands["input"].scale
    assert scale is not None
    assert_close(scale, amax / 127)
    expected_codes = quantize_tensor(linear.weight.detach() * layer.smoothing, layer.weight_format)
    assert layer.codes is not None
    assert torch.equal(layer.codes.codes, expected_codes.codes)


def test_smoothing_helps_where_few_features_are_large() -> None:
    linear, x = nn.Linear(64, 32), with_outliers(100, 64)
    fresh = with_outliers(100, 64, seed=5)
    with torch.no_grad():
        exact = linear(fresh)
        plain = quantize(linear, "int8-tensor", calibration=[x]).model(fresh)
        scheme = replace(STANDARD, smooth=0.5)
        smooth = quantize(linear, "int8-tensor", calibration=[x], scheme=scheme).model(fresh)
    assert error(smooth, exact) < 0.5 * error(plain, exact)


# GPTQ


def slow_gptq(
    weight: torch.Tensor, x: torch.Tensor, fmt: TensorFormat, *, act_order: bool
) -> torch.Tensor:
    """Optimal brain quantisation in a fixed order: the inverse Hessian is shrunk column by column.

    Values, not codes; no blocks, no Cholesky factors.
    """
    cols = weight.shape[1]
    hessian = 2 * x.double().T @ x.double() / len(x)
    for j in range(cols):
        if hessian[j, j] == 0:
            hessian[j, j] = 1.0
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(cols, dtype=torch.float64)
    order = list(range(cols))
    if act_order:
        order.sort(key=lambda j: -float(hessian[j, j]))
    inverse = torch.linalg.inv(hessian)
    left, result = weight.double().clone(), torch.zeros_like(weight)
    assert fmt.scaling is not None
    width = fmt.scaling.cols or cols
    grid = quantize_tensor(weight, fmt).scales
    assert grid is not None
    grid = grid.clone()
    for j in order:
        if not act_order and fmt.scaling.cols and j % width == 0:
            group = left[:, j : j + width].float()
            one = replace(fmt, scaling=replace(fmt.scaling, cols=group.shape[1]))
            found = quantize_tensor(group, one).scales
            assert found is not None
            grid[:, j // width] = found[:, 0]
        scale = grid[:, j // width]
        rounded = decode(encode(left[:, j].float() / scale, fmt.element), fmt.element) * scale
        result[:, j] = rounded
        step = (left[:, j] - rounded.double()) / inverse[j, j]
        left -= step[:, None] * inverse[j]
        inverse = inverse - inverse[:, j, None] * inverse[j] / inverse[j, j]
    return result


@pytest.mark.parametrize(
    ("fmt", "cols"),
    [("int4.g16", 48), ("int4.g48", 150), ("int8.row", 40), ("e2m1fn.mx", 64)],
)
@pytest.mark.parametrize("act_order", [False, True], ids=["in order", "by energy"])
def test_gptq_is_its_slow_twin(fmt: str, cols: int, act_order: bool) -> None:
    weight, x = normal(5, cols), correlated(200, cols)
    x[:, 7] = 0.0  # an input that is never used
    hessian = Hessian(cols, torch.device("cpu"))
    hessian.add(x[:120])
    hessian.add(x[120:])
    parsed = TensorFormat.parse(fmt)
    codes = gptq(weight, hessian, parsed, act_order=act_order)
    slow = slow_gptq(weight, x, parsed, act_order=act_order)
    # Another order of summation may turn a tie, and with it the few columns that make up for it.
    assert float((codes.dequantize() != slow).float().mean()) < 0.02


@pytest.mark.parametrize("act_order", [False, True], ids=["in order", "by energy"])
def test_gptq_beats_rounding_to_nearest_on_correlated_inputs(act_order: bool) -> None:
    linear = nn.Linear(256, 32)
    x, fresh = correlated(512, 256), correlated(64, 256, seed=0)
    scheme = replace(STANDARD, gptq=True, act_order=act_order)
    with torch.no_grad():
        exact = linear(fresh.bfloat16().float())
        nearest = quantize(linear, "w4a16-g128").model(fresh)
        better = quantize(linear, "w4a16-g128", calibration=[x], scheme=scheme).model(fresh)
    assert error(better, exact) < 0.5 * error(nearest, exact)


@pytest.mark.parametrize("recipe", ["int8-tensor", "nvfp4", "fp8-ptq-e5m2", "deepseek-fp8"])
def test_gptq_refuses_formats_that_it_does_not_round(recipe: str) -> None:
    scheme = replace(STANDARD, gptq=True)
    with pytest.raises(ValueError, match="GPTQ takes weights with scales of rows or of groups"):
        quantize(nn.Linear(32, 8), recipe, calibration=[normal(4, 32)], scheme=scheme)


# LLM.int8()


def test_outlier_columns_are_apart_as_the_kernels_pack_them() -> None:
    linear, x = nn.Linear(32, 8), with_outliers(10, 32)
    made = quantize(linear, "llm-int8", calibration=[x])
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    assert layer.apart is not None
    assert layer.apart.columns is not None
    assert layer.apart.columns.tolist() == [3, 17]
    fmt = layer.operator.operands["input"].format
    packed = pack_columns(x, linear.weight.detach(), fmt, OutlierColumns(), 64)
    low = (packed.codes.double() * packed.scales.double()) @ layer.codes.dequantize().double().T  # type: ignore[union-attr]
    high = packed.outliers.a.double() @ packed.outliers.b.double().T  # type: ignore[union-attr]
    expected = low + high + linear.bias.double()
    with torch.no_grad():
        y = made.model(x)
        assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        exact = linear(x)
        rows = quantize(linear, "int8-row", calibration=[x]).model(x)
    assert error(y, exact) < 0.3 * error(rows, exact)


def test_no_rows_have_no_outliers() -> None:
    """An expert may get none."""
    done = quantize(nn.Linear(64, 32).eval(), "llm-int8", calibration=[torch.ones(4, 64)])
    assert done.model(torch.ones(0, 64)).shape == (0, 32)


def test_a_column_that_calibration_did_not_see_takes_weights_from_its_codes() -> None:
    linear, calm = nn.Linear(32, 8), normal(10, 32) * 0.5
    made = quantize(linear, "llm-int8", calibration=[calm])
    x = calm.clone()
    x[:, 4] = 100.0
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    values = layer.values
    assert values is not None
    quiet = x.clone()
    quiet[:, 4] = 0.0
    with torch.no_grad():
        expected = made.model(quiet) + 100.0 * values[:, 4]
        assert_close(made.model(x), expected)


# Batch normalisation


def test_batch_statistics_are_those_of_the_quantised_model() -> None:
    model = Convolutional()
    batches = [(normal(4, 3, 8, 8, seed=s),) for s in range(3)]
    # Weights of one large value: four bits leave little of the rest, so statistics must move.
    with torch.no_grad():
        model.first.weight[:, 0, 0, 0] = 3.0
    scheme = replace(EXTENDED, keep_first_last=False)
    made = quantize(model, "mxfp4", calibration=batches, scheme=scheme)
    seen: list[torch.Tensor] = []
    norm = made.model.norm
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for (x,) in batches:
            made.model(x)
    operand = made.session.operators["norm"].operands["input"]
    rounded = [operand.rounded(x) for x in seen]
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in rounded]).mean(dim=0)
    variances = torch.stack([x.var(dim=(0, 2, 3)) for x in rounded]).mean(dim=0)
    assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    assert not norm.training
    assert norm.momentum == 0.1
    assert not torch.allclose(norm.running_mean, model.norm.running_mean)


def test_the_standard_scheme_leaves_batch_statistics_alone() -> None:
    model = Convolutional()
    made = quantize(model, "mxfp4", calibration=[normal(4, 3, 8, 8)])
    assert torch.equal(made.model.norm.running_mean, model.norm.running_mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 1.5}, "alpha lies from 0 to 1"),
        ({"act_order": True}, "act_order is an option of GPTQ"),
    ],
)
def test_schemes_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(name="bad", **options)  # type: ignore[arg-type]
