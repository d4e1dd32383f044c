"""Layers against float64 autograd on what their codes stand for, within bounds of the rounding.

Rounding to nearest moves a number by half a step at most, stochastic rounding by less than one; a
step is the scale of the block.  Beside it stand an fp32 rounding of each value (2^-24), and where a
plain gradient enters, the step of its own quantisation carried through the operator.
"""

import math
from collections.abc import Callable

import pytest
import torch
from nn_cases import ULP, assert_rounded, coded, normal, numbers, runtime, spread_scales
from torch.nn import functional

from workbench.nn import (
    CodedTensor,
    QuantizedLinear,
    ReferenceBackend,
    activation,
    attention,
    convert,
    dropout,
    gated,
    normalized,
    residual_add,
)

RECIPES = ["jetfire", "jetfire-64", "jetfire-128"]
FMT = {"jetfire": "int8.b32x32", "jetfire-64": "int8.b64x64", "jetfire-128": "int8.b128x128"}


def wide(x: CodedTensor) -> torch.Tensor:
    """What a tensor's codes stand for, exactly, as a leaf of float64 autograd."""
    return x.codes.dequantize(torch.float64).view(x.shape).detach().requires_grad_()


def backward(y: torch.Tensor, fmt: str, seed: int) -> torch.Tensor:
    """Send a coded gradient through a graph; what it stands for."""
    dy = coded(*y.shape, seed=seed, fmt=fmt, dtype=y.dtype)
    y.backward(dy)
    return dy.codes.dequantize(torch.float64).view(y.shape)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("op", "exact"),
    [("gelu", functional.gelu), ("silu", functional.silu), ("relu", functional.relu)],
)
def test_activation(op: str, exact: Callable[..., torch.Tensor], recipe: str) -> None:
    x = coded(2, 48, 160, seed=1, fmt=FMT[recipe]).requires_grad_()
    leaf = wide(x)
    y, reference = activation(x, op, runtime(recipe)), exact(leaf)
    assert_rounded(y, reference, 0.5)
    reference.backward(backward(y, FMT[recipe], 2))
    assert x.grad is not None
    assert leaf.grad is not None
    assert_rounded(x.grad, leaf.grad, 1.0)


@pytest.mark.parametrize(("op", "exact"), [("silu", functional.silu), ("gelu", functional.gelu)])
def test_gate(op: str, exact: Callable[..., torch.Tensor]) -> None:
    gate, up = (coded(64, 96, seed=s).requires_grad_() for s in (3, 4))
    leaves = wide(gate), wide(up)
    y, reference = gated(gate, up, op, runtime()), exact(leaves[0]) * leaves[1]
    assert_rounded(y, reference, 0.5)
    reference.backward(backward(y, "int8.b32x32", 5))
    for x, leaf in zip((gate, up), leaves, strict=True):
        assert x.grad is not None
        assert leaf.grad is not None
        assert_rounded(x.grad, leaf.grad, 1.0)


