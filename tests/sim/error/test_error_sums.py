"""Errors of tensors: a scalar twin, hand values, laws, and what is refused."""

import math

import numpy as np
import pytest

from sim.error import ErrorSums, TensorError, numpy_rounder, sample, tensor_error
from sim.error.scales import find_scales
from tiles.formats import TensorFormat, dequantize, quantize
from tiles.formats.block_scales import spread

FORMATS = [
    "bf16",
    "e4m3fn",
    "posit8es1",
    "e4m3fn.row",
    "e2m1fn.mx",
    "e4m3fn.mx+even",
    "nvfp4",
    "int8.b7x33",
    "int4.g32+mse",
    "int8.row+p99",
    "uint4.g32",
    "nf4.g64",
    "int8.tensor+sr",
]


def scalar_error(x: np.ndarray, fmt: TensorFormat) -> TensorError:
    """One element after the other; a value is clipped when twice as large a code is the nearest.

    Saturation is seen by dividing by the codec's own scale and asking whether the quotient lies
    more than half a step above the largest value.
    """
    q = quantize(x, fmt)
    rounded = dequantize(q)
    scales = np.ones(x.shape)
    if fmt.scaling is not None:
        scales = spread(q.scales, fmt.scaling, *x.shape).astype(np.float64) * q.tensor_scale
    zeros = np.zeros(x.shape)
    if q.zero_points is not None:
        zeros = spread(q.zero_points.astype(np.float32), fmt.scaling, *x.shape).astype(np.float64)
    top_two = {  # half of the last step
        "bf16": (3.3895313892515355e38, 2.0**119),
        "e4m3fn": (448, 16),
        "posit8es1": (4096, 0),
        "e2m1fn": (6, 1),
        "int8": (127, 0.5),
        "int4": (7, 0.5),
        "uint4": (15, 0.5),
    }
    signal = noise = relative = largest = 0.0
    clipped = flushed = nonzero = 0
    for value, after, scale, zero in zip(
        x.ravel().tolist(), rounded.ravel(), scales.ravel(), zeros.ravel(), strict=True
    ):
        error = abs(after - value)
        signal += value * value
        noise += error * error
        if value != 0:
            nonzero += 1
            relative += error / abs(value)
            largest = max(largest, error / abs(value))
            flushed += after == 0
        code = value / scale
        if fmt.element.name == "nf4":
            middle = (0.7229568362236023 + 1) / 2
            clipped += code > 2 - middle or code < -1 - (1 - 0.6961928009986877) / 2
        elif fmt.asymmetric:
            clipped += not -0.5 <= code + zero <= 15.5
        else:
            top, half = top_two[fmt.element.name]
            clipped += abs(code) > top + half
    return TensorError(
        sqnr_db=10 * math.log10(signal / noise),
        relative_max=largest,
        relative_mean=relative / nonzero,
        clipped_share=clipped / x.size,
        flushed_share=flushed / x.size,
        count=x.size,
    )


