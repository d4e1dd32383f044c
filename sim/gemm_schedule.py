"""How the compiler schedules the K loop of the Triton template: what waits for what.

Read off 396 timings of Triton 3.6.0 on an H200 (``data/h200/first_look``).  The parameters of
``sim.parameters.gemm`` and constants of ``sim.pipes``, ``sim.occupancy`` whose comments say
"measured" were set by hand, one term after another, on its 4096-cubed rows: drains on int8 rows,
handshakes on bf16 and e4m3 rows, promotion and spills on int8-b128 and deepseek-fp8 rows, ordinary
loads on the two bf16 rows that use them.  The 8192-cubed rows were the check, but always in view,
and clock, tensor share and L2 rate are a compromise between both sizes that the rows do not tell
apart; latency with two stages and the raster's share come from a dozen further rows at 4096 cubed
that are not stored.  So no figure on these rows is held-out.  Nothing differs between recipes but
what their formats say.  Four facts carry most of it:

* A warpgroup product stays in flight across iterations only where its accumulator is floating-point
  and unpromoted and the loop is flattened over tiles, or has one warpgroup.  Elsewhere the loop
  waits for the product of its own iteration and starts the next one into an idle tensor core.
* A product that adds into the accumulator of the one before holds its buffers until the next
  iteration, so loads are asked for one iteration later.
* A warp's own instructions of an iteration (barriers, addresses, copies, descriptors) wait for one
  another: some 270 clocks at least, beside a warpgroup product in flight and before and after an
  ``mma.sync``.  Small tiles take no less, however few their products.
* Scales that differ between a tile's rows or columns arrive as vectors, late in a flattened loop.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.occupancy import FLATTENED_REGISTERS, NEEDED_REGISTERS, SCALE_REGISTERS
from sim.parameters import GEMM, GemmParameters
from tiles.formats import IntElement
from tiles.kernels import ConfigTable
from tiles.problems import Gemm

__all__ = ["Schedule", "gemm_schedule"]

#: Of an asynchronous copy of a lane, and of K under one ``mma.sync`` instruction.
COPY_BYTES, STEP_BITS = 16, 256

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Waits of one K-iteration of a CTA."""

    wait_clk: F64  #: clocks in which neither tensor nor CUDA cores work for the CTA
    chain_clk: F64  #: of a warp's own instructions, each waiting for the one before
    held: float  #: 1 where a product holds its buffers until the next iteration, else 0
    state_registers: I64  #: registers a thread beside accumulators, addresses and operands


def gemm_schedule(
    problem: Gemm,
    table: ConfigTable,
    *,
    warpgroups: Bool,
    emulated: bool,
    promoted: bool,
    asynchronous: bool,
    copied_bytes: I64,
    step_bits: int,
    parameters: GemmParameters = GEMM,
) -> Schedule:
    """Waits of every configuration; ``mma.sync`` needs no draining.

    Args:
        promoted: partial sums are scaled on their way into the accumulator.
        asynchronous: the GPU has products that warps need not wait for.
        copied_bytes: of both operands, an iteration.
        step_bits: of an element as it is multiplied.
    """
    of = parameters
    activation, weight = problem.recipe.activation, problem.recipe.weight
    persistent, warps = table["persistent"], table["num_warps"]
    chained = not (promoted or emulated)
    integer = isinstance(activation.element, IntElement)
    in_flight = warpgroups & (chained and not integer) & (persistent | (warps <= 4))
    wait = np.where(persistent & in_flight, of.handshake_clk, of.plain_handshake_clk)
    wait = np.where(warpgroups & ~in_flight, of.drain_clk, wait)
    wait = wait + of.second_group_clk * (warps > 4)
    vectors = np.zeros(len(table), np.bool_)
    if promoted:
        for fmt, extent in ((activation, table["block_m"]), (weight, table["block_n"])):
            # A few scales, one for 16 rows or more, cost neither time nor registers.
            if fmt.scaling is not None and fmt.scaling.rows is not None and fmt.scaling.rows < 16:
                vectors = vectors | (extent > fmt.scaling.rows)
    wait = wait + vectors * np.where(persistent, of.late_scales_clk, of.scales_clk)
    copies = np.where(table["tma"], 0.0, copied_bytes / (COPY_BYTES * 32.0 * warps))
    chain = of.chain_clk + of.second_chain_clk * (warps > 4) + of.tma_chain_clk * table["tma"]
    chain = chain + of.copy_chain_clk * copies
    chain = chain + of.step_chain_clk * ~warpgroups * (step_bits * table["block_k"] / STEP_BITS)
    return Schedule(
        wait_clk=wait,
        chain_clk=chain,
        held=float(chained and asynchronous),
        state_registers=NEEDED_REGISTERS
        + FLATTENED_REGISTERS * (persistent & promoted)
        + SCALE_REGISTERS * vectors,
    )
