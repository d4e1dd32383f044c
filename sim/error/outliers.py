"""What of an activation matrix a recipe takes out of low precision, and what it leaves of it."""

import math

import numpy as np
from numpy.typing import NDArray

from sim.error.scales import block_grid
from tiles.formats import Scaling, TensorFormat
from tiles.formats.block_scales import block_amax
from tiles.recipes import OutlierBlocks, OutlierColumns

__all__ = ["fallback_amax", "kept_columns", "residual"]

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


def _scaling(fmt: TensorFormat) -> Scaling:
    if fmt.scaling is None:
        raise ValueError(f"{fmt} has no blocks, so no block of it can fall back")
    return fmt.scaling
