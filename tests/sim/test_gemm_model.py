"""The whole GEMM model: sanity against an H200's measurements, what shows in a price, and speed.

The measured figures are outside checks with wide bands; nothing in the model is fitted to them.
"""

import time
from functools import cache

import numpy as np
import pytest
from priced_gemms import H200, KERNEL, gemm, legal

import sim
from sim.gemm_model import padded_rows
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.gemm import GemmConfig
from tiles.problems import Gemm


@cache
def best_plain(size: int, name: str) -> sim.Prediction:
    """The best cube among kernels that are not persistent, as those measured were."""
    problem = gemm(size, size, size, name)
    table = legal(problem, H200)
    table = table.take(~table["persistent"])
    return sim.price(problem, KERNEL, table, H200).best()


@cache
def best(m: int, n: int, k: int, name: str, gpu: str = "h200") -> sim.Prediction:
    problem, machine = gemm(m, n, k, name), sim.load_gpu(gpu)
    return sim.price(problem, KERNEL, legal(problem, machine), machine).best()


@pytest.mark.parametrize(
    ("size", "name", "measured_tflops"),
    [
        # An H200's best of 16-40 configurations of a plain Triton kernel.
        (4096, "bf16", 611),
        (4096, "e4m3-row", 1170),
        (4096, "int8-row", 1133),
        (4096, "deepseek-fp8", 778),
        (4096, "int8-b128", 759),
        (4096, "jetfire", 317),
        (8192, "bf16", 681),
        (8192, "e4m3-row", 1236),
        (8192, "int8-row", 1248),
        (8192, "deepseek-fp8", 860),
        (8192, "int8-b128", 815),
        (8192, "jetfire", 338),
    ],
)
def test_best_prediction_is_near_what_an_h200_reaches(
    size: int, name: str, measured_tflops: float
) -> None:
    ratio = best_plain(size, name).tflops / measured_tflops
    assert 0.7 < ratio < 1.35


def test_formats_come_out_in_the_measured_order() -> None:
    """e4m3 and int8 in blocks of 128 lie within 10 % of each other, either way round."""
    for block in ("deepseek-fp8", "int8-b128"):
        order = ["e4m3-row", block, "bf16", "jetfire"]
        speeds = [best_plain(4096, name).tflops for name in order]
        assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    ("name", "n", "k", "measured_us"),
    [
        ("bf16", 8192, 8192, 34.5),
        ("bf16", 4096, 4096, 13.5),
        ("e4m3-row", 8192, 8192, 19.9),
        ("e4m3-row", 4096, 4096, 7.7),
        ("bf16", 14336, 4096, 31.6),
    ],
)
def test_decode_shapes_are_bound_by_dram(name: str, n: int, k: int, measured_us: float) -> None:
    prediction = best(16, n, k, name)
    assert prediction.binding == "dram"
    assert 0.7 < prediction.time_us / measured_us < 1.35
    assert 3.3 < prediction.dram_read_bytes / prediction.terms_us["dram"] / 1e6 < 4.2  # TB/s


def test_promotion_binds_small_blocks_and_the_tensor_pipe_row_scales() -> None:
    small = best_plain(4096, "jetfire").terms_us
    assert small["cuda_cores"] > 1.5 * small["tensor"]
    assert best(8192, 8192, 8192, "e4m3-row").binding == "tensor"


def test_a_gpu_without_the_element_decodes_it_and_loses() -> None:
    emulated, native = (best(4096, 4096, 4096, n, "a100") for n in ("e4m3-row", "bf16"))
    assert emulated.path is NumericPath.EMULATED
    assert native.path is NumericPath.NATIVE
    assert emulated.tflops < native.tflops
    # At M = 16 half the bytes pay for the decode.
    emulated, native = (best(16, 8192, 8192, n, "a100") for n in ("e4m3-row", "bf16"))
    assert emulated.time_us < native.time_us


def test_a_better_gpu_is_predicted_faster() -> None:
    assert best(16, 8192, 8192, "bf16").time_us < best(16, 8192, 8192, "bf16", "h100").time_us
    order = ["b200", "h100", "a100", "rtx4090"]
    speeds = [best(4096, 4096, 4096, "bf16", gpu).tflops for gpu in order]
    assert speeds == sorted(speeds, reverse=True)


def test_integers_on_blackwell_are_no_faster_than_its_plain_products() -> None:
    integer, plain, fp8 = (
        best(8192, 8192, 8192, n, "b200") for n in ("int8-row", "bf16", "e4m3-row")
    )
    # 148 SMs x 4096 flop/clk at 1.55 GHz: what mma.sync reaches at most.
    assert integer.tflops < 148 * 4096 * 1.55e-3
    assert integer.tflops < plain.tflops < fp8.tflops


