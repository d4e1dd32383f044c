"""A-priori error bounds of a product, and the comparison of a kernel's output with its reference.

Reference: the fp64 product of the dequantised operands. Both limits below are functions of the
operands and of the arithmetic; nothing is tuned to an observed output.

**What a tensor core does** (one MMA step, depth d): it aligns d exact products and the
accumulator to the largest magnitude among them and keeps t significand bits of each, by
truncation. So each of the d + 1 addends loses less than ``u·M`` with ``u = 2^(1-t)`` and M the
largest partial sum or product. t = 24, d = 16 for 16-bit elements in fp32; t = 14, d = 32 for
8-bit floats on Hopper (DeepSeek-V3 technical report, section 3.5.2, and DeepGEMM#50). Newer
and older tensor cores keep more. int8 is exact in int32. Triton's interpreter multiplies all
floats in fp32 and drops less than t = 24, d = 16 allow.

**Element bound.** Over K elements the worst case ``K(1 + 1/d)·u·M`` is vacuous for t = 14 (it
exceeds the result at K = 4096), so three parts are kept apart. The accumulator is truncated
toward zero in each of the K/d steps, always with one sign: a bias of at most ``(K/d)·u·M``, summed
as it is. A product is truncated toward zero too, so its error has its sign. Let signs be drawn
independently of each other and of the magnitudes, with any common mean c. Truncation takes each
product's magnitude uniformly in [0, u·M), or less, so the errors have a mean of at most
``|c|·K·u·M/2``, and Hoeffding's inequality bounds their deviation from it by
``L·u·M·sqrt(K(1 + 1/d))`` except with probability ``2·exp(-L²/2)``. The mean is granted with
``kappa = |exact| / sum_k |a_k b_k|`` for ``|c|``: 1 for operands of one sign, about 1/sqrt(K) for
signs without preference. Around ``|c|`` it scatters by ``q / sum_k |a_k b_k|``, with
``q² = sum_k a_k² b_k²``: for normal operands ``0.8·sqrt(K)·u·M`` of the mean, less than one of the
L deviations. M obeys the same inequality: the largest partial sum stays below ``|exact| + L·q``.
L = 7.5 makes either probability 1.2e-12 an element; a product of 2^26 elements raises a false
alarm in fewer than 1 run of 5000 even if both bounds were attained, which truncation to t bits is
far from. Not covered: signs that go with magnitudes, such as one large product against thousands
of small ones of the other sign.

With promotion every kb elements, n = ceil(K/kb) sums restart from zero: the random parts add in
quadrature to ``L·u·sqrt(kb(1 + 1/d))·M'``, ``M' = |exact|/sqrt(n) + L·q``, and the biases to at
most ``kb(kappa/2 + 1/d)·u·sqrt(n)·M'``; scaling and adding in fp32 costs at most three roundings a
block. The epilogue multiplies twice and converts once (4 units of 2^-24), and rounding to the
output costs half an ulp. The reference itself is rounded K + 2 times in fp64, each time by 2^-53
of at most ``sum_k |a_k b_k| <= sqrt(K)·q``: a kernel with exact sums must not be blamed for that
where they cancel.

**Tile limit.** The root mean square error of each 128 x 128 tile must stay below twice its
expectation under the same model with every truncation uniform in [0, u·M): random parts
``/sqrt(3)``, biases ``/2``, ``M² = exact² + q²``, output rounding uniform. The biases of n blocks
add in quadrature, but as far as kappa says, ``kappa·kb(1 + 1/d)·u·M/2`` each, they add up. Two is
the margin for a model that takes M for the sum's size throughout; edge tiles with n elements get
``sqrt(1 + L·sqrt(2/n))`` more for their sampling error. A scale wrong by 2 on one of 32 blocks
along K moves its tile by 18 %, ten times this limit for promoted fp8, so it cannot pass however
few tiles it touches. With operands of one sign it moves the tile by 3 %, which the limit for
promoted fp8 still sees. fp8 sums that are never promoted then lose some 8 % at K = 4096 by
truncation alone, and no limit can be narrower than that.
"""

import math
from dataclasses import dataclass

import torch

from tiles.kernels.arithmetic import Arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.output_tiles import TILE, row_slices, tile_counts, tile_means

__all__ = ["TILE_MARGIN", "Reference", "compare", "gemm_reference"]

