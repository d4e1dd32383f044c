"""One wave of the GEMM model: a CTA's loop, and CTAs that share a multiprocessor's units."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.gemm_wave import Iteration, Loop, compute_clk, lone_clk, queued_clk


def column(value: int) -> NDArray[np.int64]:
    return np.array([value])


def loop(*, serial: bool = False, in_line: bool = False, **clocks: float) -> Loop:
    fields = {"tensor_clk": 512.0, "promotion_clk": 0.0, "issue_clk": 0.0, "wait_clk": 0.0}
    fields |= {"chain_clk": 0.0, "loop_clk": 0.0} | clocks
    columns = {name: np.array([value]) for name, value in fields.items()}
    return Loop(in_line=np.array([in_line]), serial=serial, **columns)


def iteration(
    unit_clk: NDArray[np.float64], alone_clk: NDArray[np.float64], *, serial: bool
) -> Iteration:
    none = np.zeros(1)
    return Iteration(
        element="e4m3fn",
        tensor_clk=none,
        promotion_clk=none,
        unit_clk=unit_clk,
        alone_clk=alone_clk,
        serial=serial,
        smem_clk=none,
        l2_bytes=none,
        slice_bytes=none,
        iterations=none,
        stages=none,
        held=0.0,
    )


def test_serial_promotion_follows_one_plus_r() -> None:
    """A lone CTA that is not held up by memory takes T = 1 + R and its waits."""
    unit, alone = lone_clk(loop(promotion_clk=384.0, wait_clk=280.0, serial=True))
    assert (unit[0], alone[0]) == (512, 512 + 384 + 280)
    one_cta, four = (compute_clk(iteration(unit, alone, serial=True), column(n)) for n in (1, 4))
    assert one_cta == alone
    assert 4 * 512 < four[0] < 4 * alone[0]


def test_a_warps_own_instructions_run_beside_warpgroup_products_and_around_mma_sync() -> None:
    for tensor_clk, beside in ((512.0, 512 + 20), (100.0, 300.0)):
        _, alone = lone_clk(loop(tensor_clk=tensor_clk, wait_clk=20.0, chain_clk=300.0))
        assert alone[0] == beside
        _, around = lone_clk(
            loop(tensor_clk=tensor_clk, wait_clk=20.0, chain_clk=300.0, in_line=True)
        )
        assert around[0] == tensor_clk + 300
    # Their issue slots are a unit of their own.
    assert lone_clk(loop(tensor_clk=100.0, loop_clk=194.0))[0][0] == 194


def test_co_resident_ctas_are_customers_of_the_busiest_unit() -> None:
    """Schweitzer's approximation: exact for one, between its bounds for many."""
    served, apart = np.array([100.0]), np.array([400.0])
    assert queued_clk(served, apart, column(1))[0] == pytest.approx(500)
    times = [queued_clk(served, apart, column(n))[0] for n in range(1, 33)]
    assert times == sorted(times)
    for n, clk in enumerate(times, 1):
        assert max(500, 100 * n) <= clk * (1 + 1e-12)
        assert clk <= 500 * n
    assert times[-1] == pytest.approx(3200, rel=0.005)
    # Nobody waits who is never apart from the unit, nor gains by company.
    assert queued_clk(served, np.array([0.0]), column(3))[0] == pytest.approx(300)
