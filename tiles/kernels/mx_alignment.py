"""MX operands brought to one scale for every 128 along K: the NumPy twin of ``align_mx_scales.cu``.

``cuda/align_mx_scales.py`` tells what it costs, and what becomes of zeros, NaN and infinity.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from tiles.formats import Rounding, decode, element, encode
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.accuracy import (
    TILE_MARGIN,
    Reference,
    gemm_arithmetic,
    gemm_reference,
    row_slices,
    tile_means,
)
from tiles.kernels.cuda.align_mx_scales import ERRORS
from tiles.problems import Gemm

__all__ = ["align", "aligned_reference", "allow_alignment", "largest_errors"]

QUANT, MX_QUANT = 128, 32
#: Larger differences of E8M0 exponents leave nothing of a code.
MOST_SHIFT = 40
_NAN = 255

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


@cache
def _shifted(name: str) -> U8:
    """Codes by shift and code: code x 2^-shift, to nearest even; what is no number stays."""
    fmt = element(name)
    codes = np.arange(256, dtype=np.uint8)
    values = decode(codes, fmt).astype(np.float64)
    table = np.tile(codes, (MOST_SHIFT + 1, 1))
    numbers = np.isfinite(values)
    for shift in range(1, MOST_SHIFT + 1):
        small = np.ldexp(values[numbers], -shift).astype(np.float32)
        table[shift, numbers] = encode(small, fmt, Rounding.NEAREST_EVEN)
    return table


def align(codes: U8, exponents: U8, name: str) -> tuple[U8, F32]:
    """Codes and scales as the kernel writes them.

    Args:
        codes: (rows, K).
        exponents: (rows, ceil(K / 32)), E8M0.
        name: element of the codes, ``e4m3fn`` or ``e5m2``.
    Returns:
        Codes (rows, K), and fp32 scales (rows, ceil(K / 128)).
    """
    rows, k = codes.shape
    chunks = -(-k // QUANT)
    padded = np.zeros((rows, chunks * QUANT), np.uint8)
    padded[:, :k] = codes
    blocks = padded.reshape(rows, chunks, QUANT // MX_QUANT, MX_QUANT)
    given = np.zeros((rows, chunks * (QUANT // MX_QUANT)), np.int64)
    given[:, : exponents.shape[1]] = exponents
    given = given.reshape(rows, chunks, -1)
    counts = np.where(((blocks & 0x7F) != 0).any(axis=3) | (given == _NAN), given, 0)
    most = counts.max(axis=2)
    shift = np.minimum(most[:, :, None] - counts, MOST_SHIFT)
    aligned = _shifted(name)[shift[..., None], blocks].reshape(rows, -1)[:, :k]
    scales = np.ldexp(np.float32(1.0), np.minimum(most, _NAN - 1) - 127)
    return np.ascontiguousarray(aligned), np.where(most == _NAN, np.float32(np.nan), scales)


def largest_errors(codes: torch.Tensor, scales: torch.Tensor, unit: float) -> torch.Tensor:
    """Of every value how far the alignment may move it, (rows, K) float32.

    Args:
        codes: (rows, K), as numbers or as bits: only zeros matter.
        scales: (rows, ceil(K / 32)) float32 powers of two.
        unit: largest error of a code in units of the new scale.
    """
    rows, k = codes.shape
    chunks = -(-k // QUANT)
    empty = torch.nn.functional.pad(codes == 0, (0, chunks * QUANT - k), value=True)
    there = ~empty.view(rows, -1, MX_QUANT).all(dim=2)
    given = torch.nn.functional.pad(scales.float(), (0, chunks * 4 - scales.shape[1]))
    counts = torch.where(there, given, 0.0).view(rows, chunks, -1)
    most = counts.amax(dim=2, keepdim=True)
    error = torch.where((counts > 0) & (counts < most), unit * most, 0.0)
    return error.view(rows, -1).repeat_interleave(MX_QUANT, dim=1)[:, :k]


def allow_alignment(
    reference: Reference,
    left: tuple[torch.Tensor, torch.Tensor],
    right: tuple[torch.Tensor, torch.Tensor],
    epsilon: float,
) -> Reference:
    """A reference whose limits allow for the alignment of both operands.

    With |a' - a| <= d and |b' - b| <= e the product of the aligned values is off by at most
    (|a| + d) e + d |b|, added over K.

    Args:
        reference: of the same product without it.
        left, right: (M, K) and (N, K) values, and the largest error of each, as
            :func:`largest_errors` has them.
        epsilon: of the output's format.
    """
    (a, a_error), (b, b_error) = left, right
    # fp32 sums of K terms, all of one sign.
    slack = 1 + epsilon + a.shape[1] * 2.0**-23
    bound, limits = reference.bound.clone(), []
    b_size, b_large = b.abs().float().T, b_error.T
    for rows in row_slices(*reference.exact.shape):
        a_size, a_large = a[rows].abs().float(), a_error[rows]
        bound[rows] += slack * ((a_size + a_large) @ b_large + a_large @ b_size)
        squares = (
            a_size + a_large
        ).square() @ b_large.square() + a_large.square() @ b_size.square()
        # Elements without a number add nothing to their tile's limit.
        limits.append(tile_means(torch.nan_to_num(squares.double(), nan=0.0, posinf=0.0)))
    limit = reference.tile_rms_limit.square() + TILE_MARGIN**2 * torch.cat(limits)
    return replace(reference, bound=bound, tile_rms_limit=limit.sqrt())


def aligned_reference(problem: Gemm, a: QuantizedTensor, b: QuantizedTensor) -> Reference:
    """The exact product of MX operands, with the limits of one of their aligned codes.

    Args:
        problem: the product.
        a, b: its operands.
    """
    # Promoted every 128 of K, not at every scale.
    arithmetic = replace(gemm_arithmetic(problem, decode=False), promote_k=QUANT)
    unit = ERRORS[problem.recipe.activation.element.name]
    values, errors = [], []
    for side in (a, b):
        assert side.scales is not None
        values.append(side.dequantize(torch.float64))
        errors.append(largest_errors(side.codes.float(), side.scales, unit))
    return allow_alignment(
        gemm_reference(values[0], values[1], arithmetic),
        (values[0], errors[0]),
        (values[1], errors[1]),
        arithmetic.output.epsilon,
    )
