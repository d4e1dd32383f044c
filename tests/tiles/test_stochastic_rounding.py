"""Stochastic rounding: the generator, the exact odds, the mean, and that tiles do not matter."""

from fractions import Fraction
from typing import Any

import gfloat
import numpy as np
import pytest
from exact_elements import FLOATS, Exact, all_exact, exact_table
from format_twins import gfloat_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import (
    CodebookElement,
    Rounding,
    TensorFormat,
    decode,
    dequantize,
    element,
    encode,
    philox,
    quantize,
    random_bits,
)

EXACT = all_exact()
MASK = 0xFFFFFFFF


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds on one counter of 128 bits, a word at a time.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k0, second & MASK, first >> 32 ^ d ^ k1, first & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return [a, b, c, d]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123, kat_vectors, philox4x32 10
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([MASK] * 4, [MASK] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_scalar_twin_has_the_published_answers(
    counter: list[int], key: list[int], words: str
) -> None:
    assert philox4x32(counter, key) == [int(word, 16) for word in words.split()]


def test_philox_equals_its_scalar_twin() -> None:
    rng = np.random.default_rng(0)
    counters = [0, 1, MASK, MASK + 1, 2**64 - 1, *rng.integers(0, 2**64, 40, dtype=np.uint64)]
    seeds = [0, 1, MASK, MASK + 1, 2**64 - 1, *(int(s) for s in rng.integers(0, 2**63, 5))]
    for seed in seeds:
        words = philox(np.array(counters, np.uint64), seed)
        for counter, row in zip(map(int, counters), words.tolist(), strict=True):
            twin = philox4x32([counter & MASK, counter >> 32, 0, 0], [seed & MASK, seed >> 32])
            assert row == twin
    np.testing.assert_array_equal(
        philox(np.zeros(1, np.uint64), 0), [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    )


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**64 - 1))
def test_random_bits_do_not_depend_on_where_a_slice_begins(
    base: int, skip: int, count: int, seed: int
) -> None:
    whole = random_bits(base, skip + count, seed)
    np.testing.assert_array_equal(random_bits(base + skip, count, seed), whole[skip:])