def one(**fields: int | bool) -> ConfigTable:
    config = {
        "block_m": 128,
        "block_n": 128,
        "block_k": 64,
        "group_m": 8,
        "num_warps": 8,
        "num_stages": 4,
        "tma": True,
        "persistent": False,
    }
    return ConfigTable.of([GemmConfig(**(config | fields))])  # type: ignore[arg-type]


def price_one(problem: Gemm, **fields: int | bool) -> float:
    return float(sim.price(problem, KERNEL, one(**fields), H200).time_us[0])


def test_wave_quantisation_shows() -> None:
    """133 tiles take two waves on 132 SMs that hold one CTA each."""
    fits, spills = gemm(128 * 132, 128, 4096, "bf16"), gemm(128 * 133, 128, 4096, "bf16")
    assert price_one(spills, persistent=True) > 1.5 * price_one(fits, persistent=True)


def test_promotion_costs_more_in_a_flattened_loop_and_plain_products_less() -> None:
    for name, faster in (("deepseek-fp8", False), ("e4m3-row", True)):
        problem = gemm(4096, 4096, 4096, name)
        plain, flattened = (
            price_one(problem, block_k=128, persistent=flag) for flag in (False, True)
        )
        assert (flattened < plain) is faster


def test_ordinary_loads_cost_a_tenth_and_more() -> None:
    problem = gemm(4096, 4096, 4096, "bf16")
    for fields in ({"num_warps": 4, "num_stages": 3}, {"block_n": 256}):
        descriptor, ordinary = (price_one(problem, tma=flag, **fields) for flag in (True, False))
        assert ordinary > 1.08 * descriptor


def test_copies_of_the_last_row_crowd_one_slice_of_the_l2() -> None:
    """Measured at 128x7168x2048: 50 us for 256 rows by descriptor, 355 us by ordinary loads."""
    assert padded_rows(128, np.array([256]))[0] == 128
    assert padded_rows(4096, np.array([128]))[0] == 0
    assert padded_rows(2112, np.array([128]))[0] == pytest.approx(17 * 128 / 17 - 2112 / 17)
    tall = {"block_m": 256, "block_n": 16, "block_k": 32, "num_warps": 4, "num_stages": 3}
    few, many = (
        [price_one(gemm(m, 7168, 2048, "bf16"), tma=tma, **tall) for tma in (True, False)]
        for m in (128, 256)
    )
    assert few[1] > 3 * few[0]
    assert many[1] < 1.5 * many[0]


def test_too_few_stages_expose_latency() -> None:
    problem = gemm(4096, 4096, 4096, "bf16")
    two, four = (
        sim.price(problem, KERNEL, one(block_m=64, block_n=64, num_stages=s, persistent=True), H200)
        for s in (2, 4)
    )
    assert two.terms_us["latency"][0] > four.terms_us["latency"][0]
    assert two.time_us[0] > four.time_us[0]


def test_grouped_raster_reads_less() -> None:
    problem = gemm(8192, 8192, 8192, "bf16")
    rows, groups = (
        sim.price(problem, KERNEL, one(group_m=g), H200).dram_read_bytes[0] for g in (1, 8)
    )
    assert groups < rows / 2


def test_small_problems_read_their_operands_once() -> None:
    problem = gemm(1024, 1024, 1024, "e4m3-row")
    priced = sim.price(problem, KERNEL, one(block_k=128), H200)
    written = 1024 * 1024 * 2
    assert priced.dram_read_bytes[0] == pytest.approx(problem.min_bytes - written, rel=0.01)
    # 8 x 8 tiles: every row of tiles is loaded eight times from the L2.
    assert priced.l2_read_bytes[0] == pytest.approx(8 * (problem.min_bytes - written), rel=0.001)


def test_spilling_tile_is_avoided() -> None:
    problem = gemm(4096, 4096, 4096, "bf16")
    spilling = price_one(problem, block_m=256, block_n=256, block_k=32, tma=False)
    assert spilling > 1.35 * price_one(problem, block_n=256)


def test_an_empty_table_is_refused() -> None:
    problem = gemm(64, 64, 64, "bf16")
    with pytest.raises(ValueError, match="no configuration of triton_gemm to price"):
        sim.price(problem, KERNEL, one().take(np.array([], dtype=np.int64)), H200)


def test_twelve_recipes_are_priced_in_a_quarter_of_a_second() -> None:
    """CPU time, because the machine that runs the tests may be busy with others."""
    names = ("bf16", "fp16", "e4m3-tensor", "e4m3-row", "e5m2-tensor", "e5m2-row", "deepseek-fp8")
    names += ("e5m2-b128", "int8-tensor", "int8-row", "int8-b128", "jetfire")
    jobs = [gemm(4096, 4096, 4096, name) for name in names]
    tables = [legal(problem, H200) for problem in jobs]
    rows = sum(len(table) for table in tables)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for problem, table in zip(jobs, tables, strict=True):
            sim.price(problem, KERNEL, table, H200)
        seconds.append(time.process_time() - start)
    assert rows > 40_000
    assert min(seconds) < 0.25
