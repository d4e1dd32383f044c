"""Laws of every format: round trips, order, signs, and quantising twice.

Round trips are exhaustive: every code that encoding makes use of, of 45 formats, and all of tf32.
Quantising twice changes nothing under scales that are powers of two, nor under absmax.  It does not
hold for asymmetric formats, whose zero point may leave the first or the last code without use.
"""

import numpy as np
import pytest
from exact_elements import FLOATS, INTEGERS, POSITS, WIDE_FLOATS
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import (
    ELEMENTS,
    CodebookElement,
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Rounding,
    TensorFormat,
    code_dtype,
    code_grid,
    decode,
    dequantize,
    element,
    encode,
    quantize,
)
from tiles.formats.grid import MAX_BITS

NAMES = sorted({*ELEMENTS, *FLOATS, *WIDE_FLOATS, *INTEGERS, *POSITS})
NEAREST = [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY]


def draw(seed: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 numbers: any finite bits, many binades, or few of them with many ties."""
    rng = np.random.default_rng(seed)
    if kind == "bits":
        x = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
        return np.where(np.isfinite(x), x, np.float32(0))
    if kind == "binades":
        x = rng.standard_normal(shape) * np.exp2(rng.uniform(-25, 12, shape))
    else:
        x = rng.integers(-1024, 1025, shape) * 2.0 ** rng.integers(-12, 4)
    return x.astype(np.float32)


def drawn(*shape: int, kinds: tuple[str, ...]) -> st.SearchStrategy[np.ndarray]:
    # A seed an example: drawing every number by itself takes most of the time.
    seeds = st.integers(0, 2**32 - 1)
    return st.builds(draw, seeds, st.sampled_from(kinds), st.just(shape))


numbers = drawn(400, kinds=("bits", "binades", "ties"))
moderate = drawn(400, kinds=("binades", "ties"))
matrices = drawn(4, 21, kinds=("binades", "ties"))
any_element = st.sampled_from([element(name) for name in NAMES])
any_rounding = st.sampled_from([r for r in Rounding if r is not Rounding.STOCHASTIC])


def rounded(x: np.ndarray, fmt: ElementFormat, rounding: Rounding, word: int = 0) -> np.ndarray:
    random = None
    if rounding is Rounding.STOCHASTIC:
        random = np.full(x.shape, word, np.uint32)
    return decode(encode(x, fmt, rounding, random=random), fmt)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fp32"])
def test_every_code_in_use_comes_back(name: str) -> None:
    fmt = element(name)
    codes = np.arange(1 << fmt.bits, dtype=code_dtype(fmt))
    values = decode(codes, fmt)
    used = ~np.isnan(values)
    if isinstance(fmt, IntElement) and fmt.signed:
        used &= values >= -fmt.max
    free = isinstance(fmt, FloatElement) and fmt.nan_code is not None
    for rounding in Rounding:
        random = None
        if rounding is Rounding.STOCHASTIC:
            random = np.full(codes.shape, 2**32 - 1, np.uint32)
        back = encode(values, fmt, rounding, saturate=not free, random=random)
        np.testing.assert_array_equal(back[used], codes[used])
        no_number = getattr(fmt, "nan_code", None)
        if no_number is not None:
            np.testing.assert_array_equal(back[np.isnan(values)], no_number)


@settings(deadline=None)
@given(numbers, any_element, any_rounding)
def test_rounding_is_monotone_and_idempotent(
    x: np.ndarray, fmt: ElementFormat, rounding: Rounding
) -> None:
    x = np.sort(x)
    once = rounded(x, fmt, rounding)
    assert (np.diff(once) >= 0).all()
    np.testing.assert_array_equal(rounded(once, fmt, rounding), once)


@settings(deadline=None)
@given(moderate, any_element, st.integers(0, 2**32 - 1))
def test_stochastic_rounding_with_one_word_is_monotone(
    x: np.ndarray, fmt: ElementFormat, word: int
) -> None:
    # By magnitude: below zero it is the distance to the smaller magnitude that counts.
    x = np.sort(np.abs(x))
    for points in (x, -x[::-1]):
        assert (np.diff(rounded(points, fmt, Rounding.STOCHASTIC, word)) >= 0).all()


@settings(deadline=None)
@given(numbers, any_element, st.sampled_from(list(Rounding)), st.integers(0, 2**32 - 1))
def test_rounding_is_odd_where_the_format_is(
    x: np.ndarray, fmt: ElementFormat, rounding: Rounding, word: int
) -> None:
    """Not nf4, whose table is lopsided, and not what has no negative numbers."""
    if isinstance(fmt, PositElement) or (not isinstance(fmt, CodebookElement) and fmt.signed):
        np.testing.assert_array_equal(
            rounded(-x, fmt, rounding, word), -rounded(x, fmt, rounding, word)
        )
    elif not isinstance(fmt, CodebookElement):
        assert (rounded(-np.abs(x), fmt, rounding, word) == 0).all()


@settings(deadline=None)
@given(moderate, any_element)
def test_nearest_is_nearest_and_toward_zero_is_below(x: np.ndarray, fmt: ElementFormat) -> None:
    inward = rounded(x, fmt, Rounding.TOWARD_ZERO)
    # Posits never round to zero: what is below the smallest goes up to it.
    small = np.abs(x) < fmt.min_subnormal if isinstance(fmt, PositElement) else False
    assert ((np.abs(inward) <= np.abs(x)) | small).all()
    up = rounded(x, fmt, Rounding.STOCHASTIC, 2**32 - 1)
    for rounding in NEAREST:
        nearest = rounded(x, fmt, rounding)
        assert ((nearest == inward) | (nearest == up)).all()
        if not isinstance(fmt, PositElement) and fmt.bits <= MAX_BITS:
            grid = code_grid(fmt).values
            if code_grid(fmt).by_magnitude and getattr(fmt, "signed", True):
                grid = np.concatenate([-grid, grid])
            grid, wide = np.unique(grid), x.astype(np.float64)
            above = np.clip(np.searchsorted(grid, wide), 1, len(grid) - 1)
            least = np.minimum(np.abs(grid[above] - wide), np.abs(grid[above - 1] - wide))
            np.testing.assert_array_equal(np.abs(nearest - wide), least)


POWERS_OF_TWO = [
    *(f"{e}.b1x16+e8m0fnu" for e in ("e4m3fn", "e5m2", "e3m2fn", "e2m3fn", "e2m1fn", "mxint8")),
    *(f"{e}.mx+{rule}" for e in ("e4m3fn", "e2m1fn", "mxint8") for rule in ("ceil", "rceil")),
    *(f"{e}.mx+even" for e in ("e4m3fn", "e5m2", "e2m3fn", "e2m1fn", "mxint8")),
    *(f"{e}.row+pow2" for e in ("int8", "int4", "e4m3fn", "e2m1fn", "ffp8_e3m4b5")),
]


@settings(deadline=None)
@given(matrices, st.sampled_from(POWERS_OF_TWO))
def test_quantising_twice_changes_nothing_under_powers_of_two(x: np.ndarray, text: str) -> None:
    fmt = TensorFormat.parse(text)
    once = dequantize(quantize(x, fmt))
    small = once.astype(np.float32)
    np.testing.assert_array_equal(small, once)
    np.testing.assert_array_equal(dequantize(quantize(small, fmt)), once)


@settings(deadline=None)
@given(matrices, st.sampled_from(["int8.row", "int4.g16", "e4m3fn.row", "nf4.tensor"]))
def test_quantising_twice_changes_nothing_under_absmax(x: np.ndarray, text: str) -> None:
    """Though dequantised numbers are rounded to fp32 first; only subnormals are too coarse."""
    fmt = TensorFormat.parse(text)
    first = quantize(x, fmt)
    second = quantize(dequantize(first).astype(np.float32), fmt)
    np.testing.assert_array_equal(dequantize(second), dequantize(first))
    np.testing.assert_array_equal(second.scales, first.scales)


def test_quantising_twice_may_narrow_the_span_of_asymmetric_formats() -> None:
    x = np.array([[-0.5, 14.5]], np.float32)  # ties in steps of 1: both round inwards
    fmt = TensorFormat.parse("uint4.row")
    first = quantize(x, fmt)
    second = quantize(dequantize(first).astype(np.float32), fmt)
    assert second.scales < first.scales


SCALED = ["int8.tensor", "e4m3fn.row", "e5m2.b1x16", "int8.b3x5", "e3m4fn.row", "int4.g16"]


@settings(deadline=None)
@given(matrices, st.sampled_from(SCALED))
def test_error_is_at_most_half_a_step_of_the_block(x: np.ndarray, text: str) -> None:
    fmt = TensorFormat.parse(text)
    q = quantize(x, fmt)
    assert fmt.scaling is not None
    wide = np.repeat(q.scales.astype(np.float64), fmt.scaling.rows or len(x), axis=0)[: len(x)]
    scale = np.repeat(wide, fmt.scaling.cols or 21, axis=1)[:, :21]
    if isinstance(fmt.element, FloatElement):
        step = np.maximum(np.abs(x) * fmt.element.epsilon, scale * fmt.element.min_subnormal)
    else:
        step = scale
    error = np.abs(dequantize(q) - x)
    if fmt.scaling.stored.name == "fp16":  # 11 bits of scale: the largest may be clipped by 2^-11
        error = np.where(np.abs(x) > scale * fmt.element.max, 0, error)
        error = np.where(scale == 65504, 0, error)
    assert (error <= 0.5 * step * (1 + 1e-5)).all()


@settings(deadline=None)
@given(matrices, st.sampled_from(["uint8.row", "uint4.g16", "uint8.b3x5+bf16"]))
def test_asymmetric_formats_keep_zero_and_signs(x: np.ndarray, text: str) -> None:
    x = x * (np.arange(21) != 3)
    back = dequantize(quantize(x, TensorFormat.parse(text)))
    assert (back[x == 0] == 0).all()
    assert (back * x >= 0).all()


@settings(deadline=None)
@given(matrices, st.sampled_from([*SCALED, "nvfp4", "uint4.g16", "e2m1fn.mx+even", "nf4.row+mse"]))
def test_blocks_do_not_look_at_each_other(x: np.ndarray, text: str) -> None:
    """Rows below a block leave it alone; a second level sees the whole tensor."""
    fmt = TensorFormat.parse(text)
    assert fmt.scaling is not None
    if fmt.scaling.two_level or fmt.scaling.rows is None:
        return
    high = fmt.scaling.rows
    whole = dequantize(quantize(x, fmt))
    for i in range(0, len(x), high):
        np.testing.assert_array_equal(
            dequantize(quantize(x[i : i + high], fmt)), whole[i : i + high]
        )
