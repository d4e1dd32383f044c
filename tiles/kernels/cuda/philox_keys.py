"""Round keys of Philox4x32-10, as kernels take them by value (``RoundKeys`` of the sources)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["KEYS", "is_narrow", "matrix_keys", "narrow_keys", "round_keys"]

#: NumPy's type of ``RoundKeys``.
KEYS = np.dtype((np.uint32, (20,)))
#: Elements whose counters, of eight each, have 32 bits.
MAX_NARROW = 2**35
_WEYL = (0x9E3779B9, 0xBB67AE85)
#: What Philox multiplies a counter's lower word by.
_FIRST = 0xD2511F53


def round_keys(seed: int) -> Any:
    """The ten keys of a 64-bit seed, low words at even places: (20,) uint32.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed}: a 64-bit unsigned integer")
    halves = (seed & 0xFFFFFFFF, seed >> 32)
    keys = [(halves[k % 2] + k // 2 * _WEYL[k % 2]) & 0xFFFFFFFF for k in range(20)]
    return np.array(keys, np.uint32)


def narrow_keys(seed: int) -> Any:
    """The same for counters of 32 bits alone: what no counter changes is in words 3 and 5.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
    """
    keys = round_keys(seed)
    low, high = ((int(keys[0]) * _FIRST >> shift) & 0xFFFFFFFF for shift in (0, 32))
    keys[3] ^= np.uint32(high)
    keys[5] ^= np.uint32(low)
    return keys


def is_narrow(shape: tuple[int, int]) -> bool:
    """Whether the counters of a matrix's elements have 32 bits."""
    return shape[0] * shape[1] <= MAX_NARROW


def matrix_keys(seed: int, shape: tuple[int, int]) -> Any:
    """The keys that a kernel with ``NARROW`` as :func:`is_narrow` says takes for a matrix.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
    """
    return narrow_keys(seed) if is_narrow(shape) else round_keys(seed)
