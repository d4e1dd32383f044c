"""NumPy codes of random fp32 words, as digests: what a pool of processes computes.

Imports no torch: every process of the pool imports this module.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tiles.formats import Rounding, TensorFormat, code_dtype, encode, random_bits

__all__ = ["digest", "digests", "words"]

#: Words encoded at a time, so that NumPy's temporaries stay in a core's cache.
_SLICE = 1 << 15


def words(chunk: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Random fp32 bit patterns; chunk 0 begins with every bf16 number there is."""
    count = shape[0] * shape[1]
    drawn = np.random.default_rng(chunk).integers(0, 1 << 32, count, dtype=np.uint32)
    if chunk == 0:
        every = min(count, 1 << 16)
        drawn[:every] = np.arange(every, dtype=np.uint32) << 16
    return drawn.view(np.float32).reshape(shape)


def digest(codes: NDArray[np.generic]) -> str:
    """Of the bytes of codes."""
    return hashlib.blake2b(
        np.ascontiguousarray(codes).view(np.uint8).data, digest_size=16
    ).hexdigest()


def digests(chunk: int, shape: tuple[int, int], names: Iterable[str]) -> dict[str, str]:
    """Digest of the codes of a chunk's words in each unscaled format."""
    x = words(chunk, shape).reshape(-1)
    random = random_bits(0, x.size, 0)
    found = {}
    for name in names:
        fmt = TensorFormat.parse(name)
        codes = np.empty(x.size, code_dtype(fmt.element))
        stochastic = fmt.rounding is Rounding.STOCHASTIC
        for start in range(0, x.size, _SLICE):
            part = slice(start, start + _SLICE)
            codes[part] = encode(
                x[part], fmt.element, fmt.rounding, random=random[part] if stochastic else None
            )
        found[name] = digest(codes)
    return found
