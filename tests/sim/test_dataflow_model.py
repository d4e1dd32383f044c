"""The dataflow kernels' cost: bytes, issue slots, special functions."""

import numpy as np
import pytest

import sim
from sim.dataflow_instructions import ROW_INSTRUCTIONS, instructions
from tiles.kernels import ConfigTable, Kernel, kernels
from tiles.kernels.dataflow_blocks import DataflowBlocksConfig, blocks_at_once
from tiles.kernels.dataflow_rows import DataflowRowsConfig, row_steps
from tiles.problems import DATAFLOW_OPS, Dataflow, parse_problem

H200 = sim.load_gpu("h200")
COPY_BYTES_PER_US = 4274e3


def problem(op: str, fmt: str = "int8.b32x32+sr", shape: str = "16384x8192") -> Dataflow:
    made = parse_problem(f"dataflow:{shape}:{op}:{fmt}")
    assert isinstance(made, Dataflow)
    return made


def family(job: Dataflow) -> Kernel:
    return next(k for k in kernels().values() if k.refusal(job, H200.limits) is None)


def priced(job: Dataflow, gpu: sim.Gpu = H200) -> sim.PricedTable:
    kernel = family(job)
    return sim.price(job, kernel, kernel.legal_space(job, gpu.limits).accepted, gpu)


@pytest.mark.parametrize("op", DATAFLOW_OPS)
@pytest.mark.parametrize("fmt", ["int8.b32x32", "int8.b32x32+sr", "e4m3fn.b1x128+sr"])
def test_no_prediction_beats_copy_or_issue(op: str, fmt: str) -> None:
    job = problem(op, fmt)
    table = priced(job)
    assert np.isfinite(table.time_us).all()
    assert ((0 < table.low_us) & (table.low_us < table.time_us)).all()
    assert (job.min_bytes / table.time_us < COPY_BYTES_PER_US).all()
    lanes_per_us = 128 * H200.sm_count * H200.max_clock_mhz
    issue_us = job.rows * job.cols * instructions(job, table.table) / lanes_per_us
    assert (table.time_us > issue_us).all()


def test_stochastic_rounding_moves_the_limit_from_memory_to_instructions() -> None:
    near, drawn = (priced(problem("relu", fmt)).best() for fmt in ("int8.b32x32", "int8.b32x32+sr"))
    assert near.binding == "dram"
    assert drawn.binding == "cuda_cores"
    assert drawn.time_us > 1.3 * near.time_us


def test_more_vectors_a_thread_spread_what_is_done_once() -> None:
    job = problem("gelu")
    table = ConfigTable.of(
        [DataflowBlocksConfig(threads=256, lanes=n, steps=4, ctas=2) for n in (64, 32, 16)]
    )
    assert (np.diff(instructions(job, table)) < 0).all()


def test_twice_the_rows_take_about_twice_as_long() -> None:
    for op in ("silu", "layernorm", "rmsnorm-bwd"):
        one, two = (priced(problem(op, shape=s)).best() for s in ("8192x4096", "16384x4096"))
        assert 1.6 < two.time_us / one.time_us < 2.2


def blocks(steps: int, lanes: int = 32, ctas: int = 6) -> ConfigTable:
    return ConfigTable.of([DataflowBlocksConfig(threads=128, lanes=lanes, steps=steps, ctas=ctas)])


@pytest.mark.parametrize(
    ("op", "lanes", "loop", "once"),
    [
        ("relu", 32, 389, 112),
        ("relu", 16, 735, 92),
        ("relu-bwd", 32, 508, 142),
        ("dropout", 32, 628, 126),
        ("gelu", 32, 498, 128),
        ("gelu-bwd", 32, 676, 248),
        ("silu", 32, 476, 123),
        ("silu-bwd", 32, 649, 215),
        ("layernorm-apply", 32, 545, 136),
        ("rmsnorm-apply", 16, 1046, 96),
    ],
)
def test_instructions_are_those_of_the_machine_code(
    op: str, lanes: int, loop: int, once: int
) -> None:
    """``python -m bench.sass cuda_dataflow_blocks``.

    Of a block: where a warp moves lines, its own loop and a part of what is done once a tile.
    """
    elements = 1024 / lanes
    job, table = problem(op, shape="8192x8192"), blocks(4, lanes)
    taken = 4 * blocks_at_once(job, table)[0]
    found = instructions(job, table)[0]
    assert found * elements == pytest.approx(loop + once / taken, rel=0.09)


