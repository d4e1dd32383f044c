"""Scaling: every scale rule against exact rationals, what blocks share, and how much it stores.

149 formats quantise 535 telling numbers to the codes, scales and values of exact rationals.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_elements import Exact, all_exact, exact_table
from exact_scales import (
    Scheme,
    as_float,
    blocks,
    candidates,
    quantize_block,
    squared_error,
    tensor_scale,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import (
    CodebookElement,
    Quantized,
    ScaleRule,
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
from tiles.formats.torch_codec import quantize_tensor

_nf4 = element("nf4")
assert isinstance(_nf4, CodebookElement)
EXACT = all_exact() | {"nf4": exact_table("nf4", 4, _nf4.values)}
BASES: dict[str, tuple[int | None, int | None]] = {
    "tensor": (None, None),
    "row": (1, None),
    "col": (None, 1),
    "b1x16": (1, 16),
    "b3x5": (3, 5),
    "b128x128": (128, 128),
    "b1x128": (1, 128),
}


# Rules -------------------------------------------------------------------------------------------

#: Element, scheme, rounding; the text is put together from them.
SCHEMES = [
    *(
        (name, Scheme(*extents), "rne")
        for name in ("int8", "e4m3fn", "e5m2", "e2m1fn", "nf4", "e3m4fn", "ffp8_e3m4b5")
        for extents in BASES.values()
    ),
    *(
        (name, Scheme(1, 16, rule=rule, stored=stored, percentile="90"), "rne")
        for name in ("int8", "int4", "e4m3fn", "nf4", "ffp8_ue4m4")
        for rule in ("absmax", "pow2", "percentile")
        for stored in ("fp32", "fp16", "bf16", "e4m3fn")
    ),
    *(
        ("int8", Scheme(1, None, rule="percentile", percentile=p), "rne")
        for p in ("50", "99", "99.9", "99.99", "66.6667")
    ),
    *(
        (name, Scheme(*extents, stored=stored), "rne")
        for name in ("uint8", "uint4")
        for extents in ((None, None), (1, 16), (3, 5))
        for stored in ("fp32", "fp16", "bf16", "e4m3fn")
    ),
    *(
        (name, Scheme(1, 16), rounding)
        for name in ("int8", "e4m3fn", "e2m1fn", "nf4")
        for rounding in ("away", "rtz")
    ),
    ("e2m1fn", Scheme(1, 16, stored="e4m3fn", two_level=True), "rne"),
    ("e2m1fn", Scheme(16, 16, stored="e4m3fn", two_level=True), "rne"),
    ("e2m1fn", Scheme(1, 16, "percentile", "e4m3fn", percentile="90", two_level=True), "rne"),
]
assert len(SCHEMES) == 149
MSE_SCHEMES = [
    *(
        (name, Scheme(1, 16, rule="mse", stored=stored))
        for name in ("int8", "int4", "e4m3fn", "nf4")
        for stored in ("fp32", "fp16", "e4m3fn")
    ),
    ("int4", Scheme(3, 5, rule="mse")),
    ("e2m1fn", Scheme(1, 16, rule="mse", stored="e4m3fn", two_level=True)),
]


def text_of(name: str, scheme: Scheme, rounding: str = "rne") -> str:
    named = {extents: base for base, extents in BASES.items()}
    base = named.get((scheme.rows, scheme.cols), f"b{scheme.rows}x{scheme.cols}")
    rule = {"absmax": "", "percentile": f"p{scheme.percentile}"}.get(scheme.rule, scheme.rule)
    words = [f"{name}.{base}", scheme.stored, rule, "two-level" if scheme.two_level else ""]
    return "+".join(filter(None, [*words, "" if rounding == "rne" else rounding]))


def telling_matrix(seed: int) -> np.ndarray:
    """(8, 53): ordinary rows, and rows of what breaks codecs; ragged for every block in use."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((8, 53))
    x[1] *= np.exp2(rng.integers(-12, 12, 53))
    x[2] = 0
    x[2, 20:30] = -0.0
    x[3, :16] = np.abs(x[3, :16]) + 100  # one sign
    x[3, 16:32] = -np.abs(x[3, 16:32]) - 7
    x[4] = x[4] * 3e-5  # scales below fp16's and e4m3fn's normals
    x[4, 32:] *= 1e-6  # and below all of theirs
    x[5] *= 1e37
    x[5, :2] = np.finfo(np.float32).max * np.array([1, -1])  # a span beyond fp32
    x[6, ::7] *= 1e4  # outliers
    x[6, 16:32] = rng.integers(-127, 128, 16)  # ties and exact quotients
    x[7] *= 2.0**-140  # subnormal in fp32
    return x.astype(np.float32)


