"""One wave of a GEMM: the main loop of the CTAs that are resident together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz
from sim.gpu import Gpu
from sim.memory import dram_ns, exposed_ns, l2_ns, raised, rooted
from sim.parameters import GEMM, GemmParameters

__all__ = ["Iteration", "Loop", "Wave", "compute_clk", "lone_clk", "price_wave", "queued_clk"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What one CTA's warps do in one K-iteration, in clocks of the unit that does it."""

    tensor_clk: F64
    promotion_clk: F64  #: CUDA-core work on operands or partial sums, which tensor cores can hide
    issue_clk: F64  #: load, store and address instructions that nothing hides
    wait_clk: F64  #: barriers, and products or scales that are waited for
    chain_clk: F64  #: a warp's own instructions one after the other, beside products in flight
    loop_clk: F64  #: issue slots of these instructions
    in_line: NDArray[np.bool_]  #: products stand in that chain: ``mma.sync`` where there is better
    serial: bool  #: CUDA cores wait for the products of their own iteration


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one CTA needs for one K-iteration."""

    element: str  #: what the tensor cores multiply
    tensor_clk: F64
    promotion_clk: F64
    unit_clk: F64  #: of the unit that CTAs wait for each other at
    alone_clk: F64  #: of a CTA that has the multiprocessor to itself
    serial: bool  #: as :class:`Loop`'s
    smem_clk: F64
    l2_bytes: F64
    slice_bytes: F64  #: the same, of the slice of the L2 that is asked most, times their number
    iterations: F64
    stages: F64
    held: float  #: 1 where a product holds its buffers until the next iteration, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave's time and the part of it in which loads were waited for."""

    time_ns: F64
    exposed_ns: F64
    dram_ns: F64
    clock_ghz: F64  #: at which the power limit holds the launch


def queued_clk(serving_clk: F64, apart_clk: F64, customers: I64) -> F64:
    """Clocks in which each of so many CTAs is served once by a unit and is apart from it once.

    Schweitzer's approximation of the mean value analysis of a closed network of one queue and a
    delay (P. Schweitzer, Approximate analysis of multiclass closed networks of queues, 1979):
    exact for one CTA, and never below either the unit's time for all or a lone CTA's.
    """
    late = customers * serving_clk - apart_clk
    clk: F64 = apart_clk + 0.5 * (late + np.sqrt(late * late + 4.0 * serving_clk * apart_clk))
    return clk


def lone_clk(one: Loop) -> tuple[F64, F64]:
    """Clocks that an iteration keeps the busiest unit, and that a lone CTA takes for it.

    A CTA that must add its partial sums before its next product leaves the tensor cores idle
    meanwhile: T = 1 + R and its waits.  Elsewhere it takes what its products take or its warps' own
    instructions, whichever is more, and the sum of both under ``mma.sync``.
    """
    behind = one.chain_clk + one.tensor_clk + one.promotion_clk
    if one.serial:
        unit = np.maximum(one.tensor_clk, one.promotion_clk) + one.issue_clk
        apart = one.tensor_clk + one.promotion_clk + one.issue_clk
        return unit, np.where(one.in_line, behind, apart) + one.wait_clk
    unit = np.maximum(one.tensor_clk, one.promotion_clk + one.loop_clk) + one.issue_clk
    beside = np.maximum(unit + one.wait_clk, one.chain_clk)
    return unit, np.maximum(np.where(one.in_line, behind, beside), unit)


def compute_clk(one: Iteration, per_sm: I64, parameters: GemmParameters = GEMM) -> F64:
    """Clocks of one K-iteration of ``per_sm`` CTAs on tensor and CUDA cores together.

    Co-resident CTAs fill each other's waits: as customers of a queue, or where they need tensor and
    CUDA cores in turn, by the hidden exponent.
    """
    if not one.serial:
        return queued_clk(one.unit_clk, one.alone_clk - one.unit_clk, per_sm)
    busy = per_sm * one.unit_clk
    # Powers of the few numbers that there are: a power costs ten times what a product does.
    hidden = np.arange(1, per_sm.max() + 1, dtype=np.float64)
    hidden = hidden**-parameters.serial_hidden_exponent
    clk: F64 = busy + np.maximum(per_sm * one.alone_clk - busy, 0.0) * hidden[per_sm - 1]
    return clk


def price_wave(
    gpu: Gpu,
    one: Iteration,
    *,
    per_sm: I64,
    ctas: I64,
    footprint_bytes: F64,
    read_bytes: F64,
    write_bytes: F64,
    in_flight_share: F64,
    latency_ns: F64,
    ghz: F64 | None = None,
    parameters: GemmParameters = GEMM,
) -> Wave:
    """The main loop of one wave: ``per_sm`` CTAs on each multiprocessor, ``ctas`` together.

    Args:
        ghz: the clock, where another wave of the launch has set it.
    """
    compute = compute_clk(one, per_sm, parameters)
    in_flight = footprint_bytes * in_flight_share
    in_flight = np.minimum(in_flight, footprint_bytes)
    moved = dram_ns(gpu, read_bytes=read_bytes, write_bytes=write_bytes, in_flight_bytes=in_flight)
    fastest_ghz = gpu.max_clock_mhz / 1e3
    exponent = parameters.overlap_exponent
    # The p-norm of all resources in two parts: one scales with the clock, the other does not.
    units = raised(compute, exponent) + raised(per_sm * one.smem_clk, exponent)
    memory = raised(
        l2_ns(
            gpu,
            bytes_per_sm=per_sm * one.l2_bytes,
            bytes_total=ctas * one.slice_bytes,
            clock_ghz=fastest_ghz,
        ),
        exponent,
    ) + raised(moved / one.iterations, exponent)
    if ghz is None:
        # A wave that waits for memory is none the slower for a clock as if it did not.
        units_clk = rooted(units, exponent)
        share = per_sm / units_clk
        ghz = clock_ghz(
            gpu,
            element=one.element,
            tensor_busy=one.tensor_clk * share,
            cuda_cores_busy=one.promotion_clk * share,
            dram_bytes_per_clk=(read_bytes + write_bytes) / (one.iterations * units_clk),
        )
    steady = rooted(units + memory * raised(ghz, exponent), exponent) / ghz
    first_touches = footprint_bytes / gpu.dram_read_gb_per_s / one.iterations
    steady = steady + parameters.first_touch_exposed * first_touches
    exposed = exposed_ns(latency_ns, steady, one.stages, one.held)
    return Wave(
        time_ns=one.iterations * (steady + exposed),
        exposed_ns=one.iterations * exposed,
        dram_ns=moved,
        clock_ghz=ghz,
    )
