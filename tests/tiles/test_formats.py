"""Element formats against ml_dtypes for every code, and the block codec against a scalar twin."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiles.formats import (
    ELEMENTS,
    FloatElement,
    Scaling,
    Specials,
    TensorFormat,
    dequantize,
    element,
    quantize,
    round_to_element,
)

TWINS = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def all_values(name: str) -> np.ndarray:
    """Every finite value of a format, ascending, from its twin's bit patterns."""
    dtype = np.dtype(TWINS[name])
    codes = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs among the codes
        values = codes.view(dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("name", TWINS)
def test_derived_limits_equal_the_twin(name: str) -> None:
    fmt = element(name)
    assert isinstance(fmt, FloatElement)
    info = ml_dtypes.finfo(TWINS[name])
    assert fmt.max == float(info.max)
    assert 2.0**fmt.min_exponent == float(info.smallest_normal)
    assert fmt.min_subnormal == float(info.smallest_subnormal)
    assert fmt.epsilon == float(info.eps)


@pytest.mark.parametrize("name", TWINS)
def test_every_value_every_midpoint_and_their_neighbours_round_to_nearest_even(name: str) -> None:
    values = all_values(name)
    if name == "bf16":  # midpoints at the subnormal end need more than fp32: leave those out
        values = values[(np.abs(values) > 2.0**-100) | (values == 0)]
    low, high = values[:-1], values[1:]
    middle = ((low + high) / 2).astype(np.float32)
    exact = middle.astype(np.float64) == (low + high) / 2
    points = np.concatenate(
        [
            values.astype(np.float32),
            middle[exact],
            np.nextafter(middle[exact], np.float32(np.inf)),
            np.nextafter(middle[exact], np.float32(-np.inf)),
        ]
    )
    expected = points.astype(TWINS[name]).astype(np.float32)
    np.testing.assert_array_equal(round_to_element(points, element(name)), expected)
    assert exact.sum() > 0.9 * len(middle)


@pytest.mark.parametrize("name", TWINS)
def test_rounding_saturates_and_keeps_nan(name: str) -> None:
    fmt = element(name)
    top = np.float32(fmt.max)
    points = np.array([np.inf, -np.inf, np.nan, np.nextafter(top, np.float32(np.inf))], np.float32)
    rounded = round_to_element(points, fmt)
    np.testing.assert_array_equal(rounded, np.array([top, -top, np.nan, top], np.float32))


def test_int8_rounds_ties_to_even_and_leaves_minus_128_unused() -> None:
    points = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.0, -1000.0], np.float32)
    expected = np.array([0, 2, 2, 0, -2, 126, 127, -127, -127], np.float32)
    np.testing.assert_array_equal(round_to_element(points, element("int8")), expected)


def test_a_format_with_an_impossible_significand_is_refused() -> None:
    with pytest.raises(ValueError, match="need 1 < precision < bits"):
        FloatElement(name="bad", bits=8, precision=8, bias=1, specials=Specials.IEEE)


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown element format 'e9m9': choose one of .*e4m3fn"):
        TensorFormat.parse("e9m9.row")
    with pytest.raises(ValueError, match="unknown scaling 'b0x4'"):
        TensorFormat.parse("int8.b0x4")


@pytest.mark.parametrize(
    "name", ["bf16", "int8.tensor", "e4m3fn.row", "e5m2.b1x128", "int8.b32x32"]
)
def test_tensor_format_text_round_trips(name: str) -> None:
    assert str(TensorFormat.parse(name)) == name


