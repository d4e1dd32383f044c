"""One wave of a GEMM: the main loop of the CTAs that are resident together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.memory import dram_ns, exposed_ns, l2_ns, overlap
from sim.parameters import GEMM, GemmParameters

__all__ = ["Iteration", "Wave", "compute_clk", "price_wave"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one CTA needs for one K-iteration, and for its start and end."""

    tensor_clk: F64
    promotion_clk: F64  #: CUDA-core work on operands or partial sums, which tensor cores can hide
    issue_clk: F64  #: load, store and address instructions that nothing hides
    wait_clk: F64  #: barriers, and products or scales that are waited for
    serial: bool  #: CUDA cores wait for the products of their own iteration
    smem_clk: F64
    l2_bytes: F64
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


def compute_clk(one: Iteration, per_sm: I64, parameters: GemmParameters = GEMM) -> F64:
    """Clocks of one K-iteration of ``per_sm`` CTAs on tensor and CUDA cores together.

    A CTA that must add its partial sums before its next product leaves the tensor cores idle
    meanwhile: T = 1 + R and its waits.  Co-resident CTAs fill in for it, see the hidden exponents.
    """
    busy = per_sm * (np.maximum(one.tensor_clk, one.promotion_clk) + one.issue_clk)
    if one.serial:
        alone = one.tensor_clk + one.promotion_clk
    else:
        alone = np.maximum(one.tensor_clk, one.promotion_clk)
    alone = alone + one.issue_clk + one.wait_clk
    exponent = parameters.waits_hidden_exponent
    if one.serial:
        exponent = parameters.serial_hidden_exponent
    # Powers of the few numbers that there are: a power costs ten times what a product does.
    hidden = np.arange(1, per_sm.max() + 1, dtype=np.float64) ** -exponent
    clk: F64 = busy + (per_sm * alone - busy) * hidden[per_sm - 1]
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
    clock_ghz: float,
    parameters: GemmParameters = GEMM,
) -> Wave:
    """The main loop of one wave: ``per_sm`` CTAs on each multiprocessor, ``ctas`` together."""
    compute = compute_clk(one, per_sm, parameters)
    in_flight = footprint_bytes * in_flight_share
    moved = dram_ns(
        gpu,
        read_bytes=read_bytes,
        write_bytes=write_bytes,
        in_flight_bytes=np.minimum(in_flight, footprint_bytes),
    )
    steady = overlap(
        compute / clock_ghz,
        per_sm * one.smem_clk / clock_ghz,
        l2_ns(
            gpu,
            bytes_per_sm=per_sm * one.l2_bytes,
            bytes_total=ctas * one.l2_bytes,
            clock_ghz=clock_ghz,
        ),
        moved / one.iterations,
        exponent=parameters.overlap_exponent,
    )
    first_touches = footprint_bytes / gpu.dram_read_gb_per_s / one.iterations
    steady = steady + parameters.first_touch_exposed * first_touches
    exposed = exposed_ns(latency_ns, steady, one.stages, one.held_stages)
    return Wave(
        time_ns=one.iterations * (steady + exposed),
        exposed_ns=one.iterations * exposed,
        dram_ns=moved,
    )
