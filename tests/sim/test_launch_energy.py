"""Predicted power and energy: the limit, what draws more, and agreement with the clock.

``python tests/sim/test_launch_energy.py`` prints what docs/energy.md says of the readings.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim import Prediction, load_gpu, price
from sim.clock import clock_ghz
from sim.energy import (
    AT_WORK,
    DRAM_PJ_PER_BYTE,
    bytes_mj,
    energy_interval,
    launch_energy,
    priced_energy,
    sustained_time_us,
)
from sim.measured_file import read_measured
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

GPU = load_gpu("h200")
ROOT = Path(__file__).parents[2]


def best(text: str, family: str = "triton_gemm") -> Prediction:
    problem, one = parse_problem(text), kernel(family)
    return price(problem, one, one.legal_space(problem, GPU.limits).accepted, GPU).best()


@pytest.fixture(scope="module")
def product() -> Prediction:
    return best("gemm:1024x1024x1024:bf16:bf16")


def with_busy(one: Prediction, tensor: float, cuda: float = 0.0) -> Prediction:
    terms = {"tensor": tensor * one.time_us, "cuda_cores": cuda * one.time_us}
    return replace(one, terms_us=terms)


def moving(one: Prediction, bytes_per_s: float) -> Prediction:
    """The same with idle cores and so many bytes a second from DRAM."""
    moved = bytes_per_s * one.time_us / 1e6
    return replace(with_busy(one, 0.0), dram_read_bytes=moved, dram_write_bytes=0.0)


def test_bytes_cost_picojoules_each() -> None:
    # 1e9 bytes x 1e-12 J x 1e3 mJ/J
    assert bytes_mj(np.array([1e9])) == pytest.approx(DRAM_PJ_PER_BYTE)


def test_an_energys_interval_is_the_times_and_powers_own() -> None:
    """Independent: squares add up.  Half of the readings of power lie within 14 %."""
    low, high = energy_interval(
        np.array([8.0, 8.0]), np.array([10.0, 10.0]), np.array([10.0, 8.0]), np.array([10.0, 15.0])
    )
    # Times that are known leave power's: a normal distribution's 90 % are 2.44 times its 50 %.
    own = 0.14 * 1.64485 / 0.67449
    assert np.log(high[0] / 8.0) == np.log(8.0 / low[0]) == pytest.approx(own, rel=1e-3)
    assert np.log(8.0 / low[1]) == pytest.approx(np.hypot(np.log(10 / 8), own), rel=1e-3)
    assert np.log(high[1] / 8.0) == pytest.approx(np.hypot(np.log(15 / 10), own), rel=1e-3)


def test_seconds_of_a_launch_take_its_energy_by_the_limit_at_least() -> None:
    times, energies = np.array([100.0, 100.0]), np.array([35.0, 140.0])
    # 35 mJ in 100 us are 350 W; 140 mJ would be 1400 W, and 700 W take 200 us for them.
    assert sustained_time_us(times, energies, GPU).tolist() == pytest.approx([100.0, 200.0])


def test_energy_is_power_times_the_time_where_launches_last(product: Prediction) -> None:
    for one in (product, with_busy(product, 0.1), moving(product, 5e12)):
        found = launch_energy(one, GPU)
        assert found.energy_mj == pytest.approx(found.power_w * found.sustained_time_us / 1e3)
        assert found.power_w <= GPU.tdp_w * (1 + 1e-12)
        assert found.sustained_time_us >= one.time_us


def test_work_takes_the_same_however_long_it_takes_and_time_what_the_board_draws(
    product: Prediction,
) -> None:
    none = replace(with_busy(product, 0.0), dram_read_bytes=0.0, dram_write_bytes=0.0)
    for busy in (0.1, 0.2):
        twice = replace(with_busy(product, busy), time_us=2 * product.time_us)
        twice = replace(twice, terms_us=with_busy(product, busy).terms_us)
        more = launch_energy(twice, GPU).energy_mj
        less = launch_energy(with_busy(product, busy), GPU).energy_mj
        assert more - less == pytest.approx(launch_energy(none, GPU).energy_mj)


def test_a_table_has_the_energies_of_its_rows() -> None:
    problem, one = parse_problem("quantize:8192x8192:e4m3fn.b1x128:bf16"), kernel("triton_quantize")
    priced = price(problem, one, one.legal_space(problem, GPU.limits).accepted, GPU)
    table = priced_energy(priced, GPU)
    for row in (0, len(priced) // 2, len(priced) - 1):
        found = launch_energy(priced.prediction(row), GPU)
        for name in ("energy_mj", "power_w", "sustained_time_us"):
            assert getattr(table, name)[row] == pytest.approx(getattr(found, name))


def test_power_grows_with_what_is_busy_up_to_the_limit(product: Prediction) -> None:
    shares = np.linspace(0, 1, 21)
    for drawn in (
        [launch_energy(with_busy(product, share), GPU).power_w for share in shares],
        [launch_energy(with_busy(product, 0.0, share), GPU).power_w for share in shares],
        [launch_energy(moving(product, 1e12 * share), GPU).power_w for share in shares],
    ):
        assert drawn == sorted(drawn)
        assert AT_WORK * GPU.tdp_w <= drawn[0] * (1 + 1e-12)
        assert drawn[0] < drawn[-1] <= GPU.tdp_w * (1 + 1e-12)


@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "int8-row"])
def test_the_limit_is_drawn_in_the_predicted_time_where_the_clock_falls(name: str) -> None:
    one = best(f"gemm:1024x1024x1024:{name}:bf16")
    element = one.problem.recipe.activation.element.name  # type: ignore[attr-defined]
    for share in np.linspace(0, 1, 41):
        ghz = clock_ghz(
            GPU,
            element=element,
            tensor_busy=np.asarray(share),
            cuda_cores_busy=np.asarray(0.0),
        )
        found = launch_energy(with_busy(one, float(share)), GPU)
        if ghz < GPU.max_clock_mhz / 1e3:
            assert found.power_w == pytest.approx(GPU.tdp_w)
            assert found.sustained_time_us == pytest.approx(one.time_us)


def test_integers_draw_less_and_narrow_floats_more() -> None:
    def cores_w(name: str) -> float:
        one = best(f"gemm:1024x1024x1024:{name}:bf16")
        busy, idle = (launch_energy(with_busy(one, share), GPU).power_w for share in (0.2, 0.0))
        return busy - idle

    assert cores_w("int8-row") < cores_w("bf16") < cores_w("e4m3-row")


def test_a_stream_may_take_longer_at_the_limit_than_among_others() -> None:
    stream = best("quantize:8192x8192:e4m3fn.b1x128:bf16", "triton_quantize")
    gentle = launch_energy(moving(stream, 2e12), GPU)
    assert 0.5 * GPU.tdp_w < gentle.power_w < 0.7 * GPU.tdp_w
    assert gentle.sustained_time_us == stream.time_us
    hard = launch_energy(moving(stream, 7e12), GPU)
    assert hard.power_w == pytest.approx(GPU.tdp_w)
    assert hard.sustained_time_us > 1.05 * stream.time_us


def test_the_byte_is_set_on_one_row_and_meets_the_streams_that_were_held_out() -> None:
    """Energy less the guess for the time that a launch took, pauses in it, and the cores' share."""
    rows = json.loads((ROOT / "evidence" / "h200" / "energy.json").read_text())["rows"]
    ratios = {}
    for row in rows:
        problem, one = parse_problem(row["problem"]), kernel(row["kernel"])
        table = ConfigTable.of([one.config_type.from_dict(row["config"])])
        stream = price(problem, one, table, GPU).best()
        if stream.binding != "dram":
            continue
        waited_us = np.median(row["measured"]["time_us"]) - stream.time_us
        predicted_mj = launch_energy(stream, GPU).energy_mj + AT_WORK * GPU.tdp_w * waited_us / 1e3
        ratios[row["problem"]] = predicted_mj / np.median(row["measured"]["energy_mj"])
    assert ratios.pop("quantize:16384x16384:int8.row:bf16") == pytest.approx(1.0, abs=0.01)
    assert len(ratios) == 2
    assert all(0.91 < ratio < 1.09 for ratio in ratios.values()), ratios


def off(least_us: float, family: str = "") -> str:
    """Median of how far predicted power is off NVML's readings, in the docs' words."""
    path = ROOT / "data" / "h200" / "sweeps" / "measurements.parquet"
    errors = []
    for table in read_measured(path):
        if family not in ("", table.kernel.name):
            continue
        priced = price(table.problem, table.kernel, table.table, GPU, table.facts)
        assert table.power_w is not None
        for row in np.flatnonzero(table.time_us >= least_us):
            power_w = launch_energy(priced.prediction(int(row)), GPU).power_w
            errors.append(abs(power_w / table.power_w[row] - 1))
    return f"{100 * np.median(errors):.0f} %"


@pytest.mark.slow
def test_the_page_says_how_far_the_readings_are() -> None:
    page = " ".join((ROOT / "docs" / "energy.md").read_text(encoding="utf-8").split())
    assert (
        f"off the reading by {off(200)} in the middle for launches of 0.2 ms and more, by "
        f"{off(1000)} from a millisecond on, and by {off(200, 'hopper_gemm')} for `hopper_gemm`"
    ) in page


if __name__ == "__main__":
    print(off(200), off(1000), off(200, "hopper_gemm"))
