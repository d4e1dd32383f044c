"""Encoding single numbers: ties, neighbours, overflow and specials, in every rounding.

Each format of up to 10 bits meets every value, every midpoint, their fp32 neighbours and the ends
of the range, of both signs: 352 566 cases of 48 formats, a case being a number, a rounding and an
overflow mode.  Five formats of 14 to 16 bits meet other libraries in 5 573 436 cases.
"""

from functools import cache
from typing import Any

import gfloat
import gfloat.formats
import numpy as np
import pytest
from exact_elements import (
    FLOATS,
    WIDE_FLOATS,
    Exact,
    all_exact,
    exact_float,
    exact_posit,
    exact_table,
    telling_points,
)
from format_twins import ML_DTYPES, gfloat_twin

from tiles.formats import (
    CodebookElement,
    ElementFormat,
    FloatElement,
    PositElement,
    Rounding,
    Specials,
    code_dtype,
    decode,
    element,
    encode,
    scale_element,
)

ROUNDINGS = [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO]
GFLOAT_ROUNDINGS = {
    Rounding.NEAREST_EVEN: gfloat.RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: gfloat.RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: gfloat.RoundMode.TowardZero,
}
by_rounding = pytest.mark.parametrize("rounding", ROUNDINGS, ids=lambda r: r.value)


def nf4() -> CodebookElement:
    fmt = element("nf4")
    assert isinstance(fmt, CodebookElement)
    return fmt


EXACT = all_exact() | {"nf4": exact_table("nf4", 4, nf4().values)}


@cache
def points(name: str) -> np.ndarray:
    return telling_points(EXACT[name])


def overflow_modes(fmt: ElementFormat) -> tuple[bool, ...]:
    """Whether to saturate; formats without infinity and NaN always do."""
    free = isinstance(fmt, FloatElement) and fmt.nan_code is not None
    return (True, False) if free else (True,)


def assert_codes(x: np.ndarray, codes: np.ndarray, exact: Exact, rounding: str, sat: bool) -> None:
    for number, code in zip(x.tolist(), codes.tolist(), strict=True):
        expected = exact.encode(number, rounding, saturate=sat)
        right = code in exact.nans if expected is None else code == expected
        assert right, f"{exact.name}: {number!r} ({rounding}, saturate={sat}): {code} {expected}"


@by_rounding
@pytest.mark.parametrize("name", EXACT)
def test_numbers_round_as_in_exact_rationals(name: str, rounding: Rounding) -> None:
    fmt, x = element(name), points(name)
    for saturate in overflow_modes(fmt):
        codes = encode(x, fmt, rounding, saturate=saturate)
        assert_codes(x, codes, EXACT[name], rounding.value, saturate)


@by_rounding
def test_records_that_no_name_spells_round_as_in_exact_rationals(rounding: Rounding) -> None:
    for last in ("ieee", "fn"):
        exact = exact_float("unsigned", 0, 3, 3, 3, last)
        fmt = FloatElement(
            name="unsigned", bits=6, precision=4, bias=3, specials=Specials(last), signed=False
        )
        x = telling_points(exact)
        for saturate in (True, False):
            codes = encode(x, fmt, rounding, saturate=saturate)
            assert_codes(x, codes, exact, rounding.value, saturate)
    for bits, es in ((3, 0), (5, 1), (7, 3), (10, 2)):
        posit, x = exact_posit("posit", bits, es), telling_points(exact_posit("posit", bits, es))
        codes = encode(x, PositElement(name="posit", bits=bits, es=es), rounding)
        assert_codes(x, codes, posit, rounding.value, True)
    table = (-6.0, -1.5, -1.0, 0.0, 0.375, 1.0, 2.0, 3.0)
    exact = exact_table("table", 3, table)
    fmt = CodebookElement(name="table", bits=3, values=table)
    x = telling_points(exact)
    assert_codes(x, encode(x, fmt, rounding), exact, rounding.value, True)


