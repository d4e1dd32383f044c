"""Places in a code grid by the numbers' upper halves, against a search for every number."""

from dataclasses import replace

import numpy as np
import pytest

from tiles.formats import Rounding, code_grid, element


def around_every_bucket() -> np.ndarray:
    """First and last fp32 numbers of all upper halves, random ones between, and infinity."""
    low = np.array([0, 1, 0x7FFF, 0x8000, 0xFFFF], np.uint32)
    halves = np.arange(0x7F80, dtype=np.uint32)[:, None] << 16
    between = np.random.default_rng(5).integers(0, 2**16, (0x7F80, 3), dtype=np.uint32)
    bits = np.concatenate([halves | low, halves | between], axis=1).ravel()
    return np.append(bits, np.uint32(0x7F80_0000)).view(np.float32)


ROUNDINGS = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO)
X = around_every_bucket()


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=lambda r: r.value)
@pytest.mark.parametrize("name", ["posit8es0", "posit8es1", "posit8es2", "posit6es1", "e4m3fn"])
def test_equals_a_search(name: str, rounding: Rounding) -> None:
    grid = code_grid(element(name))
    assert grid.by_magnitude
    searched = np.searchsorted(grid.thresholds(rounding), X, side="right")
    np.testing.assert_array_equal(grid.places(X, rounding), searched)


def test_a_grid_finer_than_upper_halves_is_searched() -> None:
    grid = code_grid(element("posit16es1"))
    searched = np.searchsorted(grid.thresholds(Rounding.NEAREST_EVEN), X, side="right")
    np.testing.assert_array_equal(grid.places(X, Rounding.NEAREST_EVEN), searched)


def test_signs_are_searched() -> None:
    grid = replace(code_grid(element("posit8es1")), by_magnitude=False)
    few = code_grid(element("nf4"))
    assert not few.by_magnitude
    x = np.concatenate([X, -X])
    for one in (grid, few):
        searched = np.searchsorted(one.thresholds(Rounding.NEAREST_EVEN), x, side="right")
        np.testing.assert_array_equal(one.places(x, Rounding.NEAREST_EVEN), searched)
