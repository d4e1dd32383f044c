"""Random bits of stochastic rounding, drawn in registers: Philox4x32-10 by an element's index.

Element ``i`` of the flat, row-major matrix takes half ``i % 8`` of counter ``i // 8`` under a
64-bit key, the lower 16 bits of a word first: the bits do not depend on tiles, threads or launches,
nothing is read from memory.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.4.
"""

import triton
import triton.language as tl

__all__ = ["WIDE_PRODUCT", "random_tile", "seed_words"]

#: The upper ($0) and the lower half ($1) of a product.
WIDE_PRODUCT = tl.constexpr("{.reg .b64 p; mul.wide.u32 p, $2, $3; mov.b64 {$1, $0}, p;}")

_MULTIPLIER_0 = tl.constexpr(0xD2511F53)
_MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
_WEYL_0 = tl.constexpr(0x9E3779B9)
_WEYL_1 = tl.constexpr(0xBB67AE85)


def seed_words(seed: int) -> tuple[int, int]:
    """Both halves of a 64-bit seed as the signed 32-bit integers that a kernel takes.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed}: a 64-bit unsigned integer")
    low, high = (half - (half >> 31 << 32) for half in (seed & 0xFFFFFFFF, seed >> 32))
    return low, high


@triton.jit
def _product(a, FACTOR: tl.constexpr, ASSEMBLY: tl.constexpr):
    """Upper and lower half of ``a x FACTOR``, uint32."""
    if ASSEMBLY:
        # Triton cuts a 64-bit product into two multiplications, and one instruction gives both.
        high, low = tl.inline_asm_elementwise(
            WIDE_PRODUCT, "=r,=r,r,r", [a, tl.full(a.shape, FACTOR, tl.uint32)],
            dtype=(tl.uint32, tl.uint32), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        product = a.to(tl.uint64) * FACTOR
        high, low = (product >> 32).to(tl.uint32), product.to(tl.uint32)
    return high, low


@triton.jit
def _philox(counter, seed_low, seed_high, ASSEMBLY: tl.constexpr):
    """The four words of each 64-bit counter, uint32."""
    a = counter.to(tl.uint32)
    b = (counter >> 32).to(tl.uint32)
    c = tl.zeros(counter.shape, tl.uint32)
    d = tl.zeros(counter.shape, tl.uint32)
    key_0 = seed_low.to(tl.uint32, bitcast=True)
    key_1 = seed_high.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(10):
        high_0, low_0 = _product(a, _MULTIPLIER_0, ASSEMBLY)
        high_1, low_1 = _product(c, _MULTIPLIER_1, ASSEMBLY)
        a = high_1 ^ b ^ key_0
        b = low_1
        c = high_0 ^ d ^ key_1
        d = low_0
        key_0 += _WEYL_0
        key_1 += _WEYL_1
    return a, b, c, d


@triton.jit
def random_tile(
    first_row, first_col, cols, seed_low, seed_high,
    ROWS: tl.constexpr, COLS: tl.constexpr, GROUPED: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """16 random bits of each element of a tile of a matrix with ``cols`` columns, as uint32.

    GROUPED: ``cols`` and ``first_col`` are multiples of 8, so that the four words of a counter
    belong to eight neighbours; otherwise every element computes its counter and keeps one half.
    ASSEMBLY: with PTX, which Triton's interpreter does not run.
    """
    row = first_row + tl.arange(0, ROWS).to(tl.int64)[:, None]
    if GROUPED:
        group = first_col // 8 + tl.arange(0, COLS // 8)[None, :]
        a, b, c, d = _philox(
            (row * (cols // 8) + group).to(tl.uint64), seed_low, seed_high, ASSEMBLY
        )
        words = tl.join(tl.join(a, c), tl.join(b, d))
        halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (ROWS, COLS))
    else:
        flat = row * cols + (first_col + tl.arange(0, COLS))[None, :]
        a, b, c, d = _philox((flat >> 3).to(tl.uint64), seed_low, seed_high, ASSEMBLY)
        low = tl.where((flat & 2) == 0, a, b)
        high = tl.where((flat & 2) == 0, c, d)
        word = tl.where((flat & 4) == 0, low, high)
        halves = tl.where((flat & 1) == 0, word & 0xFFFF, word >> 16)
    return halves
