"""Searches replayed on measured tables."""

from pathlib import Path

import numpy as np
import pytest

from sim.evaluation import Predicted
from sim.evaluation.choice import expected_fraction
from sim.measured import MeasuredTable
from sim.measured_file import read_measured
from tuning import Strategy
from tuning.searched import COUNTS, searched

FILE = Path(__file__).parents[2] / "data" / "h200" / "first_look" / "measurements.parquet"
TABLES = read_measured(FILE)[:2]


def told(table: MeasuredTable, power: float) -> Predicted:
    """Predictions that order a table by a power of its times."""
    times = table.time_us**power
    return Predicted(time_us=times, low_us=times / 1.1, high_us=times * 1.1)


def test_who_is_told_the_truth_needs_one_measurement() -> None:
    (found,) = searched(
        TABLES, [told(t, 1.0) for t in TABLES], [Strategy.MODEL], predictor="a power", seeds=1
    )
    assert (found.tables, list(found.shares)) == (2, list(COUNTS))
    assert set(found.shares.values()) == {1.0}


def test_shares_are_those_of_what_was_tried_first() -> None:
    answers = [told(t, -1.0) for t in TABLES]
    (found,) = searched(TABLES, answers, [Strategy.MODEL], predictor="a power", seeds=1)
    for count in COUNTS:
        each = [
            expected_fraction(a.time_us, t.time_us, count)
            for t, a in zip(TABLES, answers, strict=True)
        ]
        assert found.shares[count] == pytest.approx(np.exp(np.mean(np.log(each))))
        assert found.worst[count] == pytest.approx(min(each))


def test_same_seeds_same_shares_and_they_rise() -> None:
    answers = [told(t, 0.5) for t in TABLES]
    calls = []
    once, again = (
        searched(
            TABLES,
            answers,
            [Strategy.TPE],
            predictor="a power",
            seeds=2,
            progress=lambda d, of: calls.append((d, of)),
        )
        for _ in range(2)
    )
    assert once == again
    assert calls[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    shares = list(once[0].shares.values())
    assert shares == sorted(shares)
    assert shares[0] < 1.0


def test_a_search_needs_intervals() -> None:
    with pytest.raises(ValueError, match="a search needs predictions with intervals"):
        searched(
            TABLES[:1],
            [Predicted(time_us=TABLES[0].time_us)],
            [Strategy.HYBRID],
            predictor="a power",
            seeds=1,
        )
