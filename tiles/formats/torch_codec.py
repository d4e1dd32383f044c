"""The codec of tensor formats in torch: any device, eager or compiled, any size.

Bit-identical with :func:`tiles.formats.quantize` for every format.  A matrix is worked on in pieces
of ``chunk_elements``; beside input and result no more than ``WORKSPACE_BYTES`` for each of their
elements is in use at a time, however large the matrix (and as much for each scale of one row of
blocks, where a row has more elements than a piece).  Under ``torch.compile`` the matrix is one
piece, unless ``chunk_elements`` says otherwise: fused code has few temporaries.  The rules that
search for a scale (MSE and percentiles) are not compiled: they break the graph and run as they are,
and ``fullgraph=True`` refuses them.
"""

from dataclasses import dataclass
from typing import Any

import torch

from tiles.formats.elements import ExponentElement, IntElement
from tiles.formats.rounding import Rounding
from tiles.formats.scaling import ScaleRule, Scaling
from tiles.formats.tensor import TensorFormat
from tiles.formats.torch_encode import (
    code_dtype,
    decode,
    encode,
    pattern_dtype,
    round_to_steps,
)
from tiles.formats.torch_pieces import Piece, bands
from tiles.formats.torch_random import random_bits
from tiles.formats.torch_scales import band_amax, band_scales, divide, tensor_scale
from tiles.intake import shown

__all__ = ["WORKSPACE_BYTES", "QuantizedTensor", "empty_scales", "quantize_tensor"]

#: Rows that 1xB scales are padded to, as ``torch._scaled_mm`` and DeepGEMM expect.
SCALE_ROW_PADDING = 4
#: Elements worked on at a time: what stays in a CPU core's cache, what fills a GPU.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}
#: Upper bound of the temporaries an element of a piece; stochastic rounding by table and the search
#: for the least error need the most, FP8 and integers less than 40.
WORKSPACE_BYTES = 240
#: Zero points are subtracted from whole numbers of steps of this width.
_STEPS = IntElement(name="steps", bits=16)