def scalar_quantize(x: np.ndarray, fmt: TensorFormat) -> tuple[np.ndarray, np.ndarray]:
    """The rule of the conventions, one block at a time, in plain Python loops."""
    assert fmt.scaling is not None
    rows, cols = x.shape
    block_rows = fmt.scaling.rows or rows
    block_cols = fmt.scaling.cols or cols
    codes = np.empty_like(x)
    scales = np.empty(fmt.scaling.grid(rows, cols), np.float32)
    for i in range(0, rows, block_rows):
        for j in range(0, cols, block_cols):
            block = x[i : i + block_rows, j : j + block_cols]
            amax = np.float32(0)
            for value in block.ravel():
                amax = np.float32(np.nan) if np.isnan(value) else max(amax, abs(value))
                if np.isnan(amax):
                    break
            scale = amax / np.float32(fmt.element.max)
            if scale == 0:
                scale = np.float32(1)
            if not np.isfinite(amax):
                scale = np.float32(np.nan)
            scales[i // block_rows, j // block_cols] = scale
            codes[i : i + block_rows, j : j + block_cols] = round_to_element(
                block / scale, fmt.element
            )
    return codes, scales


FORMATS = [
    f"{e}.{s}"
    for e in ("int8", "e4m3fn", "e5m2")
    for s in ("tensor", "row", "b1x128", "b128x128", "b32x32", "b3x5")
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 130), (129, 257), (64, 64)])
def test_quantize_equals_its_scalar_twin(name: str, shape: tuple[int, int]) -> None:
    fmt = TensorFormat.parse(name)
    x = np.random.default_rng(hash_free_seed(name, shape)).standard_normal(shape, np.float32)
    x[0, 0] = 0
    codes, scales = scalar_quantize(x, fmt)
    q = quantize(x, fmt)
    np.testing.assert_array_equal(q.codes, codes)
    np.testing.assert_array_equal(q.scales, scales)


def hash_free_seed(name: str, shape: tuple[int, int]) -> int:
    """A seed that is the same in every process."""
    return sum(name.encode()) * 1000 + shape[0] * 7 + shape[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_with_nan_or_infinity_gets_a_nan_scale_and_no_other_block_does(bad: float) -> None:
    x = np.ones((64, 64), np.float32)
    x[40, 3] = bad
    scales = quantize(x, TensorFormat.parse("int8.b32x32")).scales
    np.testing.assert_array_equal(np.isnan(scales), [[False, False], [True, False]])


def test_an_all_zero_block_has_codes_zero_and_scale_one() -> None:
    q = quantize(np.zeros((4, 4), np.float32), TensorFormat.parse("e4m3fn.row"))
    np.testing.assert_array_equal(q.codes, 0)
    np.testing.assert_array_equal(q.scales, 1)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=64),
    st.sampled_from(["int8.tensor", "e4m3fn.row", "e5m2.b1x128", "int8.b32x32"]),
)
def test_error_is_at_most_half_a_step_of_the_block(values: list[float], name: str) -> None:
    fmt = TensorFormat.parse(name)
    x = np.array([values], np.float32)
    q = quantize(x, fmt)
    error = np.abs(dequantize(q) - x)
    scale = q.scales.astype(np.float64).max()
    if isinstance(fmt.element, FloatElement):
        step = np.maximum(np.abs(x) * fmt.element.epsilon, scale * fmt.element.min_subnormal)
    else:
        step = np.full_like(x, scale, dtype=np.float64)
    assert (error <= 0.5 * step * (1 + 1e-5)).all()


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=2, max_size=50))
def test_rounding_is_monotone_idempotent_and_odd(values: list[float]) -> None:
    x = np.sort(np.array(values, np.float32))
    for fmt in ELEMENTS.values():
        rounded = round_to_element(x, fmt)
        assert (np.diff(rounded) >= 0).all()
        np.testing.assert_array_equal(round_to_element(rounded, fmt), rounded)
        np.testing.assert_array_equal(round_to_element(-x, fmt), -rounded)


def test_scale_grid_counts_ragged_blocks() -> None:
    assert Scaling.parse("b32x32").grid(33, 64) == (2, 2)
    assert Scaling.parse("row").grid(5, 9) == (5, 1)
    assert Scaling.parse("tensor").grid(5, 9) == (1, 1)
    assert TensorFormat.parse("int8.b1x128").storage_bytes(4, 129) == 4 * 129 + 4 * 8


def test_quantize_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="non-empty matrix"):
        quantize(np.zeros((0, 3), np.float32), TensorFormat.parse("int8.row"))
