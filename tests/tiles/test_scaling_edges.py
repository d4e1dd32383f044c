"""Scales at the ends of their ranges, poisoned and empty blocks, and what is stored."""

import numpy as np
import pytest
from test_scaling import telling_matrix

from tiles.formats import (
    Scaling,
    TensorFormat,
    decode,
    dequantize,
    element,
    encode,
    quantize,
    scale_codes,
    scale_element,
)


def test_scales_stored_in_16_and_8_bits_round_saturate_and_underflow_to_1() -> None:
    amax = np.array([127 * 2.0**-24, 127 * 2.0**-26, 127 * 70000.0, 127 * (1 + 2.0**-11)])
    x = amax.astype(np.float32)[:, None]
    fp16 = quantize(x, TensorFormat.parse("int8.row+fp16"))
    np.testing.assert_array_equal(fp16.scales[:, 0], [2.0**-24, 1, 65504, 1])
    np.testing.assert_array_equal(fp16.codes[:, 0], [127, 0, 127, 127])
    np.testing.assert_array_equal(scale_codes(fp16)[:, 0], [1, 0x3C00, 0x7BFF, 0x3C00])
    e4m3fn = quantize(x, TensorFormat.parse("int8.row+e4m3fn"))
    np.testing.assert_array_equal(e4m3fn.scales[:, 0], [1, 1, 448, 1])
    np.testing.assert_array_equal(scale_codes(e4m3fn)[:, 0], [0x38, 0x38, 0x7E, 0x38])


@pytest.mark.parametrize("rule", ["", "+pow2", "+mse"])
def test_quotients_beyond_fp32_saturate(rule: str) -> None:
    """Elements whose largest is below 1 divide an amax near fp32's end beyond it."""
    fmt = TensorFormat.parse(f"e3m2b20fn.row{rule}")
    q = quantize(np.array([[3e38, -1e38]], np.float32), fmt)
    top = np.finfo(np.float32).max
    np.testing.assert_array_equal(q.scales, 2.0**127 if rule == "+pow2" else top)
    assert np.isfinite(dequantize(q)).all()


@pytest.mark.parametrize("name", ["uint8", "uint4"])
def test_zero_points_bring_back_zero_and_cover_the_range(name: str) -> None:
    rng = np.random.default_rng(5)
    low = rng.uniform(-3, 1, (200, 1))
    x = (low + rng.uniform(0, 4, (200, 64))).astype(np.float32)
    x[:, 7] = 0
    x[0], x[1], x[2] = np.abs(x[0]), -np.abs(x[1]), 0
    q = quantize(x, TensorFormat.parse(f"{name}.row"))
    assert q.zero_points is not None
    assert q.zero_points.dtype == np.uint8
    back = dequantize(q)
    np.testing.assert_array_equal(back[:, 7], 0)
    # Half a step of rounding and at most half a step of the zero point's.
    assert (np.abs(back - x) <= q.scales * (1 + 1e-5)).all()
    assert q.codes.max() == element(name).max
    assert q.codes.min() == 0
    assert (q.zero_points[[0, 2], 0] == 0).all()
    assert q.zero_points[1, 0] == element(name).max


def test_a_span_beyond_fp32_is_covered() -> None:
    top = np.finfo(np.float32).max
    x = np.array([[top, -top, 0, top / 2]], np.float32)
    q = quantize(x, TensorFormat.parse("uint8.row"))
    np.testing.assert_allclose(dequantize(q), x, rtol=0.01)


def test_nvfp4_scales_as_torchao_has_them() -> None:
    x = np.zeros((4, 32), np.float32)
    x[0, 0], x[0, 16], x[1, 3], x[2, 5] = 2688, 6, 0.01, 1e-6
    q = quantize(x, TensorFormat.parse("nvfp4"))
    # Largest over 448 · 6; scales of blocks at least the smallest normal; 1 for blocks of zeros.
    assert q.tensor_scale == 1
    np.testing.assert_array_equal(q.scales, [[448, 1], [2**-6, 1], [2**-6, 1], [1, 1]])
    np.testing.assert_array_equal(q.codes[[0, 0, 1, 2], [0, 16, 3, 5]], [7, 7, 1, 0])


def test_two_levels_survive_what_vanishes() -> None:
    for amax in (2.0**-149, 2.0**-137, 2.0**-130, 1e-30):
        x = np.array([[amax] * 16 + [2.0**-149] * 15 + [0.0]], np.float32)
        q = quantize(x, TensorFormat.parse("nvfp4"))
        assert np.isfinite(dequantize(q)).all()
        assert np.abs(dequantize(q) - x).max() <= max(amax / 6, 2.0**-148)


def test_poisoned_blocks_do_not_touch_the_second_level() -> None:
    x = np.ones((2, 32), np.float32)
    x[0, 5] = np.inf
    q = quantize(x, TensorFormat.parse("nvfp4"))
    assert q.tensor_scale == np.float32(1) / np.float32(2688)
    np.testing.assert_array_equal(np.isnan(q.scales), [[True, False], [False, False]])
    np.testing.assert_array_equal(scale_codes(q), [[0x7F, 0x7E], [0x7E, 0x7E]])
    np.testing.assert_array_equal(q.codes[0, :16], 0)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("text", ["int8.b32x32", "e4m3fn.b32x32", "uint8.b32x32", "nf4.b32x32"])