#: Deviation, in standard deviations of Hoeffding's bound, that one element exceeds once in 8e11.
DEVIATIONS = 7.5
#: Margin of the tile limit over the expected root mean square error.
TILE_MARGIN = 2.0
_FP32_ROUNDING = 2.0**-24
_FP64_ROUNDING = 2.0**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The fp64 product and how far an output may lie from it."""

    exact: torch.Tensor  #: (M, N) float64
    bound: torch.Tensor  #: (M, N) float32, largest error an element may have
    tile_rms_limit: torch.Tensor  #: (ceil(M/128), ceil(N/128)) float64


def _element_bound(
    exact: torch.Tensor, q: torch.Tensor, kappa: torch.Tensor, k: int, arithmetic: Arithmetic
) -> torch.Tensor:
    """Largest error of each element, see the module's docstring."""
    size = exact.abs()
    depth = arithmetic.depth
    interval = min(k, arithmetic.promote_k or k)
    blocks = math.ceil(k / interval)
    error = 4 * _FP32_ROUNDING * size + (k + 2) * _FP64_ROUNDING * math.sqrt(k) * q
    if arithmetic.promote_k is not None:
        error = error + 3 * blocks * _FP32_ROUNDING * (size + DEVIATIONS * q)
    if arithmetic.significand_bits is not None:
        unit = 2.0 ** (1 - arithmetic.significand_bits)
        random = DEVIATIONS * math.sqrt(interval * (1 + 1 / depth))
        bias = (math.ceil(interval / depth) + kappa * (interval / 2)) * math.sqrt(blocks)
        error = error + unit * (random + bias) * (size / math.sqrt(blocks) + DEVIATIONS * q)
    ulps = 1.0 if arithmetic.output_truncates else 0.5
    out = arithmetic.output
    return error + ulps * (out.epsilon * (size + error) + out.min_subnormal)


def _element_variance(
    exact: torch.Tensor, q: torch.Tensor, kappa: torch.Tensor, k: int, arithmetic: Arithmetic
) -> torch.Tensor:
    """Expected squared error of each element, see the module's docstring."""
    depth = arithmetic.depth
    interval = min(k, arithmetic.promote_k or k)
    blocks = math.ceil(k / interval)
    size2 = exact.square()
    variance = (4 * _FP32_ROUNDING) ** 2 * size2 + k * _FP64_ROUNDING**2 * k * q.square()
    if arithmetic.promote_k is not None:
        variance = variance + 3 * blocks * _FP32_ROUNDING**2 * (size2 + q.square())
    if arithmetic.significand_bits is not None:
        unit = 2.0 ** (1 - arithmetic.significand_bits)
        steps = math.ceil(interval / depth)
        random = math.sqrt(interval * (1 + 1 / depth) / 3)
        spread = random + steps / 2 + kappa * ((interval + steps) * math.sqrt(blocks) / 2)
        variance = variance + (unit * spread).square() * (size2 / blocks + q.square())
    ulps = 1.0 if arithmetic.output_truncates else 0.5
    out = arithmetic.output
    return variance + (ulps * out.epsilon) ** 2 / 3 * size2 + out.min_subnormal**2


