"""The rounder that forms no codes, against the reference codec, bit by bit."""

import numpy as np
import pytest

from sim.error.rounding import numpy_rounder, round_to_nearest
from tiles.formats import (
    ELEMENTS,
    FloatElement,
    IntElement,
    TensorFormat,
    decode,
    dequantize,
    element,
    encode,
    quantize,
)

ARITHMETIC = [
    *(e.name for e in ELEMENTS.values() if isinstance(e, FloatElement | IntElement)),
    "ffp8_ue4m4",
    "ffp8_e3m4b5",
    "e7m8",
    "e5m10fn",
]
SCALINGS = [
    "",
    ".row",
    ".b7x33",
    ".tensor+pow2",
    ".mx+rceil",
    ".g64",
    ".tensor+bf16",
    ".tensor+mse",
]


def every_other_fp32(seed: int) -> np.ndarray:
    """Random bit patterns: all exponents, both signs, no NaN."""
    bits = np.random.default_rng(seed).integers(0, 2**32, 50_000, dtype=np.uint32)
    x = bits.view(np.float32)
    return x[~np.isnan(x)]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_elements_round_as_the_reference_does(name: str) -> None:
    fmt = element(name)
    assert isinstance(fmt, FloatElement | IntElement)
    random = every_other_fp32(1)
    grid = np.linspace(-1.1 * min(fmt.max, 1e30), 1.1 * min(fmt.max, 1e30), 20_001)
    ties = np.arange(-300, 300) * min(fmt.min_subnormal / 2, 1.0)
    zeros = np.array([0.0, -0.0, np.inf, -np.inf])
    x = np.concatenate([random, *(v.astype(np.float32) for v in (grid, ties, zeros))])
    np.testing.assert_array_equal(round_to_nearest(x, fmt), decode(encode(x, fmt), fmt))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ["e4m3fn", "e2m1fn", "int8", "bf16", "int4", "e5m2fnuz"])
def test_tensors_round_as_the_reference_does(name: str, scaling: str) -> None:
    fmt = TensorFormat.parse(name + scaling)
    random = np.random.default_rng(2)
    for unit in (1.0, 1e-38, 1e30):
        x = (random.standard_t(2, (40, 100)) * unit).astype(np.float32)
        x[3] = 0
        np.testing.assert_array_equal(numpy_rounder(x, fmt, 0), dequantize(quantize(x, fmt)))


@pytest.mark.parametrize(
    "text",
    ["nvfp4", "uint4.g32", "nf4.g64", "posit8es1", "int8.row+sr", "bf16+rtz", "int8.row+away"],
)
def test_other_formats_go_through_the_reference(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = np.random.default_rng(3).standard_normal((8, 96)).astype(np.float32)
    np.testing.assert_array_equal(numpy_rounder(x, fmt, 5), dequantize(quantize(x, fmt, seed=5)))
