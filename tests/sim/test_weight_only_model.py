"""The model of weight-only products: what a panel takes, and what sharing K costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.parameters import WEIGHT_ONLY
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

FAMILY = kernel("triton_weight_only")
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")


def row(**changes: int | bool) -> ConfigTable:
    plain = {"block_m": 8, "block_n": 32, "group_m": 1, "split_k": 1, "num_warps": 2}
    plain |= {"num_stages": 8, "tma": False, "fold": False}
    return ConfigTable.of([FAMILY.config_type.from_dict(plain | changes)])


def priced(problem: str, gpu: sim.Gpu = H200, **changes: int | bool) -> float:
    table = row(**changes)
    return float(sim.price(parse_problem(problem), FAMILY, table, gpu).time_us[0])


@given(
    shape=st.tuples(st.integers(1, 4096), st.integers(1, 60), st.integers(1, 30)),
    recipe=st.sampled_from(["w4a16-g128", "w8a16"]),
    gpu=st.sampled_from([H200, H100]),
    factor=st.floats(1, 4),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_prices_are_finite_and_more_of_anything_is_never_slower(
    shape: tuple[int, int, int], recipe: str, gpu: sim.Gpu, factor: float
) -> None:
    m, n, k = shape
    problem = parse_problem(f"gemm:{m}x{n * 128}x{k * 256}:{recipe}:bf16")
    table = FAMILY.legal_space(problem, gpu.limits).accepted
    table = table.take(np.arange(0, len(table), 7))
    now = sim.price(problem, FAMILY, table, gpu)
    assert np.isfinite(now.time_us).all()
    assert (now.time_us > 0).all()
    for better in (
        replace(gpu, dram_read_gb_per_s=gpu.dram_read_gb_per_s * factor),
        replace(gpu, l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor),
        replace(gpu, dram_latency_ns=gpu.dram_latency_ns / factor),
    ):
        then = sim.price(problem, FAMILY, table, better).time_us
        assert (then <= now.time_us * (1 + 1e-9)).all()


def test_a_panels_scales_take_half_of_a_loads_latency_at_least() -> None:
    """Programs with few panels of scales under way wait for them, whatever they multiply."""
    k = 16384
    least_us = (k / 128) * WEIGHT_ONLY.loaded_latency * H200.dram_latency_ns / 2 / 1e3
    assert priced(f"gemm:1x4096x{k}:w4a16-g128:bf16") > least_us
    slow = replace(H200, dram_latency_ns=4 * H200.dram_latency_ns)
    grouped, whole = (
        priced(f"gemm:1x4096x{k}:{name}:bf16", slow) / priced(f"gemm:1x4096x{k}:{name}:bf16")
        for name in ("w4a16-g128", "w8a16")
    )
    assert grouped > 1.2 * whole


@pytest.mark.parametrize(
    ("problem", "config", "measured_us"),
    [
        # Of data/h200/sweeps, shapes in view: one CTA an SM, then four, then with a tile of 128.
        ("gemm:1x4096x4096:w4a16-g128:bf16", {}, 19.4),
        ("gemm:1x4096x4096:w4a16-g128:bf16", {"split_k": 4}, 9.6),
        ("gemm:1x28672x4096:w4a16-g128:bf16", {"block_n": 128, "tma": True}, 26.7),
    ],
)
def test_decoding_one_row_takes_about_what_was_measured(
    problem: str, config: dict[str, int], measured_us: float
) -> None:
    assert priced(problem, **config) == pytest.approx(measured_us, rel=0.25)


def test_sharing_k_costs_an_arrival_and_pays_where_ctas_are_few() -> None:
    # The second has three tiles for each of 132 multiprocessors, as many as fit.
    few, many = "gemm:1x4096x8192:w4a16-g128:bf16", "gemm:1x50688x8192:w4a16-g128:bf16"
    assert priced(few, split_k=4) < 0.6 * priced(few)
    assert priced(many, block_n=128, split_k=8) > priced(many, block_n=128)
