"""What accumulators that run on over units along K may be wrong by, beside other roundings.

``gemm_hopper_blocks.cu`` with RUN > 1 reads integer sums that start at 1.5 x 2^23 as floats X and
adds ``(s_j - s_next) X_j``, next the set's next unit and s the product of both scales.  With
u = 2^-24, |X| <= 2^24, and one or two sets, every error is one of a unit's:

* its difference, rounded, times X: ``u |s_j - s_next| 2^24 <= s_j + s_next``;
* the multiply-add, whose result holds ``2^24 s`` at most of each set's current unit beside the
  sum itself: the sum of two scales, and each stands there for as many units as there are sets;
* at a start, the sum of the sets' first scales f and its product with 1.5 x 2^23: 0.75 f each.

Over all units that is at most (2 + 2 + 1.5) S, S the sum of s.  As independent roundings, uniform
up to half an ulp, with X about 1.5 x 2^23: variances of 0.38, 1.33 and at most 0.75 times the sum
of s^2.  What the sum itself adds is in :mod:`tiles.kernels.accuracy`.  Blocks of zeros whose scale
is 1 count as blocks of scale 0, in the kernel and here.
"""

from dataclasses import replace

import torch

from tiles.kernels.accuracy import TILE_MARGIN, Reference
from tiles.kernels.output_tiles import row_slices, tile_means

__all__ = ["RUN_ERROR", "RUN_RMS", "allow_runs", "scales_that_count"]

#: Largest error in sums of the scales' products, and its root mean square in the root of their
#: squares' sum.
RUN_ERROR = 5.5
RUN_RMS = 1.57


def scales_that_count(codes: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    """Of every row its scales along K, (rows, units) float64; 0 for blocks of zeros of scale 1.

    Args:
        codes: (rows, K) integers.
        scales: (ceil(rows / block), units), units = ceil(K / block).
    """
    rows, k = codes.shape
    padded = torch.nn.functional.pad(codes != 0, (0, -k % block, 0, -rows % block))
    blocks = padded.view(scales.shape[0], block, scales.shape[1], block)
    kept = blocks.any(dim=3).any(dim=1) | (scales != 1)
    grid = torch.where(kept, scales.to(torch.float64), 0.0)
    return grid.repeat_interleave(block, 0)[:rows]


def allow_runs(
    reference: Reference, a_scale: torch.Tensor, b_scale: torch.Tensor, epsilon: float
) -> Reference:
    """A reference whose limits allow for runs.

    Args:
        reference: of the same product with sums that are converted.
        a_scale: (M, units) float64, those of each row that count.
        b_scale: (N, units) float64.
        epsilon: of the output's format.
    """
    bound, limits = reference.bound.clone(), []
    for rows in row_slices(*reference.exact.shape):
        size = a_scale[rows].abs() @ b_scale.abs().T
        bound[rows] += ((RUN_ERROR * (1 + epsilon)) * size).to(torch.float32)
        squares = a_scale[rows].square() @ b_scale.square().T
        # Elements without a number add nothing to their tile's limit.
        limits.append(tile_means(torch.nan_to_num(squares, nan=0.0, posinf=0.0)))
    limit = reference.tile_rms_limit.square() + (TILE_MARGIN * RUN_RMS) ** 2 * torch.cat(limits)
    return replace(reference, bound=bound, tile_rms_limit=limit.sqrt())