@by_rounding
def test_integers_of_16_bits_round_as_rationals_do(rounding: Rounding) -> None:
    whole = np.arange(-70_000, 70_000, dtype=np.float32)
    x = np.concatenate([whole, whole + np.float32(0.5)])
    rounded = {"rne": np.rint(x), "rtz": np.trunc(x)}.get(
        rounding.value, np.copysign(np.floor(np.abs(x) + 0.5), x)
    )
    for name, low, high in (("int16", -32767, 32767), ("uint16", 0, 65535)):
        fmt = element(name)
        np.testing.assert_array_equal(
            decode(encode(x, fmt, rounding), fmt), np.clip(rounded, low, high)
        )


def test_posits_of_16_bits_round_trip() -> None:
    fmt = element("posit16es2")
    codes = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(encode(decode(codes, fmt), fmt), codes)


@cache
def wide_points(name: str) -> np.ndarray:
    """As ``telling_points``, in arrays: every value and every midpoint of a 16-bit format.

    Negative is only every eighth: signs are gone through with the smaller formats.
    """
    fmt = element(name)
    codes = np.arange(1 << fmt.bits, dtype=np.uint16)
    values = decode(codes, fmt).astype(np.float64)
    values = np.sort(values[np.isfinite(values) & (values >= 0)])
    step = values[-1] - values[-2]
    ends = [values[-1] + step / 2, values[-1] + step, 2.0**-149, 2.0**-126, 2.0**127]
    near = np.concatenate([values, (values[1:] + values[:-1]) / 2, ends])
    with np.errstate(over="ignore"):
        x = near.astype(np.float32)
        x = np.concatenate([x, *(np.nextafter(x, np.float32(to)) for to in (np.inf, 0))])
    return np.concatenate([x, -x[::8], np.array([np.inf, -np.inf, -0.0], np.float32)])


@by_rounding
@pytest.mark.parametrize("name", [*FLOATS, *WIDE_FLOATS])
def test_floats_round_as_in_gfloat(name: str, rounding: Rounding) -> None:
    fmt, twin = element(name), gfloat_twin(name)
    x = points(name) if name in FLOATS else wide_points(name)
    if not twin.is_signed:
        x = x[~np.signbit(x)]  # gfloat leaves open what becomes of negative numbers
    for saturate in overflow_modes(fmt):
        codes = encode(x, fmt, rounding, saturate=saturate)
        mode = GFLOAT_ROUNDINGS[rounding]
        expected = gfloat.round_ndarray(twin, x.astype(np.float64), mode, sat=saturate)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(codes[number], gfloat.encode_ndarray(twin, expected[number]))
        assert np.isnan(decode(codes, fmt)[~number]).all()


@by_rounding
def test_mxint8_rounds_as_in_gfloat_but_for_minus_2(rounding: Rounding) -> None:
    x = points("mxint8")
    twin, top = gfloat.formats.format_info_ocp_int8, 127 / 64
    mode = GFLOAT_ROUNDINGS[rounding]
    # gfloat makes use of the code of -2.
    expected = gfloat.round_ndarray(twin, np.clip(x.astype(np.float64), -top, top), mode, sat=True)
    np.testing.assert_array_equal(
        decode(encode(x, element("mxint8"), rounding), element("mxint8")), expected
    )


@pytest.mark.parametrize("name", ["fp16", "bf16", *(name for name in FLOATS if name in ML_DTYPES)])
def test_nearest_even_is_that_of_ml_dtypes(name: str) -> None:
    fmt, dtype = element(name), ML_DTYPES[name]
    x = points(name) if name in FLOATS else wide_points(name)
    for saturate in overflow_modes(fmt):
        # ml_dtypes knows no saturation for formats that have infinity or NaN.
        top = np.float32(fmt.max)
        source = np.clip(x, -top, top) if saturate else x
        with np.errstate(over="ignore"):
            expected = source.astype(dtype)
        codes = encode(x, fmt, saturate=saturate)
        expected_codes = expected.view(code_dtype(fmt))
        number = ~np.isnan(expected.astype(np.float32))
        np.testing.assert_array_equal(codes[number], expected_codes[number])
        assert np.isnan(decode(codes, fmt)[~number]).all()


