"""The noise that bounds patched layers is the noise that rounding makes; needs no GPU."""

import pytest
import torch
from rounding_noise import product_noise, rounding_noise

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import recipe


def _drawn(rows: int, cols: int, seed: int, tail: float = 1.0) -> torch.Tensor:
    """Normal numbers, or what a gated activation makes of them: a few are many times the others."""
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    return x.sign() * x.abs() ** tail


@pytest.mark.parametrize("tail", [1.0, 2.0])
@pytest.mark.parametrize("text", ["int8.row", "e4m3fn.b1x128", "e4m3fn.b128x128", "int4.g128"])
def test_noise_is_that_of_the_codec(text: str, tail: float) -> None:
    x, fmt = _drawn(70, 1000, 0, tail), TensorFormat.parse(text)
    error = quantize_tensor(x, fmt).dequantize(torch.float64) - x.double()
    found = float(error.norm() / x.double().norm())
    expected = rounding_noise(x, fmt)
    # Many numbers below half a step err by themselves, which is less.
    assert 0.75 * expected < found < 1.03 * expected


@pytest.mark.parametrize("name", ["deepseek-fp8", "int8-row"])
def test_noise_of_products_with_outliers_is_more_than_that_of_normal_numbers(name: str) -> None:
    one, b = recipe(name), _drawn(192, 2048, 1)
    found = []
    for tail in (1.0, 2.0):
        a = _drawn(64, 2048, 2, tail)
        coded, weight = (
            quantize_tensor(x, fmt).dequantize(torch.float64)
            for x, fmt in ((a, one.activation), (b, one.weight))
        )
        exact = a.double() @ b.double().T
        off = float((coded @ weight.T - exact).norm() / exact.norm())
        expected = product_noise(a, b, one)
        assert 0.8 * expected < off < 1.05 * expected
        found.append(expected)
    if name == "int8-row":
        assert found[1] > 1.2 * found[0]
    assert product_noise(a, b, recipe("bf16")) == 0
