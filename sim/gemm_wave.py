"""One wave of a GEMM: the main loop of the CTAs that are resident together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz
from sim.gpu import Gpu
from sim.memory import dram_ns, exposed_ns, l2_ns, overlap
from sim.parameters import GEMM, GemmParameters

__all__ = ["Iteration", "Wave", "compute_clk", "price_wave", "queued_clk"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one CTA needs for one K-iteration, and for its start and end."""

    element: str  #: what the tensor cores multiply
    tensor_clk: F64
    promotion_clk: F64  #: CUDA-core work on operands or partial sums, which tensor cores can hide
    issue_clk: F64  #: load, store and address instructions that nothing hides
    wait_clk: F64  #: barriers, and products or scales that are waited for
    chain_clk: F64  #: a warp's own instructions one after the other, beside products in flight
    loop_clk: F64  #: issue slots of the warps' own instructions
    in_line: NDArray[np.bool_]  #: products stand in that chain: ``mma.sync``
    serial: bool  #: CUDA cores wait for the products of their own iteration
    smem_clk: F64
    l2_bytes: F64
    slice_bytes: F64  #: the same, of the busiest slice of the L2 times their number
    iterations: I64
    stages: I64
    held_stages: I64  #: buffers that products of earlier iterations still read
    prologue_ns: F64
    epilogue_ns: F64


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


def compute_clk(one: Iteration, per_sm: I64, parameters: GemmParameters = GEMM) -> F64:
    """Clocks of one K-iteration of ``per_sm`` CTAs on tensor and CUDA cores together.

    A CTA that must add its partial sums before its next product leaves the tensor cores idle
    meanwhile: T = 1 + R and its waits; co-resident CTAs fill in for it, see the hidden exponent.
    Elsewhere a lone CTA takes what its products take or its warps' own instructions, whichever is
    more, and the sum of both under ``mma.sync``.
    """
    units = np.maximum(one.tensor_clk, one.promotion_clk) + one.issue_clk
    behind = one.chain_clk + one.tensor_clk + one.promotion_clk
    if one.serial:
        alone = one.tensor_clk + one.promotion_clk + one.issue_clk + one.wait_clk
        alone = np.where(one.in_line, behind + one.wait_clk, alone)
        busy = per_sm * units
        # Powers of the few numbers that there are: a power costs ten times what a product does.
        hidden = np.arange(1, per_sm.max() + 1, dtype=np.float64)
        hidden = hidden**-parameters.serial_hidden_exponent
        clk: F64 = busy + np.maximum(per_sm * alone - busy, 0.0) * hidden[per_sm - 1]
        return clk
    units = np.maximum(one.tensor_clk, one.promotion_clk + one.loop_clk) + one.issue_clk
    beside = np.maximum(units + one.wait_clk, one.chain_clk)
    alone = np.maximum(np.where(one.in_line, behind, beside), units)
    return queued_clk(units, alone - units, per_sm)


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
    parameters: GemmParameters = GEMM,
) -> Wave:
    """The main loop of one wave: ``per_sm`` CTAs on each multiprocessor, ``ctas`` together."""
    compute = compute_clk(one, per_sm, parameters)
    in_flight = footprint_bytes * in_flight_share
    in_flight = np.minimum(in_flight, footprint_bytes)
    moved = dram_ns(
        gpu, read_bytes=read_bytes, write_bytes=write_bytes, in_flight_bytes=in_flight
    )
    fastest_ghz = gpu.max_clock_mhz / 1e3
    exponent = parameters.overlap_exponent
    units = overlap(compute, per_sm * one.smem_clk, exponent=exponent) / fastest_ghz
    memory = overlap(
        l2_ns(
            gpu,
            bytes_per_sm=per_sm * one.l2_bytes,
            bytes_total=ctas * one.slice_bytes,
            clock_ghz=fastest_ghz,
        ),
        moved / one.iterations,
        exponent=exponent,
    )
    fast = overlap(units, memory, exponent=exponent)
    share = per_sm / (fast * fastest_ghz)
    ghz = clock_ghz(
        gpu,
        element=one.element,
        tensor_busy=one.tensor_clk * share,
        cuda_cores_busy=one.promotion_clk * share,
    )
    steady = overlap(units * (fastest_ghz / ghz), memory, exponent=exponent)
    first_touches = footprint_bytes / gpu.dram_read_gb_per_s / one.iterations
    steady = steady + parameters.first_touch_exposed * first_touches
    exposed = exposed_ns(latency_ns, steady, one.stages, one.held_stages * steady / per_sm)
    return Wave(
        time_ns=one.iterations * (steady + exposed),
        exposed_ns=one.iterations * exposed,
        dram_ns=moved,
        clock_ghz=ghz,
    )
