"""Expected signal-to-noise ratios against samples, hand values and simulated integrals."""

import math

import numpy as np
import pytest

from sim.error import DATA_KINDS, ErrorSums, expected_sqnr_db, numpy_rounder, sample
from sim.error.densities import DENSITIES
from sim.error.pieces import pieces
from sim.error.populations import Population, largest
from tiles.formats import (
    ELEMENTS,
    Rounding,
    Scaling,
    TensorFormat,
    code_values,
    decode,
    element,
    encode,
)

SMOOTH = ["normal", "laplace", "student-t"]


def sampled_db(fmt: TensorFormat, kind: str, rows: int, cols: int, tensors: int) -> float:
    sums = ErrorSums()
    for seed in range(tensors):
        x = sample(kind, rows, cols, seed=seed)
        sums.add(x, numpy_rounder(x, fmt, seed), fmt)
    return sums.result().sqnr_db


UNSCALED = ["bf16", "fp16", "e4m3fn", "e5m2", "posit8es1", "posit8es2", "int8", "nf4", "uint8"]
SCALED = [
    "e4m3fn.row",
    "e5m2.row",
    "e3m4.row",
    "e2m1fn.row",
    "bf16.row",
    "e4m3fn.b1x128",
    "e4m3fn.b128x128",
    "int8.row",
    "int8.b32x32",
    "int8.b1x100",
    "int4.g32",
    "uint4.g128",
    "uint8.row",
    "nf4.g64",
    "e4m3fn.row+bf16",
    "e4m3fn.row+pow2",
    "e4m3fn.mx",
    "e4m3fn.mx+rceil",
    "e4m3fn.mx+ceil",
    "e4m3fn.mx+even",
    "e5m2.mx",
    "e3m2fn.mx",
    "e2m3fn.mx",
    "e2m1fn.mx",
    "e2m1fn.mx+rceil",
    "mxint8.mx",
    "nvfp4",
    "ffp8_e3m4b5.row+pow2",
    "fp32.row",
    "tf32.b1x4",
    "uint8.b1x16+e4m3fn",
]
ROUNDED = ["e4m3fn.row+sr", "int8.row+sr", "e2m1fn.mx+sr", "nf4.g64+sr", "bf16+sr", "posit8es2+sr"]
ROUNDED += ["e4m3fn.row+rtz", "int8.row+rtz", "bf16+rtz", "e2m1fn.mx+rtz", "int8.row+away"]
ROUNDED += [
    "uint8.row+rtz",
    "uint4.g32+rtz",
    "uint8.b1x16+e4m3fn+rtz",
    "uint4.g128+sr",
    "fp32.row+rtz",
]


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("text", [*UNSCALED, *SCALED, *ROUNDED])
def test_samples_agree(text: str, kind: str) -> None:
    """A quarter of a million values: 0.1 dB, what is left are the samples' own deviations.

    Scales that cover much see few largest values, and heavy tails move signal and noise by single
    values, so those get more.
    """
    fmt = TensorFormat.parse(text)
    wide = any(s in text for s in (".row", "b128x128", "b32x32"))
    tolerance_db = 0.1 + (0.15 if wide and kind != "normal" else 0.1 if wide else 0)
    if kind == "student-t":
        tolerance_db += 0.15
    expected = expected_sqnr_db(fmt, kind, 256, 1024)
    assert expected == pytest.approx(sampled_db(fmt, kind, 256, 1024, 1), abs=tolerance_db)


@pytest.mark.parametrize(
    "text", ["e4m3fn", "e4m3fn.row", "int8.row", "e2m1fn.mx", "nvfp4", "int4.g32"]
)
def test_samples_of_outlier_data_agree(text: str) -> None:
    """Where the channels fall differs from tensor to tensor, so many small ones are drawn."""
    fmt = TensorFormat.parse(text)
    expected = expected_sqnr_db(fmt, "outlier", 4, 1024)
    assert expected == pytest.approx(sampled_db(fmt, "outlier", 4, 1024, 200), abs=0.25)


@pytest.mark.parametrize("text", ["int8.tensor", "e2m1fn.tensor", "e4m3fn.tensor+pow2"])
def test_samples_under_one_scale_agree(text: str) -> None:
    """One largest value a tensor: the mean is over tensors."""
    fmt = TensorFormat.parse(text)
    expected = expected_sqnr_db(fmt, "normal", 16, 256)
    assert expected == pytest.approx(sampled_db(fmt, "normal", 16, 256, 200), abs=0.1)


