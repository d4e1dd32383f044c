"""Rounding modes, and the random bits of the stochastic one."""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tiles.intake import shown

__all__ = ["Rounding", "check_seed", "philox", "random_bits"]

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]


class Rounding(Enum):
    """How a number between two codes becomes one of them; the value is its spelling in names."""

    NEAREST_EVEN = "rne"  #: the nearest, ties to the even code
    NEAREST_AWAY = "away"  #: the nearest, ties to the larger magnitude
    TOWARD_ZERO = "rtz"  #: the smaller magnitude
    STOCHASTIC = "sr"  #: up with the probability of the distance from below, to 16 bits


PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: U64, seed: int) -> U32:
    """Philox4x32-10 of a counter array; reference, any speed.

    Args:
        counter: (n,) the low 64 of the 128 counter bits; the high ones are zero.
        seed: 64-bit key.
    Returns:
        (n, 4) random words.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.4.
    """
    words = np.zeros((4, len(counter)), np.uint64)
    words[0], words[1] = counter & _LOW, counter >> np.uint64(32)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(PHILOX_ROUNDS):
        product0 = words[0] * np.uint64(PHILOX_MULTIPLIERS[0])
        product1 = words[2] * np.uint64(PHILOX_MULTIPLIERS[1])
        words = np.stack(
            [
                (product1 >> np.uint64(32)) ^ words[1] ^ np.uint64(key[0]),
                product1 & _LOW,
                (product0 >> np.uint64(32)) ^ words[3] ^ np.uint64(key[1]),
                product0 & _LOW,
            ]
        )
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, PHILOX_WEYL, strict=True)]
    return words.T.astype(np.uint32)


def check_seed(seed: object) -> None:
    """Refuse a key that Philox does not take.

    Raises:
        ValueError: an integer that is not one of 64 bits without sign.
        TypeError: no integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed {shown(seed)}: a 64-bit unsigned integer, write one")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed}: a 64-bit unsigned integer")


def random_bits(first: int, count: int, seed: int) -> U32:
    """The random bits of elements ``first`` to ``first + count - 1`` of a tensor.

    Element ``i`` of the flat, row-major tensor takes half ``i % 8`` of counter ``i // 8``, the
    lower 16 bits of a word first, so the bits do not depend on how the tensor is cut into tiles.
    They are the upper half of the element's word here; its lower half is zero.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
        TypeError: the seed is no integer.
    """
    check_seed(seed)
    words = philox(np.arange(first // 8, (first + count + 7) // 8, dtype=np.uint64), seed)
    halves = np.stack([words << 16, words & 0xFFFF0000], axis=-1).reshape(-1)
    return halves[first % 8 : first % 8 + count]
