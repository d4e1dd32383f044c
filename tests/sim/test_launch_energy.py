"""Predicted power and energy: the limit, what draws more, and agreement with the clock.

``python tests/sim/test_launch_energy.py`` prints what docs/energy.md says of the readings.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim import Prediction, load_gpu, price
from sim.clock import clock_ghz
from sim.energy import launch_energy
from sim.measured_file import read_measured
from tiles.kernels import kernel
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


def test_energy_is_power_times_time(product: Prediction) -> None:
    found = launch_energy(product, GPU)
    assert found.energy_mj == pytest.approx(found.power_w * product.time_us / 1e3)
    twice = replace(with_busy(product, 0.1), time_us=2 * product.time_us)
    once = with_busy(product, 0.05)  # of the longer one the same work is half the share
    assert launch_energy(twice, GPU).energy_mj == pytest.approx(
        2 * launch_energy(once, GPU).energy_mj
    )


def test_power_grows_with_what_is_busy_up_to_the_limit(product: Prediction) -> None:
    shares = np.linspace(0, 1, 21)
    for drawn in (
        [launch_energy(with_busy(product, share), GPU).power_w for share in shares],
        [launch_energy(with_busy(product, 0.0, share), GPU).power_w for share in shares],
    ):
        assert drawn == sorted(drawn)
        assert 0.4 * GPU.tdp_w < drawn[0] < drawn[-1] <= GPU.tdp_w


@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "int8-row"])
def test_the_limit_is_drawn_exactly_where_the_clock_falls(name: str) -> None:
    one = best(f"gemm:1024x1024x1024:{name}:bf16")
    element = one.problem.recipe.activation.element.name  # type: ignore[attr-defined]
    for share in np.linspace(0, 1, 41):
        ghz = clock_ghz(
            GPU,
            element=element,
            tensor_busy=np.asarray(share),
            cuda_cores_busy=np.asarray(0.0),
        )
        power_w = launch_energy(with_busy(one, float(share)), GPU).power_w
        assert (power_w == GPU.tdp_w) == bool(ghz < GPU.max_clock_mhz / 1e3)


def test_integers_draw_less_and_narrow_floats_more(product: Prediction) -> None:
    def power(name: str) -> float:
        one = best(f"gemm:1024x1024x1024:{name}:bf16")
        return launch_energy(with_busy(one, 0.2), GPU).power_w

    bf16 = launch_energy(with_busy(product, 0.2), GPU).power_w
    assert power("int8-row") < bf16 < power("e4m3-row")


def test_streams_draw_what_tensor_cores_leave() -> None:
    stream = best("quantize:8192x8192:e4m3fn.row:bf16", "triton_quantize")
    found = launch_energy(stream, GPU)
    assert 0.5 * GPU.tdp_w < found.power_w < 0.9 * GPU.tdp_w


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
