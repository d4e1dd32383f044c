"""NumPy reference codec of tensor formats.

The rule (one for every backend of the workbench): the scale follows from the block, is rounded to
the format it is stored in, and ``code = round(x / scale)``, in IEEE fp32 divisions.  An all-zero
block has codes 0 and scale 1 (E8M0: 2^-127); a NaN or an infinity makes the scale of its block NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiles.formats.block_scales import (
    block_amax,
    block_scales,
    spread,
    tensor_scale,
    zero_points,
)
from tiles.formats.elements import ElementFormat, ExponentElement, IntElement
from tiles.formats.encode import Codes, code_dtype, decode, encode
from tiles.formats.rounding import Rounding, random_bits
from tiles.formats.tensor import TensorFormat
from tiles.intake import shown

__all__ = ["Quantized", "dequantize", "quantize", "scale_codes"]

F32 = NDArray[np.float32]

#: Elements that are encoded at once: some 0.5 MB a temporary, which stays in the cache.
_PIECE_ELEMENTS = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Codes and scales of a matrix, one code an item; packing is a step of its own."""

    codes: Codes  #: (rows, cols) bit patterns of the element format
    scales: F32  #: scale grid of the format, see :meth:`Scaling.grid`; a single 1 without scaling
    format: TensorFormat
    zero_points: NDArray[np.uint8] | None = None  #: scale grid, for asymmetric formats
    tensor_scale: float = 1.0  #: second level, 1 where there is none

    @property
    def values(self) -> F32:
        """(rows, cols) what the codes stand for before scales and zero points."""
        return decode(self.codes, self.format.element)


def quantize(x: F32, fmt: TensorFormat, *, seed: int = 0) -> Quantized:
    """Quantise a matrix under the workbench's rule (see the module's docstring).

    Args:
        x: (rows, cols) float32, contiguous or not.
        seed: 64-bit key of stochastic rounding; other formats do not look at it.
    Returns:
        Codes and scales.  In a poisoned block codes are the element's NaN, or
        the code of zero where it has none.
    Raises:
        ValueError: ``x`` is not a non-empty matrix.
        TypeError: ``x`` is not a float32 array, or ``fmt`` no :class:`TensorFormat`.
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"quantize takes a float32 array, got {type(x).__name__}: make it one")
    if not isinstance(fmt, TensorFormat):
        raise TypeError(f"quantize takes a TensorFormat, got {shown(fmt)}: parse it first")
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"quantize takes a non-empty matrix, got shape {x.shape}: reshape it")
    if x.dtype != np.float32:
        raise TypeError(f"quantize takes float32, got {x.dtype}: cast it first")
    x = np.ascontiguousarray(x)
    if fmt.scaling is None:
        codes = _encode(x, fmt.element, fmt.rounding, seed, saturate=fmt.saturate)
        return Quantized(codes=codes, scales=np.ones((1, 1), np.float32), format=fmt)
    outer = tensor_scale(block_amax(x, fmt.scaling), fmt.element, fmt.scaling)
    scales = block_scales(x, fmt.element, fmt.scaling, outer)
    # Two levels of tiny scales may make a product of 0: what is divided by it saturates.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        ratio = x / spread(scales * outer, fmt.scaling, *x.shape)
    if not fmt.asymmetric:
        codes = _encode(ratio, fmt.element, fmt.rounding, seed, saturate=fmt.saturate)
        return Quantized(codes=codes, scales=scales, format=fmt, tensor_scale=float(outer))
    assert isinstance(fmt.element, IntElement)
    zeros = zero_points(x, fmt.element, fmt.scaling, scales)
    shift = spread(zeros.astype(np.float32), fmt.scaling, *x.shape)
    # Rounded first and shifted then: ties are even before the zero point is added.
    wide = IntElement(name="steps", bits=16)
    steps = decode(_encode(ratio, wide, fmt.rounding, seed), wide)
    codes = encode(steps + shift, fmt.element)
    return Quantized(codes=codes, scales=scales, format=fmt, zero_points=zeros)


def _encode(
    x: F32, element: ElementFormat, rounding: Rounding, seed: int, *, saturate: bool = True
) -> Codes:
    """Codes of a matrix, piece by piece; random bits go by the flat index."""
    codes = np.empty(x.shape, code_dtype(element))
    numbers, patterns = x.reshape(-1), codes.reshape(-1)
    for first in range(0, x.size, _PIECE_ELEMENTS):
        part = numbers[first : first + _PIECE_ELEMENTS]
        random = None
        if rounding is Rounding.STOCHASTIC:
            random = random_bits(first, part.size, seed)
        patterns[first : first + part.size] = encode(
            part, element, rounding, saturate=saturate, random=random
        )
    return codes


def dequantize(q: Quantized) -> NDArray[np.float64]:
    """Exact values (rows, cols) that the codes stand for: (code - zero) x scales in float64."""
    values = q.values.astype(np.float64)
    scaling = q.format.scaling
    if scaling is None:
        return values
    if q.zero_points is not None:
        values -= spread(q.zero_points.astype(np.float32), scaling, *q.codes.shape)
    scales = spread(q.scales, scaling, *q.codes.shape).astype(np.float64)
    # One level's scale times code is exact; the second level rounds once.
    return values * scales * q.tensor_scale


def scale_codes(q: Quantized) -> Codes:
    """Scales as bit patterns of the format that they are stored in.

    Raises:
        ValueError: the format has no scaling.
    """
    scaling = q.format.scaling
    if scaling is None:
        raise ValueError(f"{q.format} has no scales")
    stored = scaling.stored
    if isinstance(stored, ExponentElement):
        finite = np.where(np.isfinite(q.scales), q.scales, np.float32(1))
        codes = np.frexp(finite)[1] - 1 + stored.bias
        return np.where(np.isfinite(q.scales), codes, stored.nan_code).astype(code_dtype(stored))
    return encode(q.scales, stored)