@pytest.mark.parametrize("text", ["int8.b48x100", "e4m3fn.b7x33", "e2m3fn.mx"])
def test_ragged_blocks_count_as_what_they_are(text: str) -> None:
    fmt = TensorFormat.parse(text)
    ragged = expected_sqnr_db(fmt, "laplace", 100, 333)
    assert ragged == pytest.approx(sampled_db(fmt, "laplace", 100, 333, 20), abs=0.1)


def test_uniform_noise_of_int8_rows_by_hand() -> None:
    """step² / 12 with step = amax / 127 and E[amax²] of 1024 normal values by simulation."""
    amax = np.abs(np.random.default_rng(5).standard_normal((4000, 1024))).max(axis=1)
    noise = float((amax**2).mean()) / 127**2 / 12
    expected = expected_sqnr_db(TensorFormat.parse("int8.row"), "normal", 4096, 1024)
    assert expected == pytest.approx(-10 * math.log10(noise), abs=0.03)


def test_bfloat16_by_hand() -> None:
    """Errors uniform within steps of 2^(e - 7) in binade e, by quadrature over normal values."""
    x = np.linspace(1e-6, 8, 2_000_001)
    density = np.exp(-x * x / 2)
    step = np.exp2(np.floor(np.log2(x)) - 7)
    noise = float((step**2 / 12 * density).sum() / density.sum())
    expected = expected_sqnr_db(TensorFormat.parse("bf16"), "normal", 1, 1)
    assert expected == pytest.approx(-10 * math.log10(noise), abs=0.001)


@pytest.mark.parametrize(("text", "loss_db"), [("int8.row+sr", 3.01), ("int8.row+rtz", 6.02)])
def test_roundings_lose_what_uniform_noise_says(text: str, loss_db: float) -> None:
    """step² / 12, / 6 and / 3: see the law of the same name on samples.

    Densities fall within a step, so what is cut off is a little less than uniform.
    """
    nearest = expected_sqnr_db(TensorFormat.parse("int8.row"), "normal", 64, 1024)
    other = expected_sqnr_db(TensorFormat.parse(text), "normal", 64, 1024)
    assert nearest is not None
    assert other is not None
    assert nearest - other == pytest.approx(loss_db, abs=0.03)


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_larger_blocks_are_worse_for_integers(kind: str) -> None:
    values = [
        expected_sqnr_db(TensorFormat.parse(f"int8.{s}"), kind, 1024, 1024)
        for s in ("b1x32", "b1x128", "b32x32", "b128x128", "tensor")
    ]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("text", ["int8.row+mse", "int8.row+p99.9", "int4.g128+mse"])
def test_none_where_there_is_no_form(text: str) -> None:
    assert expected_sqnr_db(TensorFormat.parse(text), "normal", 64, 1024) is None


def test_none_for_zero_points_on_outliers_and_in_blocks_of_a_few_values() -> None:
    assert expected_sqnr_db(TensorFormat.parse("uint4.g128"), "outlier", 64, 1024) is None
    assert expected_sqnr_db(TensorFormat.parse("uint4.b1x8"), "normal", 64, 1024) is None


@pytest.mark.parametrize("text", ["fp32", "fp32.mx", "fp32.mx+sr", "fp32.row+pow2", "fp32.g32"])
def test_fp32_loses_nothing_without_scales_or_under_powers_of_two(text: str) -> None:
    """Group scales of fp16 underflow there, and what underflows is 1."""
    fmt = TensorFormat.parse(text)
    assert expected_sqnr_db(fmt, "normal", 64, 1024) == math.inf
    assert sampled_db(fmt, "normal", 64, 1024, 1) == math.inf


def test_fp32_saturates_under_scales_that_were_rounded_down() -> None:
    fmt = TensorFormat.parse("fp32.row+bf16")
    expected = expected_sqnr_db(fmt, "normal", 256, 64)
    assert expected == pytest.approx(sampled_db(fmt, "normal", 256, 64, 20), abs=0.5)
    assert expected < 80


SCALINGS = ["row", "col", "tensor", "b1x1", "b1x4", "b2x2", "b32x32", "g32", "mx", "mx+even"]
SCALINGS += ["row+pow2", "row+bf16", "row+fp16", "b1x16+e4m3fn", "b1x1+e8m0fnu"]