@pytest.mark.parametrize(
    ("op", "counted"),
    [
        ("gelu", 313), ("gelu-bwd", 395), ("silu", 291), ("silu-bwd", 365), ("relu", 207),
        ("relu-bwd", 260), ("dropout", 429), ("layernorm-apply", 294), ("rmsnorm-apply", 285),
    ],
)  # fmt: skip
def test_to_nearest_no_random_bits_are_turned_with_the_sign(op: str, counted: int) -> None:
    """``python -m bench.sass cuda_dataflow_blocks``: a block, a fourth of its tile included."""
    found = instructions(problem(op, "int8.b32x32", "8192x8192"), blocks(4, ctas=4))[0]
    assert 32 * found == pytest.approx(counted, rel=0.13)


def row_count(op: str, threads: int, lanes: int, fmt: str = "int8.b32x32+sr") -> float:
    """Instructions of the model, once a block and thread."""
    fields = {"rows": 32, "splits": 8, "clusters": 48, "ctas": 3, "threads": threads}
    if op == "residual":
        fields["clusters"] = 1
    job = problem(op, fmt, "8192x8192")
    table = ConfigTable.of([DataflowRowsConfig(lanes=lanes, **fields)])
    each = float(instructions(job, table)[0]) * 1024 / lanes
    return each - ROW_INSTRUCTIONS / float(row_steps(job, table)[0])


@pytest.mark.parametrize(
    ("op", "threads", "lanes", "counted"),
    [
        # Once a block and thread, of loops that go through a block at a time, and once a row group.
        # Of tiles of lines a fourth of what is done once a tile of four blocks.
        ("residual", 128, 32, 574 + 173 / 4),
        ("residual", 256, 64, 393),
        ("layernorm", 128, 32, 122 / 2 + 493 + 170 / 4),
        ("layernorm", 256, 64, 69 / 2 + 393),
        ("rmsnorm", 128, 32, 119 / 2 + 487 + 163 / 4),
        ("rmsnorm", 256, 64, 67 / 2 + 358),
        ("layernorm-bwd", 128, 32, 332 + 596 + 199 / 4),
        ("layernorm-bwd", 128, 64, 365 / 2 + 414),
        ("rmsnorm-bwd", 128, 32, 230 + 596 + 198 / 4),
        ("rmsnorm-bwd", 128, 64, 267 / 2 + 419),
    ],
)
def test_row_kernels_count_both_of_their_passes(
    op: str, threads: int, lanes: int, counted: float
) -> None:
    """``python -m bench.sass cuda_dataflow_rows``; without what is done once a row group."""
    assert row_count(op, threads, lanes) == pytest.approx(counted, rel=0.07)


@pytest.mark.parametrize(
    ("op", "threads", "lanes", "counted"),
    [
        ("residual", 128, 32, 309 + 139 / 4),
        ("layernorm", 128, 32, 122 / 2 + 238 + 158 / 4),
        ("rmsnorm", 256, 64, 67 / 2 + 231),
        ("layernorm-bwd", 128, 64, 365 / 2 + 286),
        ("rmsnorm-bwd", 128, 32, 230 + 341 + 191 / 4),
    ],
)
def test_row_kernels_that_round_to_nearest_take_what_the_machine_code_says(
    op: str, threads: int, lanes: int, counted: float
) -> None:
    """The same loops, without random bits."""
    assert row_count(op, threads, lanes, "int8.b32x32") == pytest.approx(counted, rel=0.13)


def told(job: Dataflow, config: DataflowBlocksConfig | DataflowRowsConfig) -> float:
    """Microseconds."""
    return float(sim.price(job, family(job), ConfigTable.of([config]), H200).time_us[0])


def test_a_wave_that_few_ctas_are_left_over_for_is_no_cheaper() -> None:
    """Outside check: CTAs that take 21 blocks each are one wave, with 16 each they are 1.3 waves.

    Measured at 8192 x 8160, by a kernel before today's: 57 and 74 us.  The model sees little of it.
    """
    job = problem("relu", shape="8192x8160")
    whole, left = (float(sim.price(job, family(job), blocks(n), H200).time_us[0]) for n in (21, 16))
    assert left > 1.03 * whole


def test_codes_in_pieces_of_lines_cost_dram_more_than_their_bytes() -> None:
    """Backward ReLU: two tiles of two matrices are kept in half lines, one in whole ones."""
    job, one = problem("relu-bwd", "int8.b32x32", "8192x8192"), problem("relu", "int8.b32x32")
    half, whole = (sim.price(job, family(job), blocks(n), H200).terms_us["dram"][0] for n in (2, 1))
    assert 1.05 < half / whole < 1.15
    alone = sim.price(one, family(one), blocks(1), H200).terms_us["dram"][0] / 2  # 16384 rows
    assert whole == pytest.approx(1.5 * alone, rel=1e-2)