def exact_blocks(
    x: np.ndarray, exact: Exact, scheme: Scheme, rounding: str = "rne"
) -> dict[tuple[int, int], object]:
    outer = tensor_scale(x, exact, scheme)
    asymmetric = exact.name.startswith("uint")
    return {
        place: quantize_block(
            x[where], exact, scheme, outer, rounding=rounding, asymmetric=asymmetric
        )
        for place, where in blocks(x, scheme).items()
    }


def assert_equals_exact(
    q: Quantized, x: np.ndarray, exact: Exact, scheme: Scheme, rounding: str
) -> None:
    expected = exact_blocks(x, exact, scheme, rounding)
    assert q.scales.shape == tuple(max(axis) + 1 for axis in zip(*expected, strict=True))
    assert q.tensor_scale == as_float(tensor_scale(x, exact, scheme))
    dequantized = dequantize(q)
    for place, where in blocks(x, scheme).items():
        block = expected[place]
        message = f"block {place} of {q.format}"
        codes = q.codes[where].ravel().tolist()
        for i, (code, right) in enumerate(zip(codes, block.codes, strict=True)):
            same = code in exact.nans if right is None else code == right
            assert same, f"{message}, element {i} ({x[where].ravel()[i]!r}): {code}, not {right}"
        if block.scale is None:
            assert np.isnan(q.scales[place]), message
            assert np.isnan(dequantized[where]).all(), message
            continue
        assert q.scales[place] == as_float(block.scale), message
        assert q.zero_points is None or q.zero_points[place] == block.zero, message
        values = [as_float(value) for value in block.values]
        np.testing.assert_array_equal(dequantized[where].ravel(), values, err_msg=message)


@pytest.mark.parametrize(
    ("name", "scheme", "rounding"), SCHEMES, ids=[text_of(*case) for case in SCHEMES]
)
def test_codes_and_scales_are_those_of_exact_rationals(
    name: str, scheme: Scheme, rounding: str
) -> None:
    fmt, x = TensorFormat.parse(text_of(name, scheme, rounding)), telling_matrix(1)
    assert_equals_exact(quantize(x, fmt), x, EXACT[name], scheme, rounding)
    x = x[[1, 4, 6], :37]
    x[0, 3], x[1, 35], x[2, 17] = np.nan, np.inf, -np.inf
    assert_equals_exact(quantize(x, fmt), x, EXACT[name], scheme, rounding)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 5), (4, 6), (2, 200)])
@pytest.mark.parametrize("text", ["int8.b3x5", "e2m1fn.b1x16+e4m3fn+two-level", "uint4.b128x128"])
def test_blocks_are_ragged_at_both_ends_and_never_straddle_rows(
    shape: tuple[int, int], text: str
) -> None:
    x = np.random.default_rng(2).standard_normal(shape, np.float32)
    fmt = TensorFormat.parse(text)
    assert fmt.scaling is not None
    two_level = fmt.scaling.two_level
    scheme = Scheme(fmt.scaling.rows, fmt.scaling.cols, two_level=two_level)
    if two_level:
        scheme = Scheme(1, 16, stored="e4m3fn", two_level=True)
    assert_equals_exact(quantize(x, fmt), x, EXACT[fmt.element.name], scheme, "rne")


