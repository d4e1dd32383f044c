"""Formats and inputs that the torch codec is compared with the NumPy reference on."""

import numpy as np
import torch
from numpy.typing import NDArray

from tiles.formats import ELEMENTS, Quantized, Rounding, TensorFormat, can_overflow, element
from tiles.formats.torch_codec import QuantizedTensor
from tiles.recipes import RECIPES

F32 = NDArray[np.float32]

#: Parametric elements: unsigned, 12 and 16 bits, values among fp32's subnormals, one exponent bit.
PARAMETRIC = (
    "ffp8_e3m4b5",
    "ffp8_ue4m4",
    "ffp8_e1m6",
    "e2m5fn",
    "e4m3b9fnuz",
    "e6m5",
    "e5m10fn",
    "e3m8fnuz",
    "e4m3b140fn",
    "e8m1b129fn",
    "int2",
    "int6",
    "uint3",
    "int16",
    "uint16",
    "posit6es1",
    "posit16es2",
)
ROUNDINGS = tuple("" if r is Rounding.NEAREST_EVEN else f"+{r.value}" for r in Rounding)
#: Every element, named and parametric, under every rounding, without scales.
UNSCALED = tuple(f"{name}{r}" for name in (*ELEMENTS, *PARAMETRIC) for r in ROUNDINGS)
#: Those that overflow to an infinity or NaN, under every rounding.
OVERFLOWING = tuple(
    f"{name}{r}+nosat"
    for name in (*ELEMENTS, *PARAMETRIC)
    for r in ROUNDINGS
    if can_overflow(element(name))
)
#: Every scaling, scale format and rule, with elements of every kind.
SCALED = (
    "e4m3fn.tensor",
    "int8.row",
    "e5m2.col",
    "fp16.row",
    "e4m3fn.b1x128",
    "int8.b32x32+sr",
    "e3m4fn.b3x5+away",
    "e4m3fn.mx",
    "e5m2.mx+ceil",
    "mxint8.mx+rceil",
    "e3m2fn.mx+even",
    "e2m3fn.mx+rceil+sr",
    "e2m1fn.mx+even",
    "fp32.mx+even",
    "e4m3fn.mx+nosat",
    "e5m2.mx+even+sr+nosat",
    "e3m4.row+fp16+nosat",
    "e4m3fn.b1x16+e8m0fnu+even",
    "nvfp4",
    "nvfp4+sr",
    "nvfp4+rtz",
    "int4.g128",
    "int4.g32+away",
    "uint4.g32",
    "uint4.g32+sr",
    "uint8.b5x7+rtz",
    "uint8.tensor+bf16",
    "int3.g32",
    "uint2.g32",
    "int16.row",
    "nf4.g64",
    "nf4.g64+sr",
    "e4m3fn.b1x32+e4m3fn",
    "e4m3fn.b1x128+bf16",
    "ffp8_e3m4b5.tensor+pow2",
    "int8.row+pow2",
    "ffp8_ue4m4.row",
    "e4m3fnuz.b2x300+sr",
    "e4m3fn.row+p99.9",
    "int8.b3x5+p50",
    "int8.tensor+p99.99",
)


def recipe_formats() -> tuple[str, ...]:
    """Every tensor format that a recipe names."""
    formats = (
        fmt
        for one in RECIPES.values()
        for fmt in (
            *(one.activation, one.weight, one.gradient),
            *(one.output, one.residual, one.update.master),
        )
        if fmt is not None
    )
    return tuple(dict.fromkeys(map(str, formats)))


def _others(names: tuple[str, ...]) -> tuple[str, ...]:
    """Scaled formats that the list above lacks."""
    listed = {str(TensorFormat.parse(name)) for name in SCALED}
    return tuple(name for name in names if name not in listed and "." in name)


#: All of the above, and what recipes name beside it.
SCALED_AND_NAMED = (*SCALED, *_others(recipe_formats()))
#: The search for the least error, slow in NumPy.
SEARCHED = (
    "int8.row+mse",
    "nf4.b3x7+mse",
    "int4.g32+mse",
    "e4m3fn.tensor+mse",
    "e2m1fn.b1x16+e4m3fn+two-level+mse",
)


def nasty(rows: int, cols: int, seed: int = 0) -> F32:
    """Wide-ranging values with zero, subnormal, huge, NaN and infinite blocks among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * 10.0 ** rng.integers(-6, 5, (rows, cols))
    x[: rows // 2, : cols // 3] = 0
    x[0, : cols // 3] = -0.0
    x[rows // 2 :, : cols // 4] *= 1e-38
    x[rows // 3 : rows // 2, cols // 2 :] *= 1e-44
    x[rows // 4] *= 1e33
    if rows * cols > 1000:
        x[rows - 1, cols - 1], x[rows // 2, cols // 2], x[0, cols - 3] = np.nan, np.inf, -np.nan
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def assert_same(got: QuantizedTensor, wanted: Quantized, what: object = "") -> None:
    """Codes, scales, zero points and tensor scale, bit for bit; one NaN scale is like another."""
    name = f"{wanted.format} {what}"
    codes = got.bits.cpu().numpy().view(wanted.codes.dtype)
    np.testing.assert_array_equal(codes, wanted.codes, err_msg=f"codes, {name}")
    scaling = wanted.format.scaling
    assert (got.scales is None) == (scaling is None)
    if got.scales is not None:
        scales = got.scales.cpu().numpy()
        np.testing.assert_array_equal(scales, wanted.scales, err_msg=f"scales, {name}")
    assert (got.zero_points is None) == (wanted.zero_points is None)
    if got.zero_points is not None:
        zeros = got.zero_points.cpu().numpy()
        np.testing.assert_array_equal(zeros, wanted.zero_points, err_msg=f"zeros, {name}")
    assert (got.tensor_scale is None) == (scaling is None or not scaling.two_level)
    if got.tensor_scale is not None:
        assert float(got.tensor_scale) == wanted.tensor_scale, name


def all_bf16() -> F32:
    """All 65536 bf16 numbers as a 256 x 256 matrix."""
    return (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32).reshape(256, 256)


def bf16_matrices() -> tuple[F32, F32, F32]:
    """All bf16 numbers in order; the finite ones, others zero; these in disorder.

    A NaN or an infinity poisons its block, which may be the whole matrix.
    """
    ordered = all_bf16()
    finite = np.where(np.isfinite(ordered), ordered, np.float32(0))
    mixed = np.random.default_rng(4).permutation(finite.reshape(-1)).reshape(finite.shape)
    return ordered, finite, mixed


def random_words(count: int, seed: int) -> F32:
    """Random fp32 bit patterns: all exponents, NaN, infinities and subnormals among them."""
    words = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
    return words.view(np.float32)


def as_torch(x: F32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A copy in torch."""
    return torch.from_numpy(x.copy()).to(dtype)
