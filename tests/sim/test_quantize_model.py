"""Quantisation kernels: bound by memory, twice read where a scale's block is not held."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sim
from sim.memory_bound import lsu_clk
from sim.quantize_traits import Traits, quantize_traits
from tiles.formats import TensorFormat
from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.cuda_quantize import CudaQuantize, CudaQuantizeConfig
from tiles.kernels.quantize import TritonQuantize, TritonQuantizeConfig
from tiles.problems import Quantize

H200 = sim.load_gpu("h200")
KERNELS: list[Kernel] = [TritonQuantize(), CudaQuantize()]
FORMATS = ["int8.b32x32", "e4m3fn.b1x128", "e4m3fn.b128x128", "int8.row", "e5m2.row", "int8.tensor"]


def problem(rows: int, cols: int, fmt: str) -> Quantize:
    return Quantize(rows=rows, cols=cols, target=TensorFormat.parse(fmt))


def priced(job: Quantize, kernel: Kernel, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(job, kernel, kernel.legal_space(job, gpu.limits).accepted, gpu)


def tile(rows: int, cols: int, warps: int = 4) -> ConfigTable:
    return ConfigTable.of(
        [
            TritonQuantizeConfig(
                block_rows=rows, block_cols=cols, num_warps=warps, num_stages=1, software_cast=False
            )
        ]
    )


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("fmt", FORMATS[:5])
def test_large_matrices_reach_most_of_the_copy_bandwidth(kernel: Kernel, fmt: str) -> None:
    job = problem(16384, 8192, fmt)
    best = priced(job, kernel).best()
    assert best.binding == "dram"
    # Blocks of 128 x 128 fill a CTA that has few beside it to load while it computes.
    # Measured at 8192 x 8192: 0.76 of it with them, 0.84 to 0.87 with whole rows.
    lowest = 0.58 if fmt.endswith("b128x128") else 0.74
    assert lowest < job.min_bytes / best.time_us / 4274e3 < 1
    assert best.dram_read_bytes == 16384 * 8192 * 2


def test_tensor_scaling_reads_twice_in_two_launches() -> None:
    job = problem(16384, 8192, "int8.tensor")
    best = priced(job, KERNELS[0]).best()
    row = priced(problem(16384, 8192, "int8.row"), KERNELS[0]).best()
    assert best.dram_read_bytes == pytest.approx(2 * row.dram_read_bytes, rel=0.02)
    assert best.terms_us["launch"] == 2 * row.terms_us["launch"]
    # A matrix that stays in the L2 is read from DRAM once.
    small = priced(problem(1024, 1024, "int8.tensor"), KERNELS[0]).best()
    assert small.dram_read_bytes == pytest.approx(1024 * 1024 * 2, rel=0.01)


def test_a_row_read_twice_and_a_lone_cta_cost_half_as_much_again() -> None:
    """On an H200 one-row CTAs took 15 us, eight rows 22 us, a walk in three stages 22 us."""
    job = problem(4096, 4096, "e4m3fn.row")
    held, walked, alone = (
        float(sim.price(job, KERNELS[0], tile(*args), H200).time_us[0])
        for args in ((1, 4096, 2), (1, 2048, 4), (8, 4096, 16))
    )
    assert 13 < held < 17
    assert 1.3 < walked / held < 1.8
    assert 1.25 < alone / held < 1.8


def test_rows_that_are_not_held_are_read_twice() -> None:
    job = problem(8192, 8192, "int8.row")
    held, walked = (quantize_traits(job, tile(1, cols), H200).passes[0] for cols in (8192, 1024))
    assert (held, walked) == (1, 2)
    held, walked = (
        sim.price(job, KERNELS[0], tile(1, cols), H200).l2_read_bytes[0] for cols in (8192, 1024)
    )
    assert walked == 2 * held


def test_tiles_of_whole_blocks_and_blocks_larger_than_a_tile() -> None:
    job = problem(4096, 4096, "int8.b32x32")
    traits = quantize_traits(job, tile(64, 128), H200)
    assert (traits.ctas[0], traits.passes[0]) == (64 * 32, 1)
    traits = quantize_traits(job, tile(16, 32), H200)
    assert (traits.ctas[0], traits.passes[0]) == (128 * 128, 2)


def test_lanes_share_a_block() -> None:
    job = problem(4096, 4096, "e4m3fn.b1x128")
    table = ConfigTable.of([CudaQuantizeConfig(threads=128, lanes=16, vector=8, unroll=2)])
    traits = quantize_traits(job, table, H200)
    assert traits.ctas[0] == 4096 * 32 / (8 * 2)  # 8 groups of lanes, two blocks each
    assert traits.in_flight_bytes[0] == 128 * 8 * 2 * 2
    assert traits.segment_elements[0] == 128


def test_missing_columns_take_defaults() -> None:
    job = problem(4096, 4096, "int8.row")
    for kernel in KERNELS:
        table = kernel.legal_space(job, H200.limits).accepted
        for name in table.columns:
            if name == "lanes":
                continue  # tells the families apart
            fewer = ConfigTable(
                table.config_type, {n: c for n, c in table.columns.items() if n != name}
            )
            assert np.isfinite(sim.price(job, kernel, fewer, H200).time_us).all()


def test_short_segments_cost_the_load_store_unit() -> None:
    """A line that an access touches takes two clocks, whatever it brings."""
    segments = np.array([16.0, 64.0, 128.0, 4096.0])
    assert lsu_clk(np.full(4, 1280.0), segments).tolist() == [160, 40, 20, 20]


def one_of_lanes(job: Quantize, threads: int, lanes: int, vector: int, unroll: int = 1) -> Traits:
    config = CudaQuantizeConfig(threads=threads, lanes=lanes, vector=vector, unroll=unroll)
    return quantize_traits(job, ConfigTable.of([config]), H200)


@pytest.mark.parametrize(
    ("fmt", "config", "counted"),
    [
        ("int8.b32x32", (256, 32, 8, 1), 294),
        ("int8.b32x32", (256, 16, 8, 1), 526),
        ("int8.b32x32", (256, 32, 8, 2), 582),
        ("int8.b32x32", (256, 64, 8, 1), 192),
        ("int8.b32x32", (256, 16, 16, 1), 482),
        ("e4m3fn.b128x128", (256, 256, 8, 1), 508),
        ("e4m3fn.b128x128", (512, 512, 8, 1), 299),
        ("int8.b128x128", (1024, 1024, 8, 1), 214),
        ("int8.b32x32+sr", (256, 32, 8, 1), 539 + 79),
        ("int8.b32x32+sr", (256, 16, 8, 1), 1027 + 156),
        ("int8.b1x128+sr", (256, 16, 8, 1), 196 + 23),
    ],
)
def test_instructions_of_a_thread_are_those_of_its_machine_code(
    fmt: str, config: tuple[int, int, int, int], counted: int
) -> None:
    """``python -m bench.sass cuda_quantize``; a wide multiplication takes a second slot."""
    found = one_of_lanes(problem(8192, 8192, fmt), *config).thread_instructions[0]
    assert found == pytest.approx(counted, rel=0.12)


def test_blocks_side_by_side_are_whole_lines_to_dram() -> None:
    """Seen in timings by hand: groups of 32 x 32 blocks take no longer than blocks of 128."""
    traits = one_of_lanes(problem(8192, 8192, "int8.b32x32"), 256, 32, 8)
    assert (traits.segment_elements[0], traits.row_elements[0]) == (32, 8 * 32)
    tiled = quantize_traits(problem(8192, 8192, "int8.b32x32"), tile(32, 32, 1), H200)
    assert tiled.row_elements[0] == 32


def test_who_walks_through_a_block_waits_for_every_vector() -> None:
    """Measured at 8192 x 8192: 268 us where 4 lanes walk through 128 x 128, 448 were predicted."""
    job = problem(8192, 8192, "e4m3fn.b128x128")
    assert one_of_lanes(job, 128, 4, 8).waits[0] == 2 * np.ceil(128 * 128 * 2 / 4 / 51)
    assert one_of_lanes(job, 256, 256, 8).waits[0] == 1
    table = ConfigTable.of([CudaQuantizeConfig(threads=128, lanes=4, vector=8, unroll=1)])
    assert sim.price(job, CudaQuantize(), table, H200).time_us[0] == pytest.approx(268, rel=0.25)


def test_a_second_pass_that_dram_serves_does_not_wait_for_the_l2_too() -> None:
    """Blocks of 128 x 128 that lanes cannot keep; measured at 8192 x 8192: 88.9 us."""
    job = problem(8192, 8192, "int8.b128x128")
    table = ConfigTable.of([CudaQuantizeConfig(threads=256, lanes=64, vector=8, unroll=1)])
    found = sim.price(job, CudaQuantize(), table, H200)
    assert found.dram_read_bytes[0] == pytest.approx(2 * 8192 * 8192 * 2, rel=0.02)
    assert found.time_us[0] == pytest.approx(88.9, rel=0.13)


def test_software_cast_costs_instructions() -> None:
    job = problem(8192, 8192, "e4m3fn.row")
    hard = tile(1, 8192)
    soft = ConfigTable(hard.config_type, hard.columns | {"software_cast": np.array([True])})
    times = [sim.price(job, KERNELS[0], t, H200).terms_us["cuda_cores"][0] for t in (hard, soft)]
    assert times[1] > 1.5 * times[0]


@given(
    rows=st.integers(1, 5000),
    cols=st.integers(1, 9000),
    fmt=st.sampled_from(FORMATS),
    kernel=st.sampled_from(KERNELS),
    name=st.sampled_from(sim.gpu_names()),
    factor=st.floats(1, 4),
)
@settings(max_examples=80, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
def test_prices_obey_the_laws(
    rows: int, cols: int, fmt: str, kernel: Kernel, name: str, factor: float
) -> None:
    job, gpu = problem(rows, cols, fmt), sim.load_gpu(name)
    if kernel.refusal(job, gpu.limits):
        return
    table = kernel.legal_space(job, gpu.limits).accepted
    base = sim.price(job, kernel, table, gpu)
    assert np.isfinite(base.time_us).all()
    assert (0 < base.low_us).all()
    assert ((base.low_us < base.time_us) & (base.time_us < base.high_us)).all()
    assert (base.dram_read_bytes >= rows * cols * 2).all()
    assert (base.dram_read_bytes <= base.l2_read_bytes).all()
    faster = replace(
        gpu,
        dram_copy_gb_per_s=gpu.dram_copy_gb_per_s * factor,
        l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor,
    )
    assert (sim.price(job, kernel, table, faster).time_us <= base.time_us * (1 + 1e-9)).all()
    quicker = replace(gpu, max_clock_mhz=gpu.max_clock_mhz * factor)
    assert (sim.price(job, kernel, table, quicker).time_us <= base.time_us * (1 + 1e-9)).all()
    doubled = sim.price(problem(2 * rows, cols, fmt), kernel, table, gpu).time_us
    assert doubled.min() >= base.time_us.min() * 0.98


def test_random_bits_cost_instructions_and_a_copy_costs_bytes() -> None:
    kernel = CudaQuantize()
    plain = problem(8192, 8192, "int8.b32x32")
    table = ConfigTable.of([CudaQuantizeConfig(threads=256, lanes=32, vector=8, unroll=1)])
    jobs = [plain, problem(8192, 8192, "int8.b32x32+sr"), replace(plain, transposed=True)]
    nearest, random, turned = (sim.price(job, kernel, table, H200) for job in jobs)
    assert 1.4 < random.terms_us["cuda_cores"][0] / nearest.terms_us["cuda_cores"][0] < 2.2
    assert random.dram_write_bytes[0] == nearest.dram_write_bytes[0]
    assert turned.dram_write_bytes[0] == pytest.approx(2 * nearest.dram_write_bytes[0], rel=1e-3)
    assert nearest.time_us[0] < random.time_us[0] < turned.time_us[0]
    # A copy through shared memory is bound by memory still.
    assert turned.best().binding == "dram"


def test_tiles_that_are_turned_take_shared_memory() -> None:
    job = replace(problem(4096, 4096, "int8.b64x64"), transposed=True)
    table = ConfigTable.of([CudaQuantizeConfig(threads=256, lanes=64, vector=8, unroll=1)])
    assert quantize_traits(job, table, H200).smem_bytes[0] == pytest.approx(4 * 64 * 64, rel=0.02)


def test_narrow_vectors_compute_their_random_bits_again() -> None:
    job = problem(4096, 4096, "int8.b32x32+sr")
    one, four, eight = (
        quantize_traits(
            job,
            ConfigTable.of([CudaQuantizeConfig(threads=256, lanes=32, vector=v, unroll=1)]),
            H200,
        ).thread_instructions[0]
        for v in (1, 4, 8)
    )
    assert one > 2 * four > 2.4 * eight