def _one_signedness(exact: torch.Tensor, sizes: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """``|exact| / (sizes * unit)`` in [0, 1], float32; 0 where nothing is added."""
    ratio = (exact.abs() / unit).to(torch.float32) / sizes
    return torch.nan_to_num(ratio, nan=0.0, posinf=1.0).clamp_(max=1.0)


def _largest(x: torch.Tensor) -> torch.Tensor:
    """Largest finite magnitude, at least 1e-300."""
    largest = x.new_full((), 1e-300)
    for rows in row_slices(*x.shape):
        finite = torch.nan_to_num(x[rows], nan=0.0, posinf=0.0, neginf=0.0)
        largest = torch.maximum(largest, finite.abs_().amax())
    return largest


def _sizes(x: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """``|x| / unit`` in fp32."""
    sizes = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    for rows in row_slices(*x.shape):
        sizes[rows] = (x[rows] / unit).abs_()
    return sizes


def gemm_reference(a: torch.Tensor, b: torch.Tensor, arithmetic: Arithmetic) -> Reference:
    """The exact product of dequantised operands, with its limits.

    Args:
        a: (M, K) float64, code x scale.
        b: (N, K) float64.
        arithmetic: how the kernel under test adds.
    Returns:
        Tensors on the operands' device.
    Raises:
        ValueError: operands are not float64 matrices of equal K.
    """
    if a.dtype != torch.float64 or b.dtype != torch.float64:
        raise ValueError(f"the reference takes float64 operands, got {a.dtype} and {b.dtype}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"operands of shapes {tuple(a.shape)} and {tuple(b.shape)} do not multiply"
        )
    (m, k), n = a.shape, b.shape[0]
    exact = torch.empty(m, n, dtype=torch.float64, device=a.device)
    bound = torch.empty(m, n, dtype=torch.float32, device=a.device)
    limits = []
    # q and kappa need few digits: fp32, with both operands brought near 1 so that squares neither
    # over- nor underflow.
    a_unit, b_unit = (_largest(x) for x in (a, b))
    b_sizes = _sizes(b, b_unit).T
    b_squares = b_sizes.square()
    for rows in row_slices(m, max(n, k)):
        torch.matmul(a[rows], b.T, out=exact[rows])
        a_sizes = _sizes(a[rows], a_unit)
        q = (a_sizes.square() @ b_squares).to(torch.float64).sqrt() * (a_unit * b_unit)
        kappa = _one_signedness(exact[rows], a_sizes @ b_sizes, a_unit * b_unit)
        bound[rows] = _element_bound(exact[rows], q, kappa, k, arithmetic).to(torch.float32)
        # Elements without a number add nothing to their tile's limit, nor to its error.
        variance = _element_variance(exact[rows], q, kappa, k, arithmetic)
        limits.append(tile_means(torch.nan_to_num(variance, nan=0.0, posinf=0.0)))
    counts = tile_counts(m, n, exact)
    sampling = 1 + DEVIATIONS * torch.sqrt(2 / counts)
    limit = TILE_MARGIN * torch.sqrt(torch.cat(limits) * sampling)
    return Reference(exact=exact, bound=bound, tile_rms_limit=limit)


def compare(out: torch.Tensor, reference: Reference) -> Accuracy:
    """Judge an output.

    Args:
        out: (M, N) bf16, fp16 or fp32 on the reference's device.
        reference: what :func:`gemm_reference` gave.
    Returns:
        ``ok`` when every element lies within its bound, every tile within its limit, and NaN and
        infinities stand exactly where the reference, rounded to the output's type, has them.
        ``reason`` names the first bad element or tile.
    Raises:
        ValueError: the shapes differ.
    """
    m, n = reference.exact.shape
    if tuple(out.shape) != (m, n):
        raise ValueError(f"output has shape {tuple(out.shape)}, the reference {(m, n)}")
    worst, error2, size2 = 0.0, 0.0, 0.0
    reason = ""
    for rows in row_slices(m, n):
        row = rows.start
        exact, bound = reference.exact[rows], reference.bound[rows]
        got = out[rows].to(torch.float64)
        error = (got - exact).abs()
        ratio = torch.where(error == 0, 0.0, error / bound)  # a bound may underflow to 0
        expected = exact.to(out.dtype).to(torch.float64)
        special = ~torch.isfinite(expected)
        ratio = torch.where(special, 0.0, torch.nan_to_num(ratio, nan=math.inf, posinf=math.inf))
        same = (got == expected) | (torch.isnan(got) & torch.isnan(expected))
        ratio = torch.where(special & ~same, math.inf, ratio)
        chunk_worst = float(ratio.amax())
        worst = max(worst, chunk_worst)
        if chunk_worst > 1 and not reason:
            index = int(torch.nonzero(ratio.flatten() > 1)[0])
            i, j = divmod(index, n)
            reason = (
                f"element ({row + i}, {j}) is {float(got[i, j]):.9g}, "
                f"reference {float(exact[i, j]):.9g}, bound {float(bound[i, j]):.3g}"
            )
        squares = torch.where(special, 0.0, error.square())
        error2 += float(squares.sum())
        size2 += float(torch.where(special, 0.0, exact.square()).sum())
        if not reason:
            reason = _first_bad_tile(squares, row, reference)
    relative = math.sqrt(error2 / size2) if size2 else math.sqrt(error2)
    return Accuracy(
        ok=not reason,
        max_error_over_bound=worst,
        relative_rms=math.inf if math.isnan(relative) else relative,
        reason=reason,
    )


def _first_bad_tile(squares: torch.Tensor, row: int, reference: Reference) -> str:
    """One line about the first tile whose root mean square error exceeds its limit, or ''."""
    rms = torch.sqrt(tile_means(squares))
    first = row // TILE
    limit = reference.tile_rms_limit[first : first + rms.shape[0]]
    bad = torch.nonzero(rms > limit)
    if not len(bad):
        return ""
    i, j = (int(x) for x in bad[0])
    return (
        f"tile of {TILE} x {TILE} at ({row + i * TILE}, {j * TILE}) has rms error "
        f"{float(rms[i, j]):.3g}, limit {float(limit[i, j]):.3g}"
    )