def empty_scales(
    rows: int, cols: int, scaling: Scaling, device: torch.device | str
) -> torch.Tensor:
    """Scale tensor of a ``rows`` x ``cols`` matrix, filled with zeros, in its conventional layout.

    Returns:
        fp32, shape ``scaling.grid(rows, cols)``; row-major, except that scales of 1xB blocks are
        stored with rows contiguous and a leading dimension padded to a multiple of 4.
    """
    grid = scaling.grid(rows, cols)
    if scaling.rows != 1 or scaling.cols is None:
        return torch.zeros(grid, dtype=torch.float32, device=device)
    padded = -(-grid[0] // SCALE_ROW_PADDING) * SCALE_ROW_PADDING
    return torch.zeros((grid[1], padded), dtype=torch.float32, device=device).t()[: grid[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTensor:
    """Codes and scales of a matrix on some device, one code an item."""

    #: (rows, cols) in the dtype of ``CODE_DTYPES``, of other elements bit patterns: uint8, from 9
    #: bits on int16, from 17 on int32.
    codes: torch.Tensor
    scales: torch.Tensor | None  #: fp32, laid out as :func:`empty_scales` says
    format: TensorFormat
    zero_points: torch.Tensor | None = None  #: uint8 on the scale grid, for asymmetric formats
    tensor_scale: torch.Tensor | None = None  #: second level, fp32 without dimensions

    def __reduce__(self) -> tuple[Any, ...]:
        """As bit patterns: pickle does not read tensors of 8-bit floats back."""
        codes = self.codes
        bits = codes.view(torch.uint8) if codes.dtype.itemsize == 1 else codes
        names = ("scales", "format", "zero_points", "tensor_scale")
        return _rebuilt, (bits, codes.dtype, {name: getattr(self, name) for name in names})

    @property
    def bits(self) -> torch.Tensor:
        """Codes as bit patterns: uint8 up to 8 bits, int16 up to 16, else int32."""
        return self.codes.view(pattern_dtype(self.format.element))

    @property
    def scale_bits(self) -> torch.Tensor:
        """Scales, row-major, as bit patterns of the format that they are stored in.

        Raises:
            ValueError: the format has no scaling.
        """
        if self.scales is None or self.format.scaling is None:
            raise ValueError(f"{self.format} has no scales")
        stored, scales = self.format.scaling.stored, self.scales.contiguous()
        if isinstance(stored, ExponentElement):
            # The exponent field of fp32, of 2^-127 and of NaN too.
            return (scales.view(torch.int32) >> 23).to(torch.uint8)
        return encode(scales, stored)

    def dequantize(
        self, dtype: torch.dtype = torch.float32, *, chunk_elements: int | None = None
    ) -> torch.Tensor:
        """What the codes stand for: (code - zero) x scales.

        Returns:
            (rows, cols): float64 as of :func:`tiles.formats.dequantize`, or that in float32.
        Raises:
            TypeError: another dtype.
        """
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dequantize to float32 or float64, not {dtype}: cast the result")
        bits, scaling = self.bits, self.format.scaling
        rows, cols = bits.shape
        result = None
        for band in bands(rows, cols, scaling, _limit(bits, chunk_elements)):
            for piece in band.pieces:
                values = decode(piece.of(bits), self.format.element).to(dtype)
                if scaling is not None:
                    values = self._scaled(values, piece, band.grid_rows)
                if values.shape == bits.shape:
                    return values
                if result is None:
                    result = torch.empty(rows, cols, dtype=dtype, device=bits.device)
                result[piece.rows, piece.cols] = values
        assert result is not None
        return result

    def _scaled(self, values: torch.Tensor, piece: Piece, grid_rows: slice) -> torch.Tensor:
        assert self.scales is not None
        if self.zero_points is not None:
            values = piece.with_scales(torch.sub, values, self.zero_points[grid_rows])
        # Codes times block scales are exact in float32 where a second level follows, else in
        # float64: so each result is rounded once.
        values = piece.with_scales(torch.mul, values, self.scales[grid_rows])
        return values if self.tensor_scale is None else values * self.tensor_scale


def _rebuilt(bits: torch.Tensor, dtype: torch.dtype, rest: dict[str, Any]) -> QuantizedTensor:
    return QuantizedTensor(codes=bits.view(dtype), **rest)


def quantize_tensor(
    x: torch.Tensor, fmt: TensorFormat, *, seed: int = 0, chunk_elements: int | None = None
) -> QuantizedTensor:
    """Quantise a matrix under the workbench's rule (see :mod:`tiles.formats.codec`).

    Args:
        x: (rows, cols) bf16, fp16 or fp32, any device and strides.
        seed: 64-bit key of stochastic rounding; other formats do not look at it.
        chunk_elements: elements worked on at a time, see the module's docstring; by default
            2^20 on a CPU and 2^24 on a GPU.  No result depends on it.
    Raises:
        ValueError: ``x`` is not a non-empty dense matrix, or ``chunk_elements`` is not positive.
        TypeError: ``x`` is not bf16, fp16 or fp32, or ``seed`` or ``chunk_elements`` no integer.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"quantize_tensor takes a tensor, got {type(x).__name__}: make it one")
    if not isinstance(fmt, TensorFormat):
        raise TypeError(f"quantize_tensor takes a TensorFormat, got {shown(fmt)}: parse it first")
    if x.layout is not torch.strided:
        raise ValueError(
            f"quantisation takes a dense matrix, got the layout {x.layout}: call to_dense() first"
        )
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(
            f"quantisation takes a non-empty matrix, got shape {tuple(x.shape)}: reshape it first"
        )
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"quantisation takes bf16, fp16 or fp32, got {x.dtype}: cast it first")
    x = x.resolve_neg()  # words are read below, and a view may carry its sign beside them
    if torch.compiler.is_compiling() and _searches(fmt):
        return _uncompiled(x, fmt, seed, chunk_elements)
    return _quantize(x, fmt, seed, chunk_elements)


def _searches(fmt: TensorFormat) -> bool:
    """True for scale rules whose passes over the values would unroll to a graph of thousands."""
    rules = (ScaleRule.MSE, ScaleRule.PERCENTILE)
    return fmt.scaling is not None and fmt.scaling.rule in rules


def _quantize(
    x: torch.Tensor, fmt: TensorFormat, seed: int, chunk_elements: int | None
) -> QuantizedTensor:
    limit = _limit(x, chunk_elements)
    rows, cols = x.shape
    outer = _outer_scale(x, fmt, limit)
    patterns = None
    scales = zeros = None
    if fmt.scaling is not None:
        scales = empty_scales(rows, cols, fmt.scaling, x.device)
        if fmt.asymmetric:
            zeros = torch.zeros(scales.shape, dtype=torch.uint8, device=x.device)
    for band in bands(rows, cols, fmt.scaling, limit):
        divisors = shifts = None
        if scales is not None:
            divisors, shifts = band_scales(x, band, fmt, outer)
            scales[band.grid_rows] = divisors
            if zeros is not None and shifts is not None:
                zeros[band.grid_rows] = shifts
            divisors = divisors if outer is None else divisors * outer
        without_nan = _without_nan(divisors)
        for piece in band.pieces:
            codes = _codes(x, piece, fmt, divisors, shifts, seed, without_nan)
            if codes.shape == x.shape:
                patterns = codes.contiguous()
                break
            if patterns is None:
                patterns = torch.empty(rows, cols, dtype=codes.dtype, device=x.device)
            patterns[piece.rows, piece.cols] = codes
    assert patterns is not None
    return QuantizedTensor(
        codes=patterns.view(code_dtype(fmt.element)),
        scales=scales,
        format=fmt,
        zero_points=zeros,
        tensor_scale=outer,
    )


# As ``torch.compiler.disable``, which would load the compiler at once.
_uncompiled = torch._disable_dynamo(_quantize)  # type: ignore[attr-defined]


def _limit(x: torch.Tensor, chunk_elements: int | None) -> int | None:
    if chunk_elements is None:
        compiling = torch.compiler.is_compiling()
        return None if compiling else CHUNK_ELEMENTS.get(x.device.type, CHUNK_ELEMENTS["cuda"])
    if not isinstance(chunk_elements, int):
        raise TypeError(f"chunk_elements {shown(chunk_elements)}: an integer of at least 1")
    if chunk_elements < 1:
        raise ValueError(f"chunk_elements {chunk_elements}: at least 1")
    return chunk_elements


def _without_nan(divisors: torch.Tensor | None) -> bool:
    """True if quotients are known to hold no NaN; asked where the answer costs no waiting."""
    if divisors is None or torch.compiler.is_compiling() or divisors.device.type != "cpu":
        return False
    return bool((divisors > 0).all())


def _outer_scale(x: torch.Tensor, fmt: TensorFormat, limit: int | None) -> torch.Tensor | None:
    """The second level's scale, in a pass of its own over the matrix."""
    if fmt.scaling is None or not fmt.scaling.two_level:
        return None
    top = torch.zeros((), dtype=torch.float32, device=x.device)
    for band in bands(x.shape[0], x.shape[1], fmt.scaling, limit):
        amax = band_amax(x, band)
        top = torch.maximum(top, torch.where(amax.isfinite(), amax, 0.0).amax())
    return tensor_scale(top, fmt.element, fmt.scaling)


def _codes(
    x: torch.Tensor,
    piece: Piece,
    fmt: TensorFormat,
    divisors: torch.Tensor | None,
    shifts: torch.Tensor | None,
    seed: int,
    without_nan: bool,
) -> torch.Tensor:
    """Bit patterns of a piece of the matrix."""
    random = None
    if fmt.rounding is Rounding.STOCHASTIC:
        first = piece.rows.start * x.shape[1] + piece.cols.start
        height, width = piece.shape
        random = random_bits(first, height * width, seed, x.device).view(height, width)
    ratio = piece.of(x).float()
    if divisors is not None:
        ratio = piece.with_scales(divide, ratio, divisors)
    if shifts is None:
        return encode(
            ratio,
            fmt.element,
            fmt.rounding,
            saturate=fmt.saturate,
            random=random,
            without_nan=without_nan,
        )
    # Rounded first and shifted then: ties are even before the zero point is added.
    steps = round_to_steps(ratio, _STEPS, fmt.rounding, random, without_nan=without_nan)
    return encode(piece.with_scales(torch.add, steps, shifts), fmt.element, without_nan=True)