@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC])
@pytest.mark.parametrize("scaling", [None, *map(Scaling.parse, SCALINGS)], ids=str)
def test_every_format_has_a_plausible_expectation_or_none(
    scaling: Scaling | None, rounding: Rounding
) -> None:
    met = 0
    for one in ELEMENTS.values():
        try:
            fmt = TensorFormat(element=one, scaling=scaling, rounding=rounding)
        except ValueError:
            continue  # an element that does not take such scales
        value = expected_sqnr_db(fmt, "normal", 64, 48)
        assert value is None or value == math.inf or -1 < value < 160, fmt
        assert value is not None or fmt.asymmetric
        met += 1
    assert met > 15


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="data 'uniform': choose one of"):
        expected_sqnr_db(TensorFormat.parse("int8"), "uniform", 4, 4)
    with pytest.raises(ValueError, match="data of shape 4 x 0: both extents must be at least 1"):
        expected_sqnr_db(TensorFormat.parse("int8"), "normal", 4, 0)


# The parts.


@pytest.mark.parametrize("start", [0.0, 0.3, 1.7, 6.0, 86.5, 86.7, 300.0])
@pytest.mark.parametrize("kind", SMOOTH)
def test_tails_are_the_integrals_of_the_density(kind: str, start: float) -> None:
    density = DENSITIES[kind]
    y = start + np.concatenate([[0.0], np.geomspace(1e-9, 1e6, 400_001)])
    f = density.density(y)
    for power, tail in enumerate(density.tails(np.array([start]))):
        assert tail[0] == pytest.approx(np.trapezoid(f * y**power, y), rel=1e-5, abs=1e-300)
    assert density.survival(np.array([start]))[0] == pytest.approx(
        2 * density.tails(np.array([start]))[0][0]
    )
    assert [t[0] for t in density.tails(np.array([np.inf]))] == [0, 0, 0]


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_largest_of_many(kind: str) -> None:
    population = Population(density=DENSITIES[kind], plain=500)
    found = largest(population, 200)
    assert found.weights.sum() == pytest.approx(1)
    drawn = np.abs(sample(kind, 4000, 500)).max(axis=1)
    assert found.sizes @ found.weights == pytest.approx(drawn.mean(), rel=0.01)


@pytest.mark.parametrize(
    "name",
    ["e4m3fn", "e2m1fn", "int4", "nf4", "posit8es1", "uint4", "ffp8_ue4m4", "mxint8", "bf16"],
)
@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO])
def test_pieces_are_the_squared_error_of_the_codec(name: str, rounding: Rounding) -> None:
    fmt = element(name)
    top = min(fmt.max, 500.0)
    y = np.linspace(0, 1.2 * top, 10_007).astype(np.float32)
    for side, sign in zip(pieces(fmt, rounding, exact=True), (1, -1), strict=True):
        x = np.float32(sign) * y
        error = decode(encode(x, fmt, rounding), fmt).astype(np.float64) - x
        np.testing.assert_allclose(
            side.at(y.astype(np.float64)), error**2, rtol=1e-9, atol=1e-13 * top**2
        )


@pytest.mark.parametrize("name", ["e4m3fn", "e2m1fn", "nf4", "posit8es1"])
def test_stochastic_pieces_are_the_mean_of_both_neighbours(name: str) -> None:
    fmt = element(name)
    y = np.linspace(0, 1.2 * min(fmt.max, 500.0), 501)[1:].astype(np.float32)
    random = (np.arange(1024, dtype=np.uint64) * 2**22 + 2**21).astype(np.uint32)
    for side, sign in zip(pieces(fmt, Rounding.STOCHASTIC), (1, -1), strict=True):
        x = np.repeat(np.float32(sign) * y[:, None], 1024, axis=1)
        codes = encode(x, fmt, Rounding.STOCHASTIC, random=np.broadcast_to(random, x.shape))
        error = decode(codes, fmt).astype(np.float64) - x
        # Probabilities come in steps of 1 / 1024, and one neighbour is at most a gap away.
        table = sign * code_values(fmt)
        values = np.unique(table[np.isfinite(table) & (table >= 0)])
        place = np.searchsorted(values, y, side="right")
        gap = values[np.minimum(place, len(values) - 1)] - values[place - 1]
        mean = (error**2).mean(axis=1)
        difference = np.abs(side.at(y.astype(np.float64)) - mean)
        assert (difference <= gap**2 / 1024 + 1e-9 * mean).all()
        assert difference.max() < mean.max() / 50
