"""The model of loops that decode operands: a warp's chain of instructions, as it was measured."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from sim.compiled import Compiled
from sim.decoded_model import decoded_cost
from sim.parameters import DECODED
from tiles.kernels import ConfigTable, NumericPath, kernel
from tiles.problems import parse_problem

H200 = sim.load_gpu("h200")
KERNEL = kernel("triton_decoded_gemm")
#: One tile of ``mxfp8-e4m3``, a shape in view of ``data/h200/later_sweeps``.
SKINNY = parse_problem("gemm:16x8192x8192:mxfp8-e4m3:bf16")
FIELDS = {
    "block_m": 16, "block_n": 64, "block_k": 128, "group_m": 1, "num_warps": 4, "num_stages": 4,
    "tma": False, "persistent": False, "staged": False, "native": False,
}  # fmt: skip


def one(**changes: int | bool) -> ConfigTable:
    return ConfigTable.of([KERNEL.config_type.from_dict(FIELDS | changes)])


@pytest.mark.parametrize(
    ("text", "fields", "measured_us"),
    [
        ("gemm:128x7168x2048:mxfp8-e4m3:bf16", {"block_m": 64}, 27.5),
        ("gemm:1x28672x4096:w8a16:bf16", {"block_n": 128, "block_k": 64}, 60.8),
    ],
)
def test_few_warps_wait_for_their_own_instructions(
    text: str, fields: dict[str, int], measured_us: float
) -> None:
    """Of ``data/h200/later_sweeps``, in view; DRAM and the issue slots have half of it."""
    found = sim.price(parse_problem(text), KERNEL, one(**fields), H200)
    assert found.time_us[0] == pytest.approx(measured_us, rel=0.15)
    assert found.terms_us["cuda_cores"][0] < 0.5 * measured_us
    assert found.terms_us["latency"][0] > 0.6 * measured_us


def test_the_chain_grows_with_the_clocks_between_two_instructions() -> None:
    def time_us(table: ConfigTable, instruction_clk: float) -> float:
        of = replace(DECODED, instruction_clk=instruction_clk)
        none = Compiled.of(len(table), {})
        cost = decoded_cost(SKINNY, NumericPath.EMULATED, table, H200, none, of)  # type: ignore[arg-type]
        return float(cost.time_us[0])

    # One wave of 128 tiles with 64 steps, of 80 x 128 elements by 128 threads.
    slow, slower = time_us(one(), 40.0), time_us(one(), 80.0)
    instructions = 80 * 128 * 2.5 / 128 + DECODED.loop_instructions
    clk = 40.0 * instructions * 64
    assert slower - slow == pytest.approx(clk / H200.sustained_clock_mhz, rel=0.05)
    # Twice the warps have half of the elements each.
    assert time_us(one(num_warps=8), 80.0) < slower


def test_operands_decoded_ahead_have_no_such_chain() -> None:
    table = one(block_m=128, block_n=128, block_k=64, staged=True, tma=True)
    none = Compiled.of(1, {})
    times = [
        decoded_cost(
            parse_problem("gemm:4096x4096x4096:mxfp8-e4m3:bf16"),  # type: ignore[arg-type]
            NumericPath.EMULATED,
            table,
            H200,
            none,
            replace(DECODED, instruction_clk=clk),
        ).time_us[0]
        for clk in (4.0, 40.0)
    ]
    assert np.ptp(times) == 0.0


@pytest.mark.parametrize("name", ["fp8-ptq-e3m4", "mxfp8-e4m3", "nvfp4"])
def test_decoding_a_tiny_product_takes_no_less_than_multiplying_it(name: str) -> None:
    """Both launch a program of Triton's; the decoding one was predicted a quarter faster."""
    best = {}
    for recipe, family in ((name, "triton_decoded_gemm"), ("bf16", "triton_gemm")):
        problem, one = parse_problem(f"gemm:16x16x16:{recipe}:bf16"), kernel(family)
        table = one.legal_space(problem, H200.limits).accepted
        best[family] = sim.price(problem, one, table, H200).best().time_us
    assert best["triton_decoded_gemm"] > best["triton_gemm"]