@pytest.mark.parametrize(
    ("op", "fields", "measured"),
    [
        ("residual", (128, 32, 32, 2, 1, 4), 73.7),
        ("layernorm", (128, 32, 32, 8, 1, 4), 78.8),
        ("layernorm", (256, 32, 32, 8, 1, 2), 94.4),
        ("layernorm", (128, 32, 32, 8, 64, 4), 102.0),
        ("rmsnorm", (128, 32, 32, 8, 1, 4), 77.1),
        ("layernorm-bwd", (128, 32, 32, 8, 96, 3), 131.3),
        ("layernorm-bwd", (256, 32, 32, 8, 96, 3), 149.9),
        ("rmsnorm-bwd", (128, 32, 32, 8, 128, 3), 121.0),
        ("rmsnorm-bwd", (256, 32, 32, 8, 96, 3), 125.0),
        ("rmsnorm-bwd", (512, 64, 32, 4, 32, 2), 266.9),
    ],
)
def test_row_kernels_are_told_within_13_percent(
    op: str, fields: tuple[int, ...], measured: float
) -> None:
    """Timed by hand on an H200, 8192 x 8192, nothing compiled.

    102.0 and 266.9: rows in view of ``data/h200/rewritten_sweeps``, of the text before.
    """
    names = ("threads", "lanes", "rows", "splits", "clusters", "ctas")
    config = DataflowRowsConfig(**dict(zip(names, fields, strict=True)))
    assert told(problem(op, shape="8192x8192"), config) == pytest.approx(measured, rel=0.13)


def test_clusters_that_find_no_room_are_a_wave_of_their_own() -> None:
    """As many as would fit on all multiprocessors are more than fit within their groups."""
    job = problem("layernorm", shape="8192x8192")
    fewer, more = (
        told(
            job,
            DataflowRowsConfig(threads=128, lanes=32, rows=32, splits=8, clusters=n, ctas=4),
        )
        for n in (56, 64)
    )
    assert more > 1.1 * fewer


def test_warps_that_meet_at_every_step_wait_for_the_last_one() -> None:
    """Measured at 8192 x 8192: 78.2 and 67.1 us, by warps of one line 114 us in one CTA an SM."""
    job = problem("rmsnorm-apply", shape="8192x8192")
    one, eight = (
        told(job, DataflowBlocksConfig(threads=n, lanes=16, steps=16, ctas=c))
        for n, c in ((512, 1), (64, 8))
    )
    assert one > 1.1 * eight
    assert eight == pytest.approx(67.1, rel=0.1)
    assert one == pytest.approx(78.2, rel=0.1)


def test_a_row_kernel_alone_on_an_sm_computes_and_then_waits() -> None:
    """One CTA of 16 warps an SM takes far longer than four of four warps: nobody fills its gaps."""
    job = problem("layernorm", shape="8192x8192")
    lone, four = (
        told(job, DataflowRowsConfig(threads=n, lanes=32, rows=32, splits=s, clusters=c, ctas=k))
        for n, s, c, k in ((512, 4, 32, 1), (128, 8, 1, 4))
    )
    assert lone > 1.4 * four


def test_few_ctas_are_not_billed_for_the_bandwidth_of_those_that_are_not_there() -> None:
    """One block, and 64 x 1024: little more than the ends of a kernel and one CTA's chain."""
    for shape in ("32x32", "64x1024"):
        job = problem("relu-bwd", "int8.b32x32", shape)
        found = sim.price(job, family(job), blocks(1), H200)
        terms = {name: float(term[0]) for name, term in found.terms_us.items()}
        least = terms["launch"] + terms["prologue_epilogue"] + terms["latency"]
        assert least < found.time_us[0] < 1.1 * least


def test_words_of_a_table_are_looked_up_through_conflicts_of_banks() -> None:
    """Blocks of 1024 codes look activations up, smaller ones work them out."""
    looked, worked = (
        sim.price(job, family(job), blocks(4, lanes), H200).terms_us["load_store"][0]
        for job, lanes in (
            (problem("gelu", "int8.b32x32", "8192x8192"), 32),
            (problem("gelu", "int8.b16x16", "8192x8192"), 8),
        )
    )
    clk_us = 8192 * 8192 / 132 / 1980  # one access an element and clock, 32 lanes together
    tiles = 1.0  # words of four codes, into a tile, out of it, in again and out
    assert looked == pytest.approx((3.5 + tiles) / 32 * clk_us)
    assert worked == 0
