"""What holds of every price of a product, whatever the kernel family."""

from collections.abc import Iterable

import numpy as np

import sim
from sim.interval import LOG_HALF_WIDTH
from tiles.problems import Gemm

__all__ = ["check_price", "check_traffic"]


def check_price(priced: sim.PricedTable, units: Iterable[str], *, own: Iterable[str] = ()) -> None:
    """Times are finite, positive and inside their intervals, and no unit is busy for longer.

    Args:
        units: terms of what is busy while the kernel runs.
        own: terms that this family alone has.
    """
    for column in (priced.time_us, *priced.terms_us.values()):
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    assert (priced.time_us > 0).all()
    assert (priced.low_us < priced.time_us).all()
    assert (priced.time_us < priced.high_us).all()
    assert set(priced.terms_us) <= {*LOG_HALF_WIDTH, *own}
    for term in units:
        assert (priced.terms_us[term] <= priced.time_us * (1 + 1e-9)).all(), term


def check_traffic(priced: sim.PricedTable, problem: Gemm, *, l2: bool = True) -> None:
    """A 16-bit output is written once, and no operand is read less than once.

    Args:
        l2: the family's traffic from the L2 is that of whole operands, too.
    """
    written = problem.m * problem.n * 2
    assert (priced.dram_write_bytes == written).all()
    for read in (priced.dram_read_bytes, *([priced.l2_read_bytes] if l2 else [])):
        assert (read >= (problem.min_bytes - written) * (1 - 1e-12)).all()
