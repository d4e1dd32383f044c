"""The cost of the Hopper product of aligned MX operands (``cuda/gemm_hopper_aligned.py``).

A pass over both operands that reads and writes every code, then ``hopper_gemm``'s chained
product, whose promotion takes one instruction more an accumulator: with 1x128 scales on both sides
every sum has a factor of its own.  Instructions are those of the compiled kernels (sm_90a, NVRTC
13).  That the pass pays for what it writes was seen in times of it alone; no constant is set on a
time of this family.
"""

import numpy as np

from sim.cost import Cost
from sim.gpu import Gpu
from sim.hopper_gemm_model import hopper_gemm_cost
from sim.memory import overlap
from sim.parameters import HOPPER_GEMM, STREAM, HopperGemmParameters, StreamParameters
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_gemm import HopperGemmConfig
from tiles.problems import Gemm

__all__ = ["hopper_aligned_cost"]

#: Instructions of a thread a code of the alignment, where blocks are shifted.
ALIGN_INSTRUCTIONS = 8.0
#: Instructions of the promotion an accumulator: a product of scales and a multiply-add.
PROMOTION_INSTRUCTIONS = 2.0


def hopper_aligned_cost(
    problem: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    parameters: StreamParameters = STREAM,
    product: HopperGemmParameters = HOPPER_GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperAlignedConfig``.

    Args:
        parameters: of the alignment.
        product: of the product behind it.
    """
    of, count = parameters, len(table)
    chained = {"pingpong": np.zeros(count, np.bool_), "chained": np.ones(count, np.bool_)}
    whole = ConfigTable(HopperGemmConfig, dict(table.columns) | chained)
    cost = hopper_gemm_cost(
        problem, whole, gpu, product, promotion_instructions=PROMOTION_INSTRUCTIONS
    )

    m, n, k = problem.shape
    recipe = problem.recipe
    elements = (m + n) * k
    # As many bytes of scales leave as come: four of a byte each for one of four bytes.
    moved = float(recipe.activation.storage_bytes(m, k) + recipe.weight.storage_bytes(n, k))
    clock_ghz = gpu.max_clock_mhz / 1e3
    instructions = of.instruction_share * ALIGN_INSTRUCTIONS
    issue_ns = elements * instructions / (gpu.issue_per_clk * gpu.sm_count * clock_ghz)
    # What is written goes to memory, whatever the L2 could keep of it: the pass alone took 24 us
    # for 35 MB each way, 17 us for 22 MB.
    dram_ns = (moved / gpu.dram_read_gb_per_s + moved / gpu.dram_copy_gb_per_s) / of.dram_share
    ends_ns = gpu.dram_latency_ns + of.cta_clk / clock_ghz
    # CTAs have 32 rows by 512 of K; the GPU hands them out one by one.
    ctas = (-(-m // 32) + -(-n // 32)) * -(-k // 512)
    sides = (np.array(issue_ns), np.array(dram_ns), np.array(ctas * of.cta_start_ns))
    busy_ns = float(overlap(*sides, exponent=of.overlap_exponent))
    pass_us = (busy_ns + ends_ns) / 1e3 + gpu.graph_launch_us
    terms = dict(cost.terms_us)
    terms["align"] = np.full(count, pass_us)
    return Cost(
        time_us=cost.time_us + pass_us,
        terms_us=terms,
        dram_read_bytes=cost.dram_read_bytes + moved,
        dram_write_bytes=cost.dram_write_bytes + moved,
        l2_read_bytes=cost.l2_read_bytes + moved,
    )
