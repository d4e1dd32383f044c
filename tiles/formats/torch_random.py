"""The random bits of stochastic rounding, drawn in torch on any device."""

import torch

from tiles.formats.rounding import PHILOX_MULTIPLIERS, PHILOX_ROUNDS, PHILOX_WEYL, check_seed

__all__ = ["random_bits"]

_LOW = 0xFFFFFFFF


def random_bits(first: int, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """The random bits of elements ``first`` to ``first + count - 1`` of a tensor.

    The same words as :func:`tiles.formats.rounding.random_bits`.  Words are computed in int64: of a
    product that wraps, both halves are still right, and they are masked out of it.

    Returns:
        (count,) int64, each in [0, 2**32): 16 random bits above 16 zeros.
    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
        TypeError: the seed is no integer.
    """
    check_seed(seed)
    counter = torch.arange(first // 8, (first + count + 7) // 8, dtype=torch.int64, device=device)
    a, b = counter & _LOW, counter >> 32
    c = d = torch.zeros_like(counter)
    key0, key1 = seed & _LOW, seed >> 32
    for _ in range(PHILOX_ROUNDS):
        product0, product1 = a * PHILOX_MULTIPLIERS[0], c * PHILOX_MULTIPLIERS[1]
        a, b, c, d = (
            ((product1 >> 32) & _LOW) ^ b ^ key0,
            product1 & _LOW,
            ((product0 >> 32) & _LOW) ^ d ^ key1,
            product0 & _LOW,
        )
        key0, key1 = (key0 + PHILOX_WEYL[0]) & _LOW, (key1 + PHILOX_WEYL[1]) & _LOW
    halves = [half for word in (a, b, c, d) for half in ((word << 16) & _LOW, word >> 16 << 16)]
    return torch.stack(halves, dim=-1).view(-1)[first % 8 : first % 8 + count]