@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_norm_of_codes(recipe: str, op: str) -> None:
    """Rows of more than one tile's width: the released code sums each tile by itself."""
    x = coded(40, 320, seed=6, fmt=FMT[recipe]).requires_grad_()
    gamma, beta = (normal(320, seed=s).requires_grad_() for s in (7, 8))
    leaf = wide(x)
    leaves = gamma.detach().double().requires_grad_(), beta.detach().double().requires_grad_()
    shift = beta if op == "layernorm" else None
    y = normalized(x, gamma, shift, op, 1e-5, runtime(recipe))
    if op == "layernorm":
        reference = functional.layer_norm(leaf, (320,), leaves[0], leaves[1], 1e-5)
    else:
        reference = functional.rms_norm(leaf, (320,), leaves[0], 1e-5)
    assert_rounded(y, reference, 0.5)
    reference.backward(backward(y, FMT[recipe], 9))
    assert x.grad is not None
    assert leaf.grad is not None
    # Statistics travel in fp32: two units of them, of values of a few standard deviations.
    assert_rounded(x.grad, leaf.grad, 1.0 + 1e-3)
    for vector, exact in zip((gamma, shift), leaves, strict=True):
        if vector is not None:
            torch.testing.assert_close(vector.grad, exact.grad.float(), rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


def test_dropout_drops_the_same_elements_both_ways() -> None:
    x = coded(64, 96, seed=10).requires_grad_()
    y = dropout(x, 0.25, runtime())
    assert isinstance(y, CodedTensor)
    values, before = y.codes.dequantize(torch.float64), x.codes.dequantize(torch.float64)
    dy = backward(y, "int8.b32x32", 11)
    assert isinstance(x.grad, CodedTensor)
    back = x.grad.codes.dequantize(torch.float64)
    gone = (values == 0) & (before.abs() > spread_scales(y.codes))
    assert 0.2 < gone.double().mean() < 0.3
    assert (back[gone] == 0).all()
    kept = ~gone & (before.abs() > spread_scales(y.codes))
    assert_close_to_steps(values[kept], before[kept] / 0.75, spread_scales(y.codes)[kept] / 2)
    assert_close_to_steps(back[kept], dy[kept] / 0.75, spread_scales(x.grad.codes)[kept])


def assert_close_to_steps(values: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor) -> None:
    assert ((values - exact).abs() <= bound * (1 + 1e-6) + 1e-6 * exact.abs()).all()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_linear_in_codes(recipe: str, bias: bool, fused: bool) -> None:
    """Of fp32 products, or of products rounded to the tensor's bf16 before."""
    run, before = runtime(recipe, fused=fused), 0.0 if fused else 2**-8
    layer = QuantizedLinear.of(torch.nn.Linear(96, 80, bias=bias), run)
    x = coded(3, 40, 96, seed=12, fmt=FMT[recipe]).requires_grad_()
    leaf = wide(x)
    weight = layer.weight_codes().forward.dequantize(torch.float64).requires_grad_()
    shift = None if layer.bias is None else layer.bias.detach().double().requires_grad_()
    y, reference = layer(x), functional.linear(leaf, weight, shift)
    assert_rounded(y, reference, 0.5, before)
    reference.backward(backward(y, FMT[recipe], 13))
    assert x.grad is not None
    assert leaf.grad is not None
    assert weight.grad is not None
    assert_rounded(x.grad, leaf.grad, 1.0, before)
    # Weight gradients are high precision: an fp32 rounding of the product of the codes.
    torch.testing.assert_close(layer.weight.grad, weight.grad.float(), rtol=2 * ULP, atol=1e-9)
    if shift is not None:
        assert layer.bias is not None
        torch.testing.assert_close(layer.bias.grad, shift.grad.float(), rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("recipe", "step_x", "step_w", "step_g"),
    [
        # Relative half steps of the elements: 2^-4 of E4M3, 2^-3 of E5M2, 2^-9 of bf16.
        ("bf16", 2**-9, 2**-9, 2**-9),
        ("e4m3-tensor", 2**-4, 2**-4, 2**-3),
        ("deepseek-fp8", 2**-4, 2**-4, 2**-4),
        ("mxfp8-e4m3", 2**-3, 2**-3, 2**-3),  # the floor rule loses up to an eighth at the top
    ],
)
def test_linear_level_recipes(recipe: str, step_x: float, step_w: float, step_g: float) -> None:
    """Errors of a product's operands add up: so do relative errors in the product of magnitudes."""
    layer = QuantizedLinear.of(torch.nn.Linear(96, 80), runtime(recipe))
    x, dy = normal(64, 96, seed=14).requires_grad_(), normal(64, 80, seed=15)
    leaf = x.detach().double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    assert layer.bias is not None
    y = layer(x)
    reference = functional.linear(leaf, weight, layer.bias.detach().double())
    assert type(y) is torch.Tensor
    assert y.dtype is torch.float32
    y.backward(dy)
    reference.backward(dy.double())
    magnitudes = [t.detach().double().abs() for t in (x, weight, dy)]
    # What lies far below a block's largest magnitude is rounded in absolute steps.
    floors = [2.0**-10 * float(t.max()) for t in magnitudes]
    size_x, size_w, size_g = (t + f for t, f in zip(magnitudes, floors, strict=True))

    def bound(step: float, other: float, product: torch.Tensor) -> torch.Tensor:
        return (step + other + step * other) * product * (1 + 1e-6)

    for found, exact, limit in (
        (y, reference, bound(step_x, step_w, size_x @ size_w.t())),
        (x.grad, leaf.grad, bound(step_g, step_w, size_g @ size_w)),
        (layer.weight.grad, weight.grad, bound(step_g, step_x, size_g.t() @ size_x)),
    ):
        assert found is not None
        assert exact is not None
        error = (found.detach().double() - exact.detach()).abs()
        assert float((error / limit).max()) <= 1
        assert float(error.max()) > 0


@pytest.mark.parametrize("causal", [True, False])
def test_attention_core(causal: bool) -> None:
    """Codes in and out; the 16-bit core and the coded output cost a few parts in a hundred."""
    qkv = coded(2, 32, 96, seed=16).requires_grad_()
    leaf = wide(qkv)
    y = attention(qkv, 2, runtime(), causal=causal)
    q, k, v = (t.view(2, 32, 2, 16).transpose(1, 2) for t in leaf.chunk(3, dim=-1))
    reference = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    reference = reference.transpose(1, 2).flatten(2)
    assert isinstance(y, CodedTensor)
    step = spread_scales(y.codes)
    error = (y.codes.dequantize(torch.float64) - reference.detach().view(64, 32)).abs()
    # Half a step of the codes, half a unit of bf16 of the value, and q, k, v in bf16 (2^-9 each).
    assert (error <= 0.5 * step + 2**-9 * step * 127 + 3 * 2**-9 * 4).all()
    reference.backward(backward(y, "int8.b32x32", 17).view(reference.shape))
    assert isinstance(qkv.grad, CodedTensor)
    found = qkv.grad.codes.dequantize(torch.float64).view(leaf.shape)
    assert leaf.grad is not None
    relative = float((found - leaf.grad).norm() / leaf.grad.norm())
    assert 0 < relative < 0.03


def test_residual_add() -> None:
    stream = normal(2, 32, 96, seed=18, dtype=torch.bfloat16).requires_grad_()
    branch = coded(2, 32, 96, seed=19).requires_grad_()
    total, copy = residual_add(stream, branch, runtime())
    assert type(total) is torch.Tensor
    assert total.dtype is torch.bfloat16
    once = (stream.detach().float() + numbers(branch)).bfloat16()
    torch.testing.assert_close(total, once, rtol=0, atol=0)
    assert_rounded(copy, total.detach().double(), 0.5)
    d_total, d_copy = normal(2, 32, 96, seed=20, dtype=torch.bfloat16), coded(2, 32, 96, seed=21)
    torch.autograd.backward([total, copy], [d_total, d_copy])
    grad = (d_total.float() + numbers(d_copy)).bfloat16()
    torch.testing.assert_close(stream.grad, grad, rtol=0, atol=0)
    assert branch.grad is not None
    assert_rounded(branch.grad, grad.double(), 1.0)


def test_stochastic_rounding_is_unbiased_where_nearest_is_not() -> None:
    """256 seeds: the mean of the codes lies within 5 standard errors, half a step at most each."""
    grad = torch.full((32, 32), 0.3)
    grad[0, 0] = 127.0  # so a step is 1
    run, twin = runtime(), ReferenceBackend()
    means = torch.stack(
        [twin.quantize(grad, run.recipe.gradient, seed=s).dequantize() for s in range(256)]
    ).mean(dim=0)
    error = float((means[1:] - 0.3).abs().mean())
    assert error < 5 * 0.5 / 16
    overall = float((means[1:] - 0.3).mean().abs())
    assert overall < 5 * 0.5 / math.sqrt(256 * 31 * 32)
    assert float(twin.quantize(grad, run.recipe.activation).dequantize()[1:].abs().max()) == 0


@pytest.mark.parametrize("recipe", ["jetfire", "deepseek-fp8"])
def test_gradients_of_gradients_are_refused(recipe: str) -> None:
    """They would be left out of a loss without a word."""
    layer = convert(torch.nn.Linear(128, 128), recipe).model
    x = normal(32, 128).requires_grad_()
    with pytest.raises(RuntimeError, match="create_graph=True: gradients through codes have no"):
        torch.autograd.grad(layer(x).float().sum(), x, create_graph=True)