@pytest.mark.parametrize(
    ("name", "scheme"), MSE_SCHEMES, ids=[text_of(*case) for case in MSE_SCHEMES]
)
def test_mse_takes_the_candidate_of_least_squared_error(name: str, scheme: Scheme) -> None:
    x, exact = telling_matrix(3)[[0, 3, 4, 6], :37], EXACT[name]
    q = quantize(x, TensorFormat.parse(text_of(name, scheme)))
    outer = Fraction(q.tensor_scale)
    clipped = 0
    for place, where in blocks(x, scheme).items():
        numbers = [Fraction(v) for v in x[where].astype(np.float64).ravel().tolist()]
        amax = max(map(abs, numbers))
        scales = [s for s in candidates(amax, outer, exact, scheme) if s] if amax else []
        if not scales:
            assert q.scales[place] == 1
            continue
        chosen = Fraction(float(q.scales[place]))
        assert chosen in scales
        errors = {s: squared_error(numbers, s, outer, exact) for s in scales}
        # Errors are cut to 2**-62 · (n rounded up to a power of two) · amax² each before the sum.
        slack = len(numbers) * amax**2 * Fraction(2) ** ((len(numbers) - 1).bit_length() - 62)
        assert errors[chosen] <= min(errors.values()) + slack
        clipped += chosen < scales[0]
    assert (clipped > 0) == (name != "int8")  # 16 numbers are too few to clip one of them


def test_of_equal_squared_errors_mse_takes_the_larger_scale() -> None:
    # Of codes that are all 1 the best scale is the mean, 1 - 8.5 / 64 of the largest: the two
    # candidates beside it lose the same.
    x, fmt = np.array([[1, 1 - 17 / 64]], np.float32), TensorFormat.parse("int2.row+mse")
    for scales in (quantize(x, fmt).scales, quantize_tensor(torch.from_numpy(x), fmt).scales):
        assert scales is not None
        assert float(scales[0, 0]) == 1 - 8 / 64


def test_mse_never_loses_to_absmax() -> None:
    x = np.random.default_rng(4).standard_t(3, (32, 128)).astype(np.float32)
    for name in ("int4", "int8", "e4m3fn", "e2m1fn", "nf4"):
        plain, least = (
            ((dequantize(quantize(x, TensorFormat.parse(f"{name}.row{rule}"))) - x) ** 2).sum(1)
            for rule in ("", "+mse")
        )
        assert (least <= plain * (1 + 1e-12)).all()


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (10, 10), (999, 999), (1000, 999)])
def test_percentiles_are_of_the_nearest_rank(count: int, rank: int) -> None:
    """In floats 99.9 / 100 · 1000 is a little more than 999, whose ceiling is wrong by one."""
    fmt = TensorFormat.parse("int8.row+p99.9")
    assert fmt.scaling is not None
    assert fmt.scaling.rank(count) == rank
    x = np.arange(1, count + 1, dtype=np.float32)[None]
    np.testing.assert_array_equal(quantize(x, fmt).scales, [[np.float32(rank) / np.float32(127)]])


@settings(deadline=None)
@given(st.integers(500_000, 999_999), st.integers(1, 10**6))
def test_ranks_are_exact(percentile: int, count: int) -> None:
    scaling = Scaling(rows=1, cols=None, rule=ScaleRule.PERCENTILE, percentile=percentile / 10_000)
    assert scaling.rank(count) == -(-percentile * count // 10**6)


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


# Asymmetric --------------------------------------------------------------------------------------


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


# Two levels --------------------------------------------------------------------------------------


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


# Specials ----------------------------------------------------------------------------------------


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


# Storage and refusals ----------------------------------------------------------------------------


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