def test_nan_and_infinity_poison_their_block_alone(text: str, bad: float) -> None:
    x = np.ones((64, 64), np.float32)
    x[40, 3] = bad
    q = quantize(x, TensorFormat.parse(text))
    np.testing.assert_array_equal(np.isnan(q.scales), [[False, False], [True, False]])
    poisoned = np.isnan(dequantize(q))
    assert poisoned[32:, :32].all()
    assert poisoned.sum() == 32 * 32


@pytest.mark.parametrize("text", ["int8.row", "e4m3fn.row+mse", "uint4.g16", "nf4.row+p90"])
def test_blocks_of_zeros_have_scale_1_and_the_code_of_zero(text: str) -> None:
    x = np.zeros((2, 16), np.float32)
    x[1] = -0.0
    q = quantize(x, TensorFormat.parse(text))
    np.testing.assert_array_equal(q.scales, 1)
    np.testing.assert_array_equal(dequantize(q), 0)
    np.testing.assert_array_equal(q.zero_points if q.zero_points is not None else 0, 0)


def test_scale_codes_are_the_bit_patterns_that_are_stored() -> None:
    x = telling_matrix(6)
    x[0, 0] = np.nan
    for stored in ("fp32", "fp16", "bf16", "e4m3fn", "e8m0fnu"):
        q = quantize(x, TensorFormat.parse(f"int8.b1x16+{stored}"))
        codes = scale_codes(q)
        assert codes.dtype == {"fp32": "u4", "fp16": "u2", "bf16": "u2"}.get(stored, "u1")
        np.testing.assert_array_equal(decode(codes, scale_element(stored)), q.scales)
    with pytest.raises(ValueError, match="bf16 has no scales"):
        scale_codes(quantize(x, TensorFormat.parse("bf16")))


@pytest.mark.parametrize(
    ("text", "shape", "size"),
    [
        ("int8.b1x128", (4, 129), 4 * 129 + 4 * 2 * 4),
        ("int4.g128", (4, 129), 4 * 65 + 4 * 2 * 2),
        ("uint4.g128", (4, 129), 4 * 65 + 4 * 2 * 2 + 4),
        ("uint4.tensor", (2, 2), 2 + 4 + 1),
        ("uint8.row", (3, 5), 15 + 12 + 3),
        ("e2m3fn.mx", (2, 64), 2 * 48 + 4),
        ("nvfp4", (3, 33), 3 * 17 + 3 * 3 + 4),
        ("bf16", (3, 5), 30),
        ("tf32", (3, 5), 60),
        ("fp32", (3, 5), 60),
        ("posit8es1", (3, 5), 15),
    ],
)
def test_storage_counts_packed_codes_scales_and_zero_points(
    text: str, shape: tuple[int, int], size: int
) -> None:
    assert TensorFormat.parse(text).storage_bytes(*shape) == size


def test_scale_grid_counts_ragged_blocks() -> None:
    assert Scaling.parse("b32x32").grid(33, 64) == (2, 2)
    assert Scaling.parse("row").grid(5, 9) == (5, 1)
    assert Scaling.parse("col").grid(5, 9) == (1, 9)
    assert Scaling.parse("tensor").grid(5, 9) == (1, 1)
    assert TensorFormat.parse("bf16").scale_count(5, 9) == 0


def test_quantize_refuses_what_is_no_matrix_of_fp32() -> None:
    fmt = TensorFormat.parse("int8.row")
    for shape in ((0, 3), (3, 0), (3,), (2, 2, 2)):
        with pytest.raises(ValueError, match="quantize takes a non-empty matrix, got shape"):
            quantize(np.zeros(shape, np.float32), fmt)
    with pytest.raises(TypeError, match="quantize takes float32, got float64: cast it first"):
        quantize(np.zeros((2, 2)), fmt)


def test_views_quantize_as_their_copies_do() -> None:
    x = np.random.default_rng(7).standard_normal((40, 60), np.float32)
    for view in (x.T, x[::2, ::3], x[:, ::-1]):
        for text in ("int8.b3x5", "uint4.g16", "e4m3fn.row+sr"):
            fmt = TensorFormat.parse(text)
            actual, expected = quantize(view, fmt), quantize(view.copy(), fmt)
            np.testing.assert_array_equal(actual.codes, expected.codes)
            np.testing.assert_array_equal(actual.scales, expected.scales)


def test_unscaled_formats_are_plain_encoding() -> None:
    x = telling_matrix(8)
    x[0, :3] = np.nan, np.inf, -np.inf
    for name in ("bf16", "fp16", "tf32", "fp32", "posit8es2", "e5m2"):
        q = quantize(x, TensorFormat.parse(name))
        np.testing.assert_array_equal(q.codes, encode(x, element(name)))
        np.testing.assert_array_equal(dequantize(q), decode(q.codes, element(name)))
        np.testing.assert_array_equal(q.scales, [[1]])
