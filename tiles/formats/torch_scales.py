"""Scale rules in torch, on any device, eager or compiled: from a band's values to stored scales.

Bit-identical with :mod:`tiles.formats.block_scales`, rule by rule.  Powers of two are made from
exponent fields, and compiled divisions go by float64, which is correct for every float32 quotient:
53 bits are more than twice 24 and two.
"""

from functools import partial

import torch

from tiles.formats.block_scales import MIN_TWO_LEVEL_SCALE, MSE_STEPS, MSE_SUM_BITS
from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
)
from tiles.formats.scaling import ScaleRule, Scaling
from tiles.formats.tensor import TensorFormat
from tiles.formats.torch_encode import decode, encode
from tiles.formats.torch_pieces import Band, Piece

__all__ = ["band_amax", "band_scales", "divide", "divide_by", "tensor_scale"]

_MANTISSA = (1 << 23) - 1
_WORDS = {2: torch.int16, 4: torch.int32}


def divide(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The IEEE quotient of float32 tensors; compilers' own float32 division is approximate."""
    if torch.compiler.is_compiling():
        return (x.double() / y.double()).float()
    return x / y


def divide_by(x: torch.Tensor, number: float) -> torch.Tensor:
    """The IEEE quotient of a float32 tensor by a Python number, on every device."""
    # A divisor on the device: CUDA torch turns division by a Python number into a product.
    return divide(x, torch.full_like(x, number))


def _magnitudes(x: torch.Tensor) -> torch.Tensor:
    """Magnitudes as integers of the same order: above all numbers infinity, above it NaN."""
    word = x.view(_WORDS[x.element_size()])
    return word & torch.iinfo(word.dtype).max


def band_amax(x: torch.Tensor, band: Band) -> torch.Tensor:
    """Largest magnitude of each block, (grid of the band) float32; NaN wins over numbers."""
    words = band.reduce(
        lambda piece: piece.in_blocks(_magnitudes(piece.of(x))).amax(dim=(1, 3)), torch.maximum, 0
    )
    return words.view(x.dtype).float()


def tensor_scale(top: torch.Tensor, element: ElementFormat, scaling: Scaling) -> torch.Tensor:
    """Second-level scale of a tensor whose largest finite amax is ``top``, float32."""
    scale = divide_by(top, element.max * scaling.stored.max)
    return torch.where(scale > 0, scale, 1.0)


def band_scales(
    x: torch.Tensor, band: Band, fmt: TensorFormat, outer: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Stored scales of a band's blocks as float32 numbers, and zero points where there are any.

    Args:
        x: the matrix, bf16, fp16 or fp32.
        outer: the tensor's own scale, ``None`` where there is one level.
    """
    scaling = fmt.scaling
    assert scaling is not None
    if fmt.asymmetric:
        assert isinstance(fmt.element, IntElement)
        return _asymmetric(x, band, fmt.element, scaling)
    amax = band_amax(x, band)
    finite = torch.where(amax.isfinite(), amax, 0.0)
    if isinstance(scaling.stored, ExponentElement):
        scales = _exponent_scales(finite, fmt.element, scaling)
    else:
        if scaling.rule is ScaleRule.MSE:
            scales = _least_squares_scales(x, band, finite, fmt, outer)
        else:
            if scaling.rule is ScaleRule.PERCENTILE:
                ideal = divide_by(_percentile_amax(x, band, scaling), fmt.element.max)
            else:
                ideal = divide_by(finite, fmt.element.max)
            if scaling.rule is ScaleRule.POW2:
                ideal = _power_above(ideal)
            scales = _stored(ideal, scaling, outer)
        scales = torch.where((scales == 0) | (finite == 0), 1.0, scales)
    return torch.where(amax.isfinite(), scales, torch.nan), None


def _stored(ideal: torch.Tensor, scaling: Scaling, outer: torch.Tensor | None) -> torch.Tensor:
    """Scales as rounded to the format that they are stored in, saturating."""
    assert isinstance(scaling.stored, FloatElement)
    if outer is not None:
        ideal = divide(ideal, outer)
    rounded = decode(encode(ideal, scaling.stored), scaling.stored)
    return rounded.clamp(min=float(MIN_TWO_LEVEL_SCALE)) if scaling.two_level else rounded


def _exponent_and_mantissa(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of finite ``x = 2**e · (1 + m / 2**23)``, e and m as int32, subnormals included; x >= 0."""
    word = x.view(torch.int32)
    # A subnormal is an integer in units of 2**-149, and so a normal number.
    scaled = word.float().view(torch.int32)
    subnormal = word <= _MANTISSA
    exponent = torch.where(subnormal, (scaled >> 23) - (127 + 149), (word >> 23) - 127)
    return exponent, torch.where(subnormal, scaled, word) & _MANTISSA


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """float32 ``2**exponent`` for -149 <= exponent <= 127, int32."""
    normal = (exponent + 127) << 23
    subnormal = torch.ones_like(exponent) << (exponent + 149).clamp(0, 23)
    return torch.where(exponent < -126, subnormal, normal).view(torch.float32)


def _power_above(ratio: torch.Tensor) -> torch.Tensor:
    """The smallest power of two not below each ratio, at most 2^127; zero stays zero."""
    exponent, mantissa = _exponent_and_mantissa(ratio.clamp(max=torch.finfo(torch.float32).max))
    exponent = (exponent + (mantissa != 0).to(torch.int32)).clamp(max=127)
    return torch.where(ratio > 0, _power(exponent), 0.0)


def _exponent_scales(amax: torch.Tensor, element: ElementFormat, scaling: Scaling) -> torch.Tensor:
    stored = scaling.stored
    assert isinstance(stored, ExponentElement)
    assert not isinstance(element, CodebookElement)  # TensorFormat refuses it
    exponent, mantissa = _exponent_and_mantissa(amax)
    match scaling.rule:
        case ScaleRule.FLOOR:
            up = torch.zeros_like(mantissa, dtype=torch.bool)
        case ScaleRule.CEIL:
            up = mantissa != 0
        case ScaleRule.EVEN:
            # 1 + m / 2**23 >= 2 - 2**-(mantissa_bits + 1), without fractions.
            up = 2 * mantissa >= (1 << 24) - (1 << (23 - element.mantissa_bits))
        case _:
            top = torch.full((), element.max, dtype=torch.float32, device=amax.device)
            up = mantissa > _exponent_and_mantissa(top)[1]
    power = exponent + up.to(torch.int32) - element.max_exponent
    power = power.clamp(-stored.bias, stored.max_code - stored.bias)
    return _power(torch.where(amax > 0, power, -stored.bias))


def _percentile_amax(x: torch.Tensor, band: Band, scaling: Scaling) -> torch.Tensor:
    """The magnitude of the percentile's rank in every block; of poisoned ones anything.

    Magnitudes are counted, not sorted: bit by bit from the top, the largest number that fewer
    than rank of them lie below.
    """
    bits = 8 * x.element_size() - 1
    word = _WORDS[x.element_size()]

    def count(limit: torch.Tensor, piece: Piece) -> torch.Tensor:
        # What fills ragged blocks up is above every limit.
        magnitudes = piece.in_blocks(_magnitudes(piece.of(x)), torch.iinfo(word).max)
        return (magnitudes <= piece.spread(limit)).sum(dim=(1, 3))

    found = torch.zeros(band.grid_shape, dtype=word, device=x.device)
    rank = band.by_size(scaling.rank, found.long())
    for bit in reversed(range(bits)):
        limit = found + ((1 << bit) - 1)
        below = band.reduce(partial(count, limit), torch.add, 0)
        found = torch.where(below < rank, found + (1 << bit), found)
    amax = found.view(x.dtype).float()
    return torch.where(amax.isfinite(), amax, 0.0)


def _least_squares_scales(
    x: torch.Tensor,
    band: Band,
    amax: torch.Tensor,
    fmt: TensorFormat,
    outer: torch.Tensor | None,
) -> torch.Tensor:
    """Of the candidates, the stored scale of least squared error; of equals the largest."""
    scaling = fmt.scaling
    assert scaling is not None
    wide_amax = torch.where(amax > 0, amax, 1.0).double()

    def unit(size: int) -> float:
        return 2.0 ** (MSE_SUM_BITS - (size - 1).bit_length())

    units = band.by_size(unit, wide_amax)

    def squares(scale: torch.Tensor, piece: Piece) -> torch.Tensor:
        block = piece.in_blocks(piece.of(x)).float()
        total = scale if outer is None else scale * outer
        ratio = divide(block, piece.spread(total))
        values = decode(encode(ratio, fmt.element), fmt.element).double()
        wide_scale = scale.double() if outer is None else scale.double() * outer.double()
        # In units of amax the error is at most 1; products of code and scales are exact.
        error = (block.double() - values * piece.spread(wide_scale)) / piece.spread(wide_amax)
        square = (error * error * piece.spread(units)).to(torch.int64)
        # What fills ragged blocks up is 0, which may decode to another number.
        inside = piece.in_blocks(torch.ones(piece.shape, dtype=torch.bool, device=x.device))
        return torch.where(inside, square, 0).sum(dim=(1, 3))

    best = torch.full(band.grid_shape, torch.iinfo(torch.int64).max, device=x.device)
    chosen = torch.zeros_like(amax)
    for step in range(MSE_STEPS):
        clip = amax * (1 - step / (2 * MSE_STEPS))
        scale = _stored(divide_by(clip, fmt.element.max), scaling, outer)
        total = band.reduce(partial(squares, scale), torch.add, 0)
        better = (total < best) & (scale > 0) & (amax > 0)
        best = torch.where(better, total, best)
        chosen = torch.where(better, scale, chosen)
    return chosen


def _asymmetric(
    x: torch.Tensor, band: Band, element: IntElement, scaling: Scaling
) -> tuple[torch.Tensor, torch.Tensor]:
    # What fills ragged blocks up is zero, which counts in every block.
    low = band.reduce(lambda piece: piece.in_blocks(piece.of(x)).amin(dim=(1, 3)), torch.minimum, 0)
    high = band.reduce(
        lambda piece: piece.in_blocks(piece.of(x)).amax(dim=(1, 3)), torch.maximum, 0
    )
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    amax = torch.maximum(high, -low)
    # Halves: the whole span of a block may exceed fp32's range.  By float64, so that no compiler
    # fuses products of subnormals with the sum.
    span = (high.double() * 0.5).float() - (low.double() * 0.5).float()
    ideal = divide_by(torch.where(span.isfinite(), span, 0.0), element.max / 2)
    scales = _stored(ideal, scaling, None)
    scales = torch.where((scales == 0) | (amax == 0), 1.0, scales)
    scales = torch.where(amax.isfinite(), scales, torch.nan)
    shift = torch.round(divide(-low, scales)).nan_to_num(nan=0.0)
    return scales, shift.clamp(0, element.max_integer).to(torch.uint8)
