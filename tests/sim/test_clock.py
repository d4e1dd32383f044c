"""The clock under the power limit: readings of an H200, and laws."""

import numpy as np
import pytest

import sim
from sim.clock import (
    MEMORY_PJ_PER_BYTE,
    NOMINAL_UTILISATION,
    clock_ghz,
    element_power,
    memory_share,
)

H200, H20 = sim.load_gpu("h200"), sim.load_gpu("h20")


def ghz(element: str, busy: float, cuda_cores: float = 0.0, gpu: sim.Gpu = H200) -> float:
    columns = {"tensor_busy": np.array([busy]), "cuda_cores_busy": np.array([cuda_cores])}
    return float(clock_ghz(gpu, element=element, **columns)[0])


@pytest.mark.parametrize(
    ("element", "busy", "cuda_cores", "read_mhz"),
    [
        ("bf16", 0.87, 0.0, 1538),
        ("e4m3fn", 0.83, 0.0, 1490),
        ("int8", 0.87, 0.0, 1628),
        ("int8", 0.56, 0.28, 1811),  # in blocks of 128, promoted
        ("e4m3fn", 0.44, 0.11, 1808),  # the same with 1 x 128 blocks, in Triton
        ("int8", 0.19, 0.38, 1980),  # in blocks of 32
    ],
)
def test_the_clock_meets_readings_at_the_power_limit(
    element: str, busy: float, cuda_cores: float, read_mhz: float
) -> None:
    """8192 cubed on an H200, NVML beside the samples."""
    assert 1e3 * ghz(element, busy, cuda_cores) == pytest.approx(read_mhz, rel=0.08)


def test_cores_busier_than_always_draw_no_more() -> None:
    """Estimates of work side by side may add up to more clocks than there are."""
    assert ghz("int8", 0.9, 2.0) == ghz("int8", 0.9, 1.0) < ghz("int8", 0.9, 0.9)
    assert ghz("int8", 2.0, 0.5) == ghz("int8", 1.0, 0.5) < ghz("int8", 0.9, 0.5)


def test_the_sustained_clock_is_that_of_large_products() -> None:
    assert ghz("bf16", NOMINAL_UTILISATION) == pytest.approx(H200.sustained_clock_mhz / 1e3)


def test_more_work_never_raises_the_clock_and_idle_cores_leave_it() -> None:
    shares = np.linspace(0, 1, 21)
    for none in (0.0, 0.5):
        clocks = [ghz("bf16", share, none) for share in shares]
        assert clocks == sorted(clocks, reverse=True)
        assert clocks[0] == H200.max_clock_mhz / 1e3
    # At a quarter of the tensor rate the limit is far away.
    assert ghz("bf16", 0.8, gpu=H20) > 0.9 * H20.max_clock_mhz / 1e3


def test_the_clock_of_a_loop_falls_slower_than_its_waits_shrink() -> None:
    """So a faster unit beside the tensor cores never makes a product slower."""
    tensor = 500.0
    times = [total / ghz("e4m3fn", tensor / total) for total in np.linspace(500, 2000, 50)]
    assert times == sorted(times)


def test_narrow_floats_draw_more_and_integers_less_than_wide_floats() -> None:
    assert element_power("int8") < element_power("fp16") == 1.0 < element_power("e4m3fn")


def test_memory_draws_its_bytes_energy_up_to_its_bandwidth() -> None:
    """A byte a clock at 1.98 GHz is 1.98 GB/s; its picojoules in watts, of 700."""
    watts = MEMORY_PJ_PER_BYTE * 1e-12 * 1.98e9
    assert float(memory_share(H200, 1.0)) == pytest.approx(watts / 700)
    most = H200.dram_gb_per_s / (H200.sustained_clock_mhz / 1e3)
    assert memory_share(H200, 2 * most) == memory_share(H200, most)
    assert 0.1 < memory_share(H200, most) < 0.5


def test_what_reads_its_operands_again_runs_at_a_lower_clock() -> None:
    """8192 cubed, e4m3 with 256 x 128 tiles: 912 us in rasters of 8 rows, 952 us in those of 1."""
    bytes_per_clk = np.array([0.0, 200.0, 800.0])
    busy = {"tensor_busy": np.full(3, 0.8), "cuda_cores_busy": np.zeros(3)}
    clocks = clock_ghz(H200, element="e4m3fn", **busy, dram_bytes_per_clk=bytes_per_clk)
    assert clocks[0] == pytest.approx(ghz("e4m3fn", 0.8))
    assert (np.diff(clocks) < 0).all()
    # Far from the limit nobody minds.
    idle = {"tensor_busy": np.full(3, 0.1), "cuda_cores_busy": np.zeros(3)}
    free = clock_ghz(H200, element="e4m3fn", **idle, dram_bytes_per_clk=bytes_per_clk)
    assert free.tolist() == [H200.max_clock_mhz / 1e3] * 3
