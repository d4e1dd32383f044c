"""What the tests of the training layers share."""

import math

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from workbench.nn import CodedTensor, Codes, Runtime, training_runtime

__all__ = [
    "ULP",
    "PlainSgd",
    "assert_rounded",
    "coded",
    "normal",
    "numbers",
    "runtime",
    "spread_scales",
]

ULP = 2.0**-23


def runtime(recipe: str = "jetfire", **options: object) -> Runtime:
    return training_runtime(recipe, **options)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def coded(
    *shape: int, seed: int = 0, fmt: str = "int8.b32x32", dtype: torch.dtype = torch.bfloat16
) -> CodedTensor:
    """Random normal values in codes."""
    x = normal(*shape, seed=seed)
    main = quantize_tensor(x.view(-1, shape[-1]), TensorFormat.parse(fmt))
    return CodedTensor(Codes(main=main), shape, dtype)


def spread_scales(codes: Codes) -> torch.Tensor:
    """(rows, cols) float64: the step of every element of INT8 codes."""
    scaling = codes.format.scaling
    assert scaling is not None
    assert codes.main.scales is not None
    rows, cols = codes.shape
    high, wide = scaling.rows or rows, scaling.cols or cols
    scales = codes.main.scales.double()
    return scales.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :cols]


def assert_rounded(
    found: torch.Tensor, exact: torch.Tensor, steps: float, relative: float = 0.0
) -> None:
    """Codes lie within so many steps of exact values, and so is their SQNR bounded.

    Args:
        relative: what a rounding before may have changed.
    """
    assert isinstance(found, CodedTensor)
    values = found.codes.dequantize(torch.float64)
    exact = exact.detach().reshape(values.shape)
    step = spread_scales(found.codes)
    bound = steps * step * (1 + 4 * ULP) + (4 * ULP + relative) * exact.abs()
    worst = ((values - exact).abs() / bound).max()
    assert worst <= 1, f"{float(worst)} of the bound"
    sqnr = 10 * math.log10(float(exact.pow(2).sum() / (values - exact).pow(2).sum()))
    assert sqnr >= 10 * math.log10(float(exact.pow(2).sum() / bound.pow(2).sum()))


def numbers(x: torch.Tensor) -> torch.Tensor:
    """What codes stand for, in fp32."""
    assert isinstance(x, CodedTensor)
    return x.codes.dequantize(torch.float32).view(x.shape)


class PlainSgd:
    """Steps parameters in place; torch's own optimisers load its compiler first, for seconds."""

    def __init__(self, model: torch.nn.Module, rate: float = 0.1) -> None:
        self.model, self.rate, self.steps = model, rate, 0

    def zero_grad(self) -> None:
        for p in self.model.parameters():
            p.grad = None

    def step(self) -> None:
        self.steps += 1
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p.sub_(self.rate * p.grad)
