"""Turns on an SM: a lone CTA computes and then waits, many wait for one another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.resident_turns import turn_ns

POSITIVE = st.floats(0.5, 1e4)


def one(resident: float, work: float, chain: float, waits: float) -> float:
    def row(value: float) -> NDArray[np.float64]:
        return np.array([value])

    told = turn_ns(
        row(resident), work=row(work), chain=row(chain), waits=row(waits), exponent=row(4.0)
    )
    return float(told[0])


def test_a_lone_one_waits_computes_and_is_slowed_by_nobody() -> None:
    assert one(1.0, 100.0, 1e-9, 50.0) == pytest.approx(150.0)
    assert one(1.0, 1e-9, 80.0, 50.0) == pytest.approx(130.0)


def test_many_are_bound_by_what_they_all_ask_for() -> None:
    assert one(64.0, 100.0, 80.0, 50.0) == pytest.approx(6400.0, rel=0.01)


def test_waits_of_one_are_hidden_by_the_work_of_others() -> None:
    alone, beside = one(1.0, 100.0, 10.0, 400.0), one(2.0, 100.0, 10.0, 400.0)
    assert alone < beside < 1.1 * alone  # twice as much in hardly more time


@given(st.floats(1, 64), POSITIVE, POSITIVE, POSITIVE)
def test_a_turn_lies_between_nobody_and_everybody_computing(
    resident: float, work: float, chain: float, waits: float
) -> None:
    told = one(resident, work, chain, waits)
    assert told >= one(1.0, work, chain, waits) * (1 - 1e-9)
    assert told <= waits + (chain**4 + (resident * work) ** 4) ** 0.25 * (1 + 1e-9)
    assert told <= one(resident + 1, work, chain, waits) * (1 + 1e-9)