@pytest.mark.parametrize("text", FORMATS)
def test_sums_agree_with_one_element_after_the_other(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = sample("student-t", 12, 96)
    x[2, 5:9] = 0
    x[7] *= 1e-4
    fast, slow = tensor_error(x, fmt), scalar_error(x, fmt)
    for field in ("sqnr_db", "relative_max", "relative_mean"):
        assert getattr(fast, field) == pytest.approx(getattr(slow, field), rel=1e-9)
    assert fast.clipped_share == slow.clipped_share
    assert fast.flushed_share == slow.flushed_share
    assert fast.count == slow.count


def test_some_formats_clip_and_some_flush() -> None:
    """What the twin is compared on has both, so neither count is right by being zero."""
    x = sample("student-t", 64, 128)
    assert tensor_error(x, TensorFormat.parse("e2m1fn.mx")).clipped_share > 0.001
    assert tensor_error(x, TensorFormat.parse("int8.row+p99")).clipped_share > 0.005
    assert tensor_error(x, TensorFormat.parse("int4.row")).flushed_share > 0.1
    assert tensor_error(x, TensorFormat.parse("e4m3fn.row")).clipped_share == 0


def test_hand_values() -> None:
    """e4m3fn: 1.0625 is the tie of 1 and 1.125 and becomes 1; 2^-11 flushes; 500 clips to 448."""
    x = np.array([[1.0625, 2.0**-11, 500.0, 0.0]], np.float32)
    error = tensor_error(x, TensorFormat.parse("e4m3fn"))
    assert error.clipped_share == 0.25
    assert error.flushed_share == 0.25
    assert error.relative_max == 1.0
    assert error.relative_mean == pytest.approx((0.0625 / 1.0625 + 1 + 52 / 500) / 3)
    noise = 0.0625**2 + 2.0**-22 + 52**2
    assert error.sqnr_db == pytest.approx(10 * math.log10((1.0625**2 + 2.0**-22 + 500**2) / noise))


def test_half_a_step_above_the_largest_value_still_rounds() -> None:
    fmt = TensorFormat.parse("e4m3fn")
    below = tensor_error(np.array([[464.0, -464.0]], np.float32), fmt)
    above = tensor_error(np.array([[464.5, -464.5]], np.float32), fmt)
    assert (below.clipped_share, above.clipped_share) == (0, 1)
    beside = tensor_error(np.array([[464.0, -464.0, 464.5, -500.0]], np.float32), fmt)
    assert beside.clipped_share == 0.5


@pytest.mark.parametrize(
    "text", ["int8.row", "bf16", "e4m3fn.mx", "nvfp4", "posit8es1", "uint4.g32"]
)
def test_zeros_are_exact(text: str) -> None:
    error = tensor_error(np.zeros((4, 64), np.float32), TensorFormat.parse(text))
    assert error == TensorError(
        sqnr_db=math.inf,
        relative_max=0,
        relative_mean=0,
        clipped_share=0,
        flushed_share=0,
        count=256,
    )


def test_tensors_may_come_one_after_the_other() -> None:
    fmt = TensorFormat.parse("int8.b32x32")
    x = sample("normal", 96, 64)
    parts, left, right = ErrorSums(), ErrorSums(), ErrorSums()
    for rows in (slice(0, 32), slice(32, 96)):
        parts.add(x[rows], numpy_rounder(x[rows], fmt), fmt)
    left.add(x[:64], numpy_rounder(x[:64], fmt), fmt)
    right.add(x[64:], numpy_rounder(x[64:], fmt), fmt)
    left.merge(right)
    whole = tensor_error(x, fmt)
    for error in (parts.result(), left.result()):
        assert error.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
        assert error.relative_mean == pytest.approx(whole.relative_mean, rel=1e-12)
        assert error.relative_max == whole.relative_max
        assert error.count == whole.count


def test_another_rounder_is_taken_at_its_word() -> None:
    fmt = TensorFormat.parse("int8.row")
    x = sample("normal", 8, 64)
    error = tensor_error(x, fmt, lambda x, fmt, seed: x * np.float32(0.5))
    assert error.sqnr_db == pytest.approx(10 * math.log10(4))
    assert error.relative_max == 0.5


@pytest.mark.parametrize(
    "text", ["e4m3fn.row", "int8.b7x33", "nvfp4", "int4.g32+mse", "nf4.g64+mse"]
)
def test_scales_are_found_again(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = sample("laplace", 20, 96)
    x[4] = 0
    q = quantize(x, fmt)
    found = find_scales(x, fmt, dequantize(q)).scales
    expected = q.scales.astype(np.float64) * q.tensor_scale
    if "mse" in text:  # an all-zero block has scale 1, found or not
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_data_that_are_not_finite_are_refused(value: float) -> None:
    x = sample("normal", 4, 8)
    x[2, 5] = value
    with pytest.raises(ValueError, match=rf"data must be finite, got {value} at \(2, 5\)"):
        tensor_error(x, TensorFormat.parse("int8.row"))


def test_what_is_no_float32_matrix_is_refused() -> None:
    fmt = TensorFormat.parse("int8.row")
    with pytest.raises(TypeError, match="float32 tensors, got float64: cast it"):
        tensor_error(np.ones((2, 2)), fmt)
    with pytest.raises(ValueError, match=r"non-empty matrices, got shape \(4,\)"):
        tensor_error(np.ones(4, np.float32), fmt)
    with pytest.raises(ValueError, match="no tensor was counted"):
        ErrorSums().result()
    x = sample("normal", 4, 8)
    with pytest.raises(ValueError, match=r"shape \(4, 8\) was rounded to shape \(2, 8\)"):
        ErrorSums().add(x, x[:2], fmt)
    with pytest.raises(ValueError, match="finite data were rounded to a NaN or an infinity"):
        ErrorSums().add(x, x * np.float32(np.nan), fmt)


# Laws.


@pytest.mark.parametrize("power", [-9, 1, 40])
@pytest.mark.parametrize(
    "text", ["e4m3fn.mx", "e2m1fn.mx+even", "int8.b32x32", "e5m2.row", "int8.mx"]
)
def test_powers_of_two_change_nothing_under_scales(text: str, power: int) -> None:
    fmt = TensorFormat.parse(text)
    x = sample("student-t", 64, 128)
    assert tensor_error(x * np.float32(2.0**power), fmt) == tensor_error(x, fmt)


def test_finer_blocks_are_never_worse_for_int8_on_outliers() -> None:
    x = sample("outlier", 128, 1024)
    scalings = ["tensor", "b128x128", "b32x32", "b1x128", "b1x32", "b1x8"]
    values = [tensor_error(x, TensorFormat.parse(f"int8.{s}")).sqnr_db for s in scalings]
    assert values == sorted(values)
    assert values[-1] > values[0] + 20


@pytest.mark.parametrize(("rounding", "loss_db"), [("sr", 3.01), ("rtz", 6.02)])
def test_roundings_lose_what_uniform_noise_says(rounding: str, loss_db: float) -> None:
    """With a step h and a remainder r uniform in [0, h): nearest leaves E[min(r, h - r)²] = h²/12,

    stochastic E[(1 - r/h) r² + (r/h)(h - r)²] = E[r (h - r)] = h²/6, toward zero E[r²] = h²/3.
    """
    x = sample("normal", 128, 1024)
    nearest = tensor_error(x, TensorFormat.parse("int8.row")).sqnr_db
    other = tensor_error(x, TensorFormat.parse(f"int8.row+{rounding}")).sqnr_db
    assert nearest - other == pytest.approx(loss_db, abs=0.1)
