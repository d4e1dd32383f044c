"""The CUDA backend without a GPU: layers of every recipe, codes of every kind."""

import pytest
import torch
from cuda_stand_ins import CPU, TWIN, Launches, cuda, launches
from nn_cases import coded, normal

from tiles.formats import TensorFormat
from workbench.nn import RECIPES, Codes, convert

__all__ = ["launches"]

EMULATED = ("mxfp6-e3m2", "mxfp6-e2m3", "mxfp4", "mxfp4-w-mxfp6-a", "int4-tensor")
PRODUCTS = [name for name in RECIPES if name[:3] != "jet" and name != "int8-fallback"]


@pytest.mark.parametrize("recipe", PRODUCTS)
def test_products_of_the_other_recipes(recipe: str, launches: Launches) -> None:
    grads = []
    for backend in (TWIN, cuda()):
        torch.manual_seed(0)
        layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
        x = normal(48, 256, dtype=torch.bfloat16).requires_grad_()
        y = layer(x)
        y.backward(normal(48, 64, seed=1, dtype=torch.bfloat16))
        grads.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for expected, found in zip(*grads, strict=True):
        if recipe == "int4-tensor":  # emulated, and codes under an fp32 scale are rounded to bf16
            assert float((found - expected).norm() / expected.norm()) < 2**-8
        else:
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-3)
    multiplied = [s for s in launches.seen if "gemm" in s or "hopper" in s]
    emulated = recipe in EMULATED
    assert bool(multiplied) == (recipe[:4] != "bf16" and not emulated)
    unserved = layer.runtime.backend(CPU).unserved
    assert any(what.startswith("gemm") for what in unserved) == emulated
    assert not any("transposed" in what for what in unserved)


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e5m2.mx+rceil", "mxint8.mx+sr"])
def test_codes_under_e8m0_scales_come_from_the_kernel(fmt: str, launches: Launches) -> None:
    """A row of zeros, one of the least numbers, one with a NaN: scales of 2^-127 and NaN."""
    backend, out = cuda(), TensorFormat.parse(fmt)
    x = normal(48, 96)
    x[0], x[1], x[2, 5] = 0.0, 1e-38, float("nan")
    found, expected = (b.quantize(x, out, seed=7).main for b in (backend, TWIN))
    assert torch.equal(found.bits, expected.bits)
    assert found.scales is not None
    assert expected.scales is not None
    torch.testing.assert_close(found.scales, expected.scales, rtol=0, atol=0, equal_nan=True)
    assert found.scales.stride() == expected.scales.stride()
    values = backend.dequantize(Codes(main=found), torch.float32)
    torch.testing.assert_close(values, expected.dequantize(), rtol=0, atol=0, equal_nan=True)
    assert launches.seen == ["quantize", "dequantize"]
    assert backend.unserved == {}


@pytest.mark.parametrize("recipe", ["deepseek-fp8", "mxfp8-e4m3"])
def test_both_directions_of_blocks_along_a_row_take_one_pass(
    recipe: str, launches: Launches
) -> None:
    backend = cuda()
    layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
    layer(normal(48, 256).requires_grad_()).backward(normal(48, 64, seed=1))
    # Input, gradient, and weights under MX; DeepSeek's weights have square blocks.
    square = recipe == "deepseek-fp8"
    assert launches.seen.count("quantize both") == (2 if square else 3)
    assert launches.seen.count("quantize") == (1 if square else 0)
    assert backend.unserved == {}


def test_vectors_are_fp32_whatever_the_default_dtype(launches: Launches) -> None:
    x, gamma = coded(64, 96).codes, torch.ones(96)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = cuda().normalize("rmsnorm", x, gamma, None, epsilon=1e-5, out=x.format)
    finally:
        torch.set_default_dtype(before)
    assert found.variance.dtype is torch.float32
