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
from tiles.kernels.accuracy import TILE_MARGIN, Reference, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.cuda.align_mx_scales import ERRORS
from tiles.kernels.output_tiles import row_slices, tile_means
from tiles.problems import Gemm

__all__ = ["align", "aligned_reference", "allow_alignment", "largest_errors"]

QUANT, MX_QUANT = 128, 32
#: Larger differences of E8M0 exponents leave nothing of a code.
MOST_SHIFT = 40
_NAN = 255

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


#: Exponents that a block's codes may be moved up, below the last but one of their format.
MOST_ROOM = 14
#: log2 of the largest number of a format, rounded down, and its significand's stored bits.
_TOP = {"e4m3fn": (8, 3), "e5m2": (15, 2)}
#: Added to exponents of scales: less a block's room they may lie below zero.
_RAISED = 16


@cache
def _shifted(name: str) -> U8:
    """Codes by shift + MOST_ROOM and code: code x 2^-shift, to nearest even.

    What is no number stays.
    """
    fmt = element(name)
    codes = np.arange(256, dtype=np.uint8)
    values = decode(codes, fmt).astype(np.float64)
    table = np.tile(codes, (MOST_ROOM + MOST_SHIFT + 1, 1))
    numbers = np.isfinite(values)
    for shift in range(-MOST_ROOM, MOST_SHIFT + 1):
        if shift != 0:
            moved = np.ldexp(values[numbers], -shift).astype(np.float32)
            table[shift + MOST_ROOM, numbers] = encode(moved, fmt, Rounding.NEAREST_EVEN)
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
    _, mantissa = _TOP[name]
    # Of a block: the exponent of its largest code, as stored.
    exponent = (blocks & 0x7F).max(axis=3).astype(np.int64) >> mantissa
    last = 0x78 >> mantissa
    room = np.where(given == _NAN, 0, np.clip(last - 1 - exponent, 0, MOST_ROOM))
    there = ((blocks & 0x7F) != 0).any(axis=3) | (given == _NAN)
    most = np.where(there, given + _RAISED - room, 0).max(axis=2)
    shift = np.clip(most[:, :, None] - _RAISED - given, -MOST_ROOM, MOST_SHIFT)
    aligned = _shifted(name)[shift[..., None] + MOST_ROOM, blocks].reshape(rows, -1)[:, :k]
    power = np.where(most == 0, 0, most - _RAISED)
    scales = np.ldexp(np.float32(1.0), np.minimum(power, _NAN - 1) - 127)
    return np.ascontiguousarray(aligned), np.where(power == _NAN, np.float32(np.nan), scales)


def largest_errors(codes: torch.Tensor, scales: torch.Tensor, name: str) -> torch.Tensor:
    """Of every value how far the alignment may move it, (rows, K) float32.

    Args:
        codes: (rows, K) float32, what the codes stand for without their scales.
        scales: (rows, ceil(K / 32)) float32 powers of two.
        name: element of the codes.
    """
    rows, k = codes.shape
    chunks = -(-k // QUANT)
    top, _ = _TOP[name]
    size = torch.nn.functional.pad(codes.abs(), (0, chunks * QUANT - k)).view(rows, -1, MX_QUANT)
    size = torch.nan_to_num(size, nan=2.0**top, posinf=2.0**top).amax(dim=2)
    # frexp's exponent is one more than that of the leading bit.
    room = torch.clamp(top - torch.frexp(size).exponent, 0, MOST_ROOM)
    given = torch.nn.functional.pad(scales.float(), (0, chunks * 4 - scales.shape[1]))
    needed = torch.where(size > 0, torch.ldexp(given, -room), 0.0).view(rows, chunks, -1)
    most = needed.amax(dim=2, keepdim=True)
    moved_down = (needed > 0) & (given.view(rows, chunks, -1) < most)
    error = torch.where(moved_down, ERRORS[name] * most, 0.0)
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
    name = problem.recipe.activation.element.name
    values, errors = [], []
    for side in (a, b):
        assert side.scales is not None
        values.append(side.dequantize(torch.float64))
        errors.append(largest_errors(side.codes.float(), side.scales, name))
    return allow_alignment(
        gemm_reference(values[0], values[1], arithmetic),
        (values[0], errors[0]),
        (values[1], errors[1]),
        arithmetic.output.epsilon,
    )
