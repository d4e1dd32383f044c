"""The small product beside a prediction: closed forms, order of formats, and large products."""

import time

import numpy as np
import pytest

import sim
from sim.error import DATA_KINDS, product_error, sample
from sim.error.small_product import DEPTH, _rounded, matmul_error
from tiles.recipes import RECIPES, recipe


def db(name: str, data: str = "normal") -> float:
    return sim.matmul_error(recipe(name), data).sqnr_db


def expected_amax(count: int) -> float:
    """Mean of the largest of ``count`` standard normal magnitudes, by simulation."""
    random = np.random.default_rng(7)
    return float(np.abs(random.standard_normal((400, count))).max(axis=1).mean())


def uniform_sqnr_db(amax: float) -> float:
    """A product of two operands, each with uniform noise of variance (amax / 127)^2 / 12."""
    noise = (amax / 127) ** 2 / 12
    return -10 * float(np.log10(2 * noise))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("int8-row", DEPTH),
        ("int8-tensor", 64 * DEPTH),
        ("jetfire", 32 * 32),
        ("int8-b128", 64 * 128),  # the operands have 64 rows
    ],
)
def test_int8_noise_is_uniform_within_a_step(name: str, count: int) -> None:
    assert db(name) == pytest.approx(uniform_sqnr_db(expected_amax(count)), abs=1.0)


@pytest.mark.parametrize(
    ("name", "mantissa_bits", "tolerance"),
    [("bf16", 7, 0.5), ("fp16", 10, 0.5), ("e4m3-row", 3, 1.0), ("e5m2-row", 2, 1.0)],
)
def test_float_noise_is_relative(name: str, mantissa_bits: int, tolerance: float) -> None:
    """Relative error of a float with m stored bits on smooth data.

    Within a binade the error is uniform in +-2^(e-m-1), variance 4^(e-m) / 12, and the mean of x^2
    over a log-uniform binade is 4^e * 3 / (2 ln 4) ... averaged over the normal density this is
    close to 4^-m / 12 * E[4^e] / E[x^2]; the ratio E[4^e] / E[x^2] is computed here by quadrature.
    """
    x = np.linspace(1e-6, 8, 2_000_001)
    density = np.exp(-x * x / 2)
    binade = np.exp2(2 * np.floor(np.log2(x)))
    ratio = float((binade * density).sum() / (x * x * density).sum())
    noise = 4.0**-mantissa_bits / 12 * ratio
    assert db(name) == pytest.approx(-10 * np.log10(2 * noise), abs=tolerance)


def test_outliers_hurt_integers_more_than_floats_and_small_blocks_least() -> None:
    assert db("int8-row", "outlier") < db("int8-row") - 8
    assert db("e4m3-row", "outlier") > db("e4m3-row") - 1
    assert db("jetfire", "outlier") > db("int8-row", "outlier") + 3
    assert db("e4m3-row", "outlier") > db("int8-row", "outlier")
    assert db("int8-row") > db("e4m3-row")


def test_sixteen_bit_elements_count_with_their_rounding() -> None:
    assert 45 < db("bf16") < 60 < db("fp16") < 80


@pytest.mark.parametrize("data", DATA_KINDS)
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_measures_agree(name: str, data: str) -> None:
    error = matmul_error(recipe(name), data)
    assert error.data == data
    assert error.relative_rms == pytest.approx(10 ** (-error.sqnr_db / 20))
    # The largest of 4096 errors lies well above their root mean square, not out of sight; rows with
    # large outliers widen the spread.
    assert 2 < error.relative_max / error.relative_rms < 16


def test_the_same_twice_and_fast() -> None:
    chosen = recipe("e4m3-row")
    first = matmul_error(chosen, "normal")
    seconds = []
    for _ in range(5):
        matmul_error.cache_clear()
        _rounded.cache_clear()
        start = time.process_time()
        assert matmul_error(chosen, "normal") == first
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02
    # Remembered: not even rounded again.
    assert matmul_error(chosen, "normal") is matmul_error(chosen, "normal")


def test_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="data 'uniform': choose one of normal, laplace"):
        matmul_error(recipe("bf16"), "uniform")


@pytest.mark.parametrize("data", ["normal", "outlier"])
@pytest.mark.parametrize(
    ("name", "tolerance_db"),
    [
        ("bf16", 0.5),
        ("e4m3-row", 0.5),
        ("deepseek-fp8", 1.0),
        ("mxfp8-e4m3", 0.5),
        ("nvfp4", 0.5),
        ("jetfire", 0.5),
        ("w4a16-g128", 0.5),
    ],
)
def test_the_small_product_stands_for_large_ones(name: str, data: str, tolerance_db: float) -> None:
    """Formats whose scales do not cover a whole extent, or are of floats: tenths of a decibel."""
    a, b = sample(data, 256, 4096, seed=1), sample(data, 256, 4096, seed=1, side="weight")
    large = product_error(recipe(name), a, b).sqnr_db
    assert db(name, data) == pytest.approx(large, abs=tolerance_db)


@pytest.mark.parametrize(("name", "most_db"), [("int8-row", 1.5), ("int8-tensor", 2.5)])
def test_integer_scales_of_whole_extents_lose_with_their_size(name: str, most_db: float) -> None:
    """As the module's docstring says: the largest of more values is larger."""
    a, b = sample("normal", 256, 4096, seed=1), sample("normal", 256, 4096, seed=1, side="weight")
    loss = db(name) - product_error(recipe(name), a, b).sqnr_db
    assert 0.3 < loss < most_db


def test_outlier_handling_counts() -> None:
    assert db("llm-int8", "outlier") > db("int8-row", "outlier") + 10
    assert db("llm-int8") == db("int8-row")
