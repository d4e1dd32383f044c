"""Test data: moments, outliers, and the same numbers every time."""

import time

import numpy as np
import pytest

from sim.error import DATA_KINDS, sample
from sim.error.datasets import OUTLIER_GAIN, outlier_channels


@pytest.mark.parametrize("side", ["activation", "weight"])
@pytest.mark.parametrize("kind", DATA_KINDS)
def test_the_same_data_twice_whatever_else_was_drawn(kind: str, side: str) -> None:
    first = sample(kind, 16, 48, seed=3, side=side)
    sample(kind, 64, 7, seed=4)
    again = sample(kind, 16, 48, seed=3, side=side)
    assert first.dtype == np.float32
    assert first.shape == (16, 48)
    np.testing.assert_array_equal(first, again)


def test_seeds_and_sides_are_independent() -> None:
    x = sample("normal", 64, 256)
    for other in (sample("normal", 64, 256, seed=1), sample("normal", 64, 256, side="weight")):
        correlation = np.corrcoef(x.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / 128  # five deviations of 16 384 pairs


@pytest.mark.parametrize(
    ("kind", "fourth_moment", "tolerance"),
    [("normal", 3.0, 0.05), ("laplace", 6.0, 0.2), ("student-t", 9.0, 2.5)],
)
def test_moments(kind: str, fourth_moment: float, tolerance: float) -> None:
    """Mean 0, variance 1; the fourth moments are those of the three densities."""
    x = sample(kind, 1024, 1024).astype(np.float64)
    assert x.mean() == pytest.approx(0, abs=0.005)
    assert np.mean(x**2) == pytest.approx(1, abs=0.01)
    assert np.mean(x**4) == pytest.approx(fourth_moment, abs=tolerance)
    assert np.mean(x < 0) == pytest.approx(0.5, abs=0.003)


def test_outlier_data_are_the_normal_data_with_few_channels_enlarged() -> None:
    plain, outliers = sample("normal", 64, 1024), sample("outlier", 64, 1024)
    enlarged = (outliers != plain).any(axis=0)
    assert enlarged.sum() == outlier_channels(1024) == 6
    np.testing.assert_array_equal(outliers[:, enlarged], plain[:, enlarged] * OUTLIER_GAIN)
    np.testing.assert_array_equal(
        sample("outlier", 8, 64, side="weight"), sample("normal", 8, 64, side="weight")
    )


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_a_layer_of_data_takes_about_a_second(kind: str) -> None:
    seconds = []
    for _ in range(2):
        start = time.process_time()
        sample(kind, 1024, 4096)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("uniform", 4, 4), "data 'uniform': choose one of normal, laplace, student-t, outlier"),
        (("normal", 0, 4), "data of shape 0 x 4: both extents must be at least 1"),
    ],
)
def test_bad_requests_are_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(*arguments)


def test_bad_sides_and_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="side 'gradient': choose one of activation, weight"):
        sample("normal", 4, 4, side="gradient")
    with pytest.raises(ValueError, match="seed -1: it must not be negative"):
        sample("normal", 4, 4, seed=-1)