def test_element_i_takes_half_i_mod_8_of_counter_i_div_8() -> None:
    words = [philox4x32([i // 8, 0, 0, 0], [7, 0])[i % 8 // 2] for i in range(23)]
    halves = [word >> 16 if i % 2 else word & 0xFFFF for i, word in enumerate(words)]
    np.testing.assert_array_equal(random_bits(0, 23, 7), np.array(halves, np.uint32) << 16)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_of_more_than_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed {seed}: a 64-bit unsigned integer"):
        random_bits(0, 4, seed)
    with pytest.raises(ValueError, match=f"seed {seed}: a 64-bit unsigned integer"):
        quantize(np.ones((1, 1), np.float32), TensorFormat.parse("int8.row+sr"), seed=seed)


@pytest.mark.parametrize("seed", [1.5, "1", None, True])
def test_seeds_that_are_no_integers_are_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match=f"seed {seed!r}: a 64-bit unsigned integer"):
        quantize(np.ones((1, 1), np.float32), TensorFormat.parse("int8.row+sr"), seed=seed)
    np.testing.assert_array_equal(random_bits(0, 9, np.uint64(7)), random_bits(0, 9, 7))


def nf4() -> Exact:
    fmt = element("nf4")
    assert isinstance(fmt, CodebookElement)
    return exact_table("nf4", 4, fmt.values)


@pytest.mark.parametrize("name", [*EXACT, "nf4"])
def test_of_2_to_the_32_words_as_many_round_up_as_the_distance_says(name: str) -> None:
    """A word rounds up when it reaches 2**32 - floor(distance · 2**32): both sides are tried."""
    exact, fmt = EXACT.get(name) or nf4(), element(name)
    rng = np.random.default_rng(1)
    inner, outer, decoded = exact.encode, exact.ascending, exact.decoded().tolist()
    top = float(exact.max)
    x = np.concatenate([rng.uniform(-top, top, 40), rng.standard_normal(40) * top / 50])
    x = np.append(x, [min(v for v in outer if v > 0) * 2.0**-20]).astype(np.float32)
    for number in x.tolist():
        near_code = inner(number, "rtz")
        assert near_code is not None
        near = decoded[near_code] if number else 0.0
        place = outer.index(near)
        beyond = place + (1 if number > 0 else -1)
        if not 0 <= beyond < len(outer) or (number < 0 and exact.min == 0):
            far, odds = near, 0
        else:
            far = outer[beyond]
            distance = (Fraction(number) - Fraction(near)) / (Fraction(far) - Fraction(near))
            odds = max(0, int(distance * 2**32))
        first = 2**32 - odds
        words = [w for w in (0, first - 1, first, 2**32 - 1) if 0 <= w < 2**32]
        expected = [far if word >= first else near for word in words]
        points = np.full(len(words), number, np.float32)
        codes = encode(points, fmt, Rounding.STOCHASTIC, random=np.array(words, np.uint32))
        np.testing.assert_array_equal(decode(codes, fmt), expected, err_msg=f"{number!r}")


@pytest.mark.parametrize("name", FLOATS)
def test_random_words_round_as_in_gfloat(name: str) -> None:
    fmt, twin = element(name), gfloat_twin(name)
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(3000) * fmt.max / 4).astype(np.float32)
    x[1000:] *= np.exp2(rng.uniform(-20, 0, 2000)).astype(np.float32)
    if not fmt.signed:
        x = np.abs(x)
    words = rng.integers(0, 2**32, 3000, dtype=np.uint32)
    codes = encode(x, fmt, Rounding.STOCHASTIC, random=words)
    expected = gfloat.round_ndarray(
        twin,
        x.astype(np.float64),
        gfloat.RoundMode.StochasticFastest,
        sat=True,
        srbits=words,
        srnumbits=32,
    )
    np.testing.assert_array_equal(codes, gfloat.encode_ndarray(twin, expected))


def test_bf16_is_adding_16_random_bits_and_cutting() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(0, 0x7F000000, 100_000, dtype=np.uint32)
    random = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    codes = encode(words.view(np.float32), element("bf16"), Rounding.STOCHASTIC, random=random)
    np.testing.assert_array_equal(codes, (words + (random >> 16)) >> 16)


@pytest.mark.parametrize("name", [*EXACT, "nf4"])
def test_values_and_specials_stay_whatever_the_words(name: str) -> None:
    fmt, exact = element(name), EXACT.get(name) or nf4()
    values = np.array(exact.ascending, np.float32)
    for word in (0, 1, 2**32 - 1):
        random = np.full(len(values), word, np.uint32)
        rounded = decode(encode(values, fmt, Rounding.STOCHASTIC, random=random), fmt)
        np.testing.assert_array_equal(rounded, values)
        ends = np.array([np.inf, -np.inf, np.nan, 0], np.float32)
        codes = encode(ends, fmt, Rounding.STOCHASTIC, random=random[:1].repeat(4))
        np.testing.assert_array_equal(codes, encode(ends, fmt))


@pytest.mark.parametrize(
    "name", ["bf16", "fp16", "e4m3fn", "e5m2", "e2m1fn", "int8", "int4", "mxint8", "nf4", "tf32"]
)
def test_the_mean_is_the_number(name: str) -> None:
    """|z| < 5, which chance breaks once in 1.7 million checks; the seed is fixed."""
    fmt, count = element(name), 20_000
    rng = np.random.default_rng(4)
    for number in (rng.uniform(-1, 1, 8) * min(fmt.max, 1e4)).astype(np.float32).tolist():
        x = np.full(count, number, np.float32)
        codes = encode(x, fmt, Rounding.STOCHASTIC, random=random_bits(0, count, seed=5))
        rounded = decode(codes, fmt).astype(np.float64)
        low, high = rounded.min(), rounded.max()
        assert low <= number <= high
        deviation = np.sqrt((number - low) * (high - number) / count)
        assert abs(rounded.mean() - number) <= 5 * deviation
        assert len(np.unique(rounded)) <= 2


def test_words_of_one_seed_are_spread_evenly() -> None:
    """Chi-square of 256 bins in both bytes, and of neighbours' low bits; |z| < 5."""
    halves = random_bits(0, 1 << 16, seed=6) >> 16
    for shift in (0, 8):
        counts = np.bincount(halves >> np.uint32(shift) & np.uint32(255), minlength=256)
        chi_square = ((counts - 256) ** 2 / 256).sum()
        assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)
    pairs = np.bincount((halves[1:] & 1) * 2 + (halves[:-1] & 1), minlength=4)
    assert np.abs(pairs - 2**14).max() < 5 * np.sqrt(2**16 * 3 / 16)


@pytest.mark.parametrize("text", ["int8.row+sr", "e2m1fn.mx+rceil+sr", "bf16+sr", "nf4.g64+sr"])
def test_a_matrix_takes_its_words_by_flat_index_of_whatever_tile(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = np.random.default_rng(7).standard_normal((6, 131), np.float32)
    q = quantize(x, fmt, seed=8)
    scales = q.scales
    if fmt.scaling is not None:
        scales = scales.repeat(fmt.scaling.cols or 131, axis=1)[:, :131]
    ratio = np.broadcast_to(x / scales, x.shape)
    for i, row in enumerate(ratio):
        for start in range(0, 131, 17):
            tile = row[start : start + 17]
            random = random_bits(i * 131 + start, len(tile), 8)
            codes = encode(tile, fmt.element, Rounding.STOCHASTIC, random=random)
            np.testing.assert_array_equal(q.codes[i, start : start + 17], codes)


def test_seeds_matter_to_stochastic_rounding_alone() -> None:
    x = np.random.default_rng(9).standard_normal((8, 64), np.float32)
    for text, matters in (("int8.row+sr", True), ("int8.row", False), ("int8.row+rtz", False)):
        fmt = TensorFormat.parse(text)
        first, second = (quantize(x, fmt, seed=seed) for seed in (1, 2))
        assert (first.codes != second.codes).any() == matters
        np.testing.assert_array_equal(first.scales, second.scales)
        again = quantize(x, fmt, seed=1)
        np.testing.assert_array_equal(dequantize(again), dequantize(first))


def test_zero_points_are_added_after_rounding() -> None:
    fmt = TensorFormat.parse("uint4.row+sr")
    x = np.random.default_rng(10).uniform(-1, 3, (40, 50)).astype(np.float32)
    q = quantize(x, fmt, seed=11)
    assert q.zero_points is not None
    error = dequantize(q) - x
    assert np.abs(error).max() < q.scales.max() * (1 + 1e-5)
    assert abs(error.mean()) < 5 * q.scales.max() / 2 / np.sqrt(x.size)
