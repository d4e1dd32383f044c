"""Prices of kernels that move a matrix through tiles once."""

import pytest

import sim
from sim import tile_stream
from sim.tile_stream import work
from tiles.kernels import ConfigTable, kernel
from tiles.problems import Problem, parse_problem

H200 = sim.load_gpu("h200")
FAMILIES = {
    "quantize": "triton_quantize_tiles",
    "dequantize": "triton_dequantize",
    "transpose": "triton_transpose",
}


def best(text: str) -> tuple[Problem, sim.Prediction]:
    problem = parse_problem(text)
    family = kernel(FAMILIES[problem.kind])
    accepted = family.legal_space(problem, H200.limits).accepted
    return problem, sim.price(problem, family, accepted, H200).best()


@pytest.mark.parametrize(
    "text",
    [
        "quantize:16384x8192:e4m3fn.b1x128:bf16",
        "quantize:16384x8192:int8.b32x32:fp32",
        "quantize:16384x8192:e4m3fn.mx:bf16:swizzled",
        "dequantize:16384x8192:e4m3fn.mx:bf16",
        "transpose:16384x8192:int8",
    ],
)
def test_large_matrices_are_bound_by_dram(text: str) -> None:
    problem, found = best(text)
    assert found.binding == "dram"
    assert 0.75 < problem.min_bytes / found.time_us / 4274e3 < 1
    assert found.dram_read_bytes + found.dram_write_bytes == problem.min_bytes


def test_a_scale_for_the_tensor_reads_twice_in_two_launches() -> None:
    one, two = (
        best("quantize:16384x8192:e2m1fn.mx:bf16")[1],
        best("quantize:16384x8192:nvfp4:bf16")[1],
    )
    assert two.dram_read_bytes > 1.5 * one.dram_read_bytes
    assert two.terms_us["launch"] == 2 * one.terms_us["launch"]


def test_random_bits_and_a_second_set_of_blocks_cost_instructions() -> None:
    config = kernel("triton_quantize_tiles").config_type(
        block_rows=128, block_cols=128, num_warps=8, software_cast=False
    )
    table = ConfigTable.of([config])

    def instructions(text: str) -> float:
        return float(work(parse_problem(text), table).instructions[0])  # type: ignore[arg-type]

    plain = instructions("quantize:4096x4096:e4m3fn.b1x128:bf16")
    assert instructions("quantize:4096x4096:e4m3fn.b1x128+sr:bf16") > plain + 20
    assert instructions("quantize:4096x4096:e4m3fn.b1x128:bf16:transposed") > 2 * plain
    assert instructions("quantize:4096x4096:e4m3fn.mx:bf16") < plain
    assert instructions("quantize:4096x4096:e4m3fn.b1x128:fp32") > plain


def test_more_bandwidth_is_never_slower_and_less_work_neither() -> None:
    small, large = (
        best("quantize:4096x4096:int8.b32x32:bf16")[1],
        best("quantize:8192x8192:int8.b32x32:bf16")[1],
    )
    assert 3 < large.time_us / small.time_us < 4.5
    assert small.low_us < small.time_us < small.high_us


@pytest.fixture
def earlier_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions of a 4-bit float when NVFP4 was measured."""
    monkeypatch.setitem(tile_stream.NARROW_FLOAT, 4, 9.0)


def test_programs_that_tell_one_word_their_maximum_wait_for_each_other(
    earlier_codes: None,
) -> None:
    """Measured at 8192 x 8192 in 65 536 programs: 157 us, the second launch alone some 65."""
    family = kernel("triton_quantize_tiles")
    times = {}
    for cols in (1024, 4096):
        table = ConfigTable.of(
            [
                family.config_type(
                    block_rows=1, block_cols=cols, num_warps=cols // 1024, software_cast=False
                )
            ]
        )
        for target in ("nvfp4", "e2m1fn.mx"):
            problem = parse_problem(f"quantize:8192x8192:{target}:bf16")
            times[target, cols] = float(sim.price(problem, family, table, H200).time_us[0])
    assert times["nvfp4", 1024] == pytest.approx(157, rel=0.15)
    assert times["nvfp4", 4096] < 0.8 * times["nvfp4", 1024]
    assert times["e2m1fn.mx", 4096] > 0.9 * times["e2m1fn.mx", 1024]


@pytest.mark.parametrize(
    ("text", "tile", "counted"),
    [
        ("e4m3fn.b1x128:bf16", (1, 1024, 1), 378),
        ("e4m3fn.b1x128:bf16", (4, 4096, 8), 714),
        ("int8.b1x128:bf16", (8, 256, 2), 479),
        ("int8.b32x32:bf16", (32, 32, 1), 435),
        ("int8.b32x32:bf16", (32, 128, 2), 787),
        ("int8.row:bf16", (1, 8192, 8), 394),
        ("e4m3fn.mx:bf16", (8, 128, 1), 267),
        ("e2m1fn.mx:bf16", (32, 32, 1), 550),
        ("nvfp4:bf16", (8, 128, 1), 801),
        ("int8.b32x32:bf16:transposed", (32, 128, 2), 1017),
    ],
)
def test_instructions_of_a_thread_are_those_of_its_machine_code(
    text: str, tile: tuple[int, int, int], counted: int
) -> None:
    """Compiled for sm_90 with Triton 3.7.1, branches that are rarely taken left out."""
    rows, cols, warps = tile
    config = kernel("triton_quantize_tiles").config_type(
        block_rows=rows, block_cols=cols, num_warps=warps, software_cast=False
    )
    problem = parse_problem(f"quantize:8192x8192:{text}")
    found = work(problem, ConfigTable.of([config])).instructions[0]  # type: ignore[arg-type]
    assert found == pytest.approx(counted, rel=0.12)


def test_a_scale_for_the_tensor_takes_one_launch_after_the_other(earlier_codes: None) -> None:
    """Measured at 8192 x 8192: 125 us in 16 384 programs; 85 us as if both overlapped."""
    family = kernel("triton_quantize_tiles")
    table = ConfigTable.of(
        [family.config_type(block_rows=16, block_cols=256, num_warps=2, software_cast=False)]
    )
    problem = parse_problem("quantize:8192x8192:nvfp4:bf16")
    assert sim.price(problem, family, table, H200).time_us[0] == pytest.approx(125, rel=0.15)
