"""Keys of the random bits of training: one for every use, the same in every run."""

import numpy as np
import torch

__all__ = ["SeedStream", "derived"]

_MASK = 2**64 - 1
#: 2^64 over the golden ratio: the step of SplitMix64, whose finaliser ``derived`` is.
_STEP = 0x9E3779B97F4A7C15


def derived(seed: int, use: int) -> int:
    """The 64-bit key of the ``use``-th use of a seed; different uses have different keys.

    Source: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    mixed = (seed + (use + 1) * _STEP) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


class SeedStream:
    """Keys of Philox (see ``docs/conventions.md``, stochastic rounding), counted from a seed.

    Every forward pass of a layer draws one and keeps it for its backward pass, so gradients do not
    depend on the order in which autograd walks back.
    """

    def __init__(self, seed: int = 0, count: int = 0) -> None:
        """Begin at the ``count``-th key of a seed.

        Raises:
            ValueError: the seed is not a 64-bit unsigned integer, or the count negative.
        """
        if not 0 <= seed <= _MASK or count < 0:
            raise ValueError(
                f"seed {seed}, count {count}: a 64-bit unsigned integer and a count from 0 on"
            )
        self.seed = seed
        #: () int64 of the CPU.  Never written to: a compiled graph takes one and leaves another,
        #: and what it computes again in backward begins with what it began with.
        self.counter = _counter(count)

    @property
    def count(self) -> int:
        """Keys that were drawn."""
        return int(self.counter)

    @count.setter
    def count(self, count: int) -> None:
        self.counter = _counter(count)

    def draw(self) -> int:
        """The next key."""
        count = int(self.counter)
        self.counter = _counter(count + 1)
        return derived(self.seed, count)


def _counter(count: int) -> torch.Tensor:
    # A quarter of the time of ``torch.tensor``: every layer draws, in every step.
    return torch.from_numpy(np.array(count, dtype=np.int64))