def test_tf32_rounds_the_last_13_bits_of_fp32_away() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 0x7F800000, 200_000, dtype=np.uint32)
    words[:100_000] = (words[:100_000] & 0xFFFFE000) + rng.choice(
        [0, 0xFFF, 0x1000, 0x1001], 100_000
    ).astype(np.uint32)
    half_less_one = np.uint32(0xFFF)
    expected = {
        Rounding.NEAREST_EVEN: (words + half_less_one + ((words >> 13) & 1)) >> 13,
        Rounding.NEAREST_AWAY: (words + half_less_one + 1) >> 13,
        Rounding.TOWARD_ZERO: words >> 13,
    }
    for rounding, codes in expected.items():
        x = words.view(np.float32)
        actual = encode(x, element("tf32"), rounding, saturate=False)
        np.testing.assert_array_equal(actual, codes)
        np.testing.assert_array_equal(
            encode(-x, element("tf32"), rounding, saturate=False), codes | 1 << 18
        )


HAND = [
    # OCP MX v1.0 asks for ties to even; values in the order of the codes 0 .5 1 1.5 2 3 4 6.
    *(
        ("e2m1fn", x, y)
        for x, y in zip((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5), (0, 1, 1, 2, 2, 4, 4), strict=True)
    ),
    ("e2m1fn", 5.0000005, 6),
    ("e2m1fn", -0.25, -0.0),
    ("e4m3fn", 400, 384),  # microxcaling's half away gives 416
    ("e4m3fn", 464, 448),
    ("e4m3fn", 465, 448),
    ("e4m3fn", 500, 448),
    ("e5m2", 58000, 57344),
    ("e5m2", 61440, 57344),
    ("e5m2", 1e30, 57344),
    ("e3m4fn", 31, 30),
    ("e3m4", 31, 15.5),
    # arXiv 2206.02915: no minus zero.
    ("e4m3fnuz", -(2.0**-12), 0.0),
    ("e4m3fnuz", 248, 240),
    # Half of 9-bit posits: 2^17 lies between 2^16 and 2^18, not their mean (Posit Standard, 4.1).
    ("posit8es2", 131072, 65536),
    ("posit8es2", 131073, 262144),
    ("posit8es2", 144179.2, 262144),
    ("posit8es2", 1e30, 2.0**24),
    ("posit8es2", -1e-30, -(2.0**-24)),
    ("posit8es1", 2.0**11, 2.0**10),
    ("posit8es1", 2.0**11 + 1, 2.0**12),
    ("int8", 2.5, 2),
    ("int8", -126.5, -126),
    ("int8", -127.5, -127),
    ("int8", -1000, -127),
    ("int4", -8, -7),
    ("uint4", 15.5, 15),
    ("uint4", -3, 0),
    ("mxint8", -2, -1.984375),
    ("mxint8", 1 / 128, 0),
    ("mxint8", 3 / 128, 2 / 64),
]


@pytest.mark.parametrize(("name", "number", "expected"), HAND)
def test_known_numbers_round_to_nearest_even_as_their_sources_say(
    name: str, number: float, expected: float
) -> None:
    actual = decode(encode(np.array([number], np.float32), element(name)), element(name))[0]
    assert (actual, np.signbit(actual)) == (expected, np.signbit(np.float64(expected)))


def test_overflow_without_saturation_as_ofp8_has_it() -> None:
    x = np.array([464, 465, np.inf, -np.inf, -500], np.float32)
    e4m3fn = encode(x, element("e4m3fn"), saturate=False)
    np.testing.assert_array_equal(e4m3fn, [0x7E, 0x7F, 0x7F, 0x7F, 0x7F])
    x = np.array([61439, 61440, np.inf, -np.inf, -70000], np.float32)
    e5m2 = encode(x, element("e5m2"), saturate=False)
    np.testing.assert_array_equal(e5m2, [0x7B, 0x7C, 0x7C, 0xFC, 0xFC])
    # IEEE 754-2019, section 7.4: rounding toward zero never makes an infinity of a number.
    e5m2 = encode(x, element("e5m2"), Rounding.TOWARD_ZERO, saturate=False)
    np.testing.assert_array_equal(e5m2, [0x7B, 0x7B, 0x7C, 0xFC, 0xFB])


def test_e4m3_of_400_half_away() -> None:
    x = np.array([400, -400], np.float32)
    codes = encode(x, element("e4m3fn"), Rounding.NEAREST_AWAY)
    np.testing.assert_array_equal(decode(codes, element("e4m3fn")), [416, -416])


