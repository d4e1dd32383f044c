"""What of an activation matrix a recipe takes out of low precision, and what it leaves of it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.error.rounding import Rounder
from sim.error.scales import block_grid
from sim.error.tensor import ErrorSums, TensorError
from tiles.formats import Scaling, TensorFormat, decode, encode
from tiles.formats.block_scales import block_amax
from tiles.recipes import OutlierBlocks, OutlierColumns

__all__ = ["OutlierError", "fallback_amax", "kept_columns", "outlier_error", "residual"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]


def kept_columns(a: F32, outliers: OutlierColumns) -> NDArray[np.bool_]:
    """(K,) True for the columns of (M, K) activations that stay in the wider format."""
    return np.asarray((np.abs(a) > outliers.threshold).any(axis=0))


def fallback_amax(a: F32, fmt: TensorFormat, outliers: OutlierBlocks) -> float:
    """The largest magnitude of a block that does not fall back.

    The share of blocks that do is rounded up; of blocks with equal magnitudes at the limit none
    does.

    Args:
        a: (M, K) the whole tensor.
        fmt: of the activations.
    Raises:
        ValueError: the format has no blocks.
    """
    amax = np.sort(block_amax(a, _scaling(fmt)), axis=None)
    most = math.ceil(outliers.share * amax.size)
    return float(amax[-most - 1]) if most < amax.size else 0.0


def residual(a: F32, rounded: Floats, fmt: TensorFormat, limit: float) -> F32:
    """What rounding leaves of the blocks that fall back, zero elsewhere.

    Args:
        a: (M, K) activations.
        rounded: (M, K) what their codes stand for.
        limit: of :func:`fallback_amax`.
    Raises:
        ValueError: the format has no blocks.
    """
    scaling = _scaling(fmt)
    chosen = (block_amax(a, scaling) > limit).astype(np.float64)
    wide = block_grid(chosen, scaling, 0, *a.shape)
    return np.where(wide > 0, a - rounded, 0.0).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierError:
    """What a format leaves of a tensor whose outliers are stored apart."""

    error: TensorError
    bits_per_element: float  #: codes and scales, with what the outliers take beside or instead


def outlier_error(
    a: F32,
    fmt: TensorFormat,
    outliers: OutlierColumns | OutlierBlocks,
    rounder: Rounder,
    seed: int = 0,
) -> OutlierError:
    """Error and storage of (M, K) activations, outliers counted in as they are stored.

    Args:
        fmt: of what is no outlier.
        seed: of stochastic rounding; what is quantised once more takes other bits.
    """
    rows, cols = a.shape
    if isinstance(outliers, OutlierColumns):
        kept = kept_columns(a, outliers)
        rounded = np.array(rounder(np.where(kept, np.float32(0), a), fmt, seed), np.float64)
        rounded[:, kept] = decode(encode(a[:, kept], outliers.kept), outliers.kept)
        wide = int(np.count_nonzero(kept))
        bits = float(rows * wide * outliers.kept.bits)
        if wide < cols:
            bits += 8 * fmt.storage_bytes(rows, cols - wide)
    else:
        limit = fallback_amax(a, fmt, outliers)
        rounded = np.array(rounder(a, fmt, seed), np.float64)
        rest = residual(a, rounded, fmt, limit)
        rounded += rounder(rest, fmt, (seed + 2) % 2**64)
        twice = float((block_amax(a, _scaling(fmt)) > limit).mean())
        bits = 8 * fmt.storage_bytes(rows, cols) * (1 + twice)
    sums = ErrorSums()
    # Scales with the outliers counted in are larger: what saturates under the others is missed,
    # and absmax scales, which is what such recipes have, let nothing saturate.
    sums.add(a, rounded, fmt)
    return OutlierError(error=sums.result(), bits_per_element=bits / a.size)


def _scaling(fmt: TensorFormat) -> Scaling:
    if fmt.scaling is None:
        raise ValueError(f"{fmt} has no blocks, so no block of it can fall back")
    return fmt.scaling
