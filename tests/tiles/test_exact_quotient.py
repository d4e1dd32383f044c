"""The quotient without a division an element is the IEEE one, for every scale that a rule makes.

The arithmetic of ``tile_scales.quotient`` in float64 with the rounding of fp32 put in by hand.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
#: Significands of bf16 and fp16 numbers in [1, 2).
SIGNIFICANDS = {
    "bf16": np.arange(128, 256, dtype=np.float32) / np.float32(128),
    "fp16": np.arange(1024, 2048, dtype=np.float32) / np.float32(1024),
}
LARGEST = (127.0, 448.0, 28.0, 7.5, 6.0, 7.0, 127 / 64)


def fused(a: F32, b: F32, c: F32) -> F32:
    """``a b + c`` rounded once to fp32: the float64 sum is rounded to odd on the way."""
    product = a.astype(np.float64) * b  # 48 bits: exact
    total = product + c
    virtual = total - product
    rest = (product - (total - virtual)) + (c - virtual)  # what the sum lost, exactly
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(rest > 0, np.inf, -np.inf))
    return np.where((rest != 0) & even, odd, total).astype(np.float32)


def quotient(x: F32, divisor: F32, corrections: int) -> F32:
    negative = (np.float32(-1) / divisor).astype(np.float32)
    negated = -x
    result = (negated * negative).astype(np.float32)
    for _ in range(corrections):
        result = fused(fused(result, divisor, negated), negative, result)
    return result


@pytest.mark.parametrize("source", SIGNIFICANDS)
@pytest.mark.parametrize("largest", LARGEST)
def test_one_correction_is_exact_for_short_significands(source: str, largest: float) -> None:
    """Every significand over every absmax scale: powers of two scale both alike."""
    every = SIGNIFICANDS[source]
    scales = np.unique((every / np.float32(largest)).astype(np.float32))
    x, divisor = (np.ravel(side) for side in np.broadcast_arrays(every[None, :], scales[:, None]))
    np.testing.assert_array_equal(quotient(x, divisor, 1), x / divisor)


@pytest.mark.parametrize("source", SIGNIFICANDS)
def test_one_correction_is_exact_for_scales_of_two_levels_and_of_16_bits(source: str) -> None:
    every = SIGNIFICANDS[source]
    outer = (every / np.float32(6 * 448)).astype(np.float32)
    blocks = np.arange(8, 16, dtype=np.float32) / np.float32(8)
    scales = np.concatenate([np.outer(outer, blocks).ravel(), *SIGNIFICANDS.values()])
    for part in np.array_split(np.unique(scales), 16):
        x, divisor = (np.ravel(s) for s in np.broadcast_arrays(every[None, :], part[:, None]))
        np.testing.assert_array_equal(quotient(x, divisor, 1), x / divisor)


def test_without_a_correction_the_quotient_would_be_wrong() -> None:
    x = SIGNIFICANDS["bf16"]
    divisor = np.full_like(x, np.float32(1.9140625) / np.float32(127))
    assert (quotient(x, divisor, 0) != x / divisor).any()


def test_two_corrections_are_exact_for_random_fp32_numbers() -> None:
    rng = np.random.default_rng(7)
    x, divisor = (rng.uniform(1, 2, 2**20).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(quotient(x, divisor, 2), x / divisor)


@pytest.mark.parametrize("largest", [127.0, 448.0, 57344.0, 28.0, 6.0, 7.0])
def test_an_amax_of_16_bits_is_divided_exactly_subnormals_included(largest: float) -> None:
    # What a compiler makes of the constant, by way of float64, is the fp32 reciprocal.
    assert np.float32(-1 / largest) == np.float32(-1) / np.float32(largest)
    bf16 = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)
    fp16 = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    for amax in (bf16, fp16):
        divisor = np.full_like(amax, largest)
        # fp32 subnormals: the hand-made rounding keeps to float64, whose cast rounds them once.
        np.testing.assert_array_equal(quotient(amax, divisor, 1), amax / divisor)


@pytest.mark.parametrize("source", SIGNIFICANDS)
def test_two_corrections_are_exact_for_scales_in_units_of_the_second_level(source: str) -> None:
    """A block's amax / 6, 24 bits of it, by the tensor's amax / 2688, of every two significands."""
    every = SIGNIFICANDS[source]
    outer = (every / np.float32(6 * 448)).astype(np.float32)
    scales = (every / np.float32(6)).astype(np.float32)
    x, divisor = (np.ravel(s) for s in np.broadcast_arrays(scales[None, :], outer[:, None]))
    np.testing.assert_array_equal(quotient(x, divisor, 2), x / divisor)