def test_codes_take_the_smallest_unsigned_integers_and_the_shape_of_the_numbers() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    for name, dtype in (
        ("int4", "u1"),
        ("e4m5", "u2"),
        ("bf16", "u2"),
        ("tf32", "u4"),
        ("fp32", "u4"),
    ):
        codes = encode(x, element(name))
        assert (codes.dtype, codes.shape) == (np.dtype(dtype), x.shape)
        assert decode(codes, element(name)).dtype == np.float32


def test_what_cannot_be_encoded_is_refused() -> None:
    x = np.zeros(3, np.float32)
    with pytest.raises(TypeError, match="encode takes float32, got float64: cast it first"):
        encode(x.astype(np.float64), element("int8"))
    with pytest.raises(ValueError, match="stochastic rounding, and it alone, takes random bits"):
        encode(x, element("int8"), Rounding.STOCHASTIC)
    with pytest.raises(ValueError, match="stochastic rounding, and it alone, takes random bits"):
        encode(x, element("int8"), random=np.zeros(3, np.uint32))
    for name in ("int8", "e2m1fn", "posit8es1", "nf4", "ffp8_e4m3"):
        with pytest.raises(ValueError, match=f"{name} has no code for what lies beyond its range"):
            encode(x, element(name), saturate=False)


def test_what_is_no_number_format_or_rounding_is_refused_by_name() -> None:
    free: Any = encode
    x, words = np.zeros(3, np.float32), np.zeros(3, np.uint32)
    with pytest.raises(TypeError, match="encode takes a float32 array, got list: make it one"):
        free([1.0, 2.0], element("int8"))
    with pytest.raises(TypeError, match=r"an element format, got 'e4m3fn': look it up with elem"):
        free(x, "e4m3fn")
    with pytest.raises(TypeError, match="encode takes no scale format such as e8m0fnu"):
        free(x, scale_element("e8m0fnu"))
    with pytest.raises(TypeError, match="encode takes a Rounding, got 'rne': make it one"):
        free(x, element("int8"), "rne")
    with pytest.raises(TypeError, match="random bits are uint32, got float64: draw them with"):
        free(x, element("int8"), Rounding.STOCHASTIC, random=words / 2)
    with pytest.raises(ValueError, match=r"shape \(2,\) beside numbers of shape \(3,\)"):
        encode(x, element("int8"), Rounding.STOCHASTIC, random=words[:2])
    for number in (np.float32(3), np.full((), 3, np.float32)):
        assert encode(number, element("e4m3fn")) == 0x44


def test_codes_that_a_format_does_not_have_are_refused() -> None:
    free: Any = decode
    with pytest.raises(ValueError, match="code 0x1f at place 2: e2m1fn has 4 bits, codes up to"):
        decode(np.array([0, 15, 31], np.uint8), element("e2m1fn"))
    for name in ("e4m3fn", "posit8es1", "int8", "bf16", "tf32", "fp32"):
        fmt = element(name)
        codes = np.array([[0, (1 << fmt.bits) - 1]], np.uint64)
        assert decode(codes, fmt).shape == (1, 2)
        with pytest.raises(ValueError, match=f"at place 1: {name} has {fmt.bits} bits"):
            decode(codes + np.uint64(1), fmt)
    with pytest.raises(ValueError, match="code 0x12c at place 0: e8m0fnu has 8 bits"):
        decode(np.array([300], np.uint16), scale_element("e8m0fnu"))
    for codes in (np.array([-1]), np.array([1.5]), np.array([True]), np.array([1], np.int8)):
        with pytest.raises(TypeError, match=f"in unsigned integers, got {codes.dtype}: view them"):
            free(codes, element("bf16"))
    with pytest.raises(TypeError, match="decode takes an array of codes, got list: make it one"):
        free([1], element("int8"))
    with pytest.raises(TypeError, match="decode takes an element format, got 'int8'"):
        free(np.zeros(1, np.uint8), "int8")


def test_numbers_that_were_gone_through() -> None:
    modes = {name: len(overflow_modes(element(name))) for name in EXACT}
    exact = sum(3 * modes[name] * len(points(name)) for name in EXACT)
    wide = sum(3 * 2 * len(wide_points(name)) for name in WIDE_FLOATS)
    assert (len(EXACT), exact, len(WIDE_FLOATS), wide) == (48, 352_566, 5, 5_573_436)
