"""Operands for the checks: random ones, and those that break careless kernels."""

from dataclasses import dataclass
from enum import Enum

import torch

from tiles.formats import FloatElement, IntElement, TensorFormat
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.quantize_torch import quantize_torch
from tiles.recipes import Recipe

__all__ = ["Matrix", "Pattern", "draw", "draw_pair", "has_infinity", "values"]


class Pattern(Enum):
    """What a matrix is filled with before it is quantised."""

    RANDOM = "random"  #: standard normal
    ZERO_BLOCK = "all-zero block"  #: the first block is zero, the rest standard normal
    OUTLIER = "outlier per block"  #: one element of every block is 10^4 times the others
    SUBNORMAL = "subnormal elements"  #: codes are subnormal; int8: only -127, 0 and 127
    NAN = "NaN block"  #: one scale is NaN; without scales, one element
    INF = "infinity"  #: one element of the last column is infinite, where the format has that


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A quantised matrix: value = code x scale."""

    codes: torch.Tensor  #: (rows, cols)
    scales: torch.Tensor | None
    values: torch.Tensor  #: (rows, cols) float64
    nan_rows: torch.Tensor  #: (rows,) bool: rows with a NaN among their values


def has_infinity(fmt: TensorFormat) -> bool:
    """Whether some code of the format stands for infinity."""
    return isinstance(fmt.element, FloatElement) and fmt.element.inf_code is not None


def values(codes: torch.Tensor, scales: torch.Tensor | None, fmt: TensorFormat) -> torch.Tensor:
    """The float64 values that codes and scales stand for."""
    plain = codes.to(torch.float32).to(torch.float64)
    if scales is None or fmt.scaling is None:
        return plain
    rows, cols = codes.shape
    wide = scales.to(torch.float64).repeat_interleave(fmt.scaling.rows or rows, 0)[:rows]
    return plain * wide.repeat_interleave(fmt.scaling.cols or cols, 1)[:, :cols]


def _block(fmt: TensorFormat, rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns of a block that fits; 1 x 32 stands in where there are no scales."""
    if fmt.scaling is None:
        return 1, min(32, cols)
    return min(fmt.scaling.rows or rows, rows), min(fmt.scaling.cols or cols, cols)


def _subnormal_codes(
    rows: int, cols: int, fmt: TensorFormat, generator: torch.Generator, device: str
) -> torch.Tensor:
    def integers(count: int) -> torch.Tensor:
        return torch.randint(0, count, (rows, cols), generator=generator, device=device)

    if isinstance(fmt.element, IntElement):
        return ((integers(3) - 1) * int(fmt.element.max)).to(torch.int8)
    assert isinstance(fmt.element, FloatElement)
    mantissa = integers(1 << fmt.element.mantissa_bits)
    bits = mantissa | (integers(2) << (fmt.element.bits - 1))
    if fmt.element.bits == 16:
        # int16 holds the sign bit as its own.
        signed = torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
        return signed.view(CODE_DTYPES[fmt.element.name])
    return bits.to(torch.uint8).view(CODE_DTYPES[fmt.element.name])


def draw(
    rows: int,
    cols: int,
    fmt: TensorFormat,
    pattern: Pattern,
    generator: torch.Generator,
    device: str,
) -> Matrix:
    """A quantised matrix of the given pattern.

    Scales lie in memory as the format's convention has it (1xB blocks: rows contiguous).
    """
    bad = torch.zeros(rows, dtype=torch.bool, device=device)
    if pattern is Pattern.SUBNORMAL:
        codes = _subnormal_codes(rows, cols, fmt, generator, device)
        scales = None
        if fmt.scaling is not None:
            scales = empty_scales(rows, cols, fmt.scaling, device)
            scales += 0.5 + torch.rand(scales.shape, generator=generator, device=device)
        return Matrix(codes=codes, scales=scales, values=values(codes, scales, fmt), nan_rows=bad)
    x = torch.randn(rows, cols, generator=generator, device=device)
    block_rows, block_cols = _block(fmt, rows, cols)
    if pattern is Pattern.ZERO_BLOCK:
        x[:block_rows, :block_cols] = 0
    if pattern is Pattern.OUTLIER:
        x[::block_rows, ::block_cols] *= 1e4
    codes, scales = quantize_torch(x, fmt)
    if pattern is Pattern.NAN:
        bad[:block_rows] = True
        if scales is None:
            codes[0, -1] = torch.nan
        else:
            scales[0, -1] = torch.nan
    if pattern is Pattern.INF and has_infinity(fmt):
        codes[rows // 2, -1] = torch.inf
    return Matrix(codes=codes, scales=scales, values=values(codes, scales, fmt), nan_rows=bad)


def draw_pair(
    shape: tuple[int, int, int], recipe: Recipe, pattern: Pattern, seed: int, device: str
) -> tuple[Matrix, Matrix]:
    """A (M, K) and B (N, K) of a product.

    The same seed, shape (M, N, K) and device quantise the same matrices for every recipe, so that
    kernels of different formats are timed on the same data.
    """
    m, n, k = shape
    generator = torch.Generator(device).manual_seed(seed)
    a = draw(m, k, recipe.activation, pattern, generator, device)
    return a, draw(n, k, recipe.weight, pattern, generator, device)
