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
    dequantize,
    element,
    quantize,
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


# Asymmetric --------------------------------------------------------------------------------------


# Two levels --------------------------------------------------------------------------------------


# Specials ----------------------------------------------------------------------------------------


# Storage and refusals ----------------------------------------------------------------------------
