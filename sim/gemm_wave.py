"""One wave of a GEMM: the main loop of the CTAs that are resident together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.memory import dram_ns, exposed_ns, l2_ns, overlap

__all__ = ["HANDSHAKE_CLK", "Iteration", "Wave", "compute_clk", "price_wave"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Clocks of one stage's barrier handshake; 60-100 expected, to be fitted.
HANDSHAKE_CLK = 80.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one CTA needs for one K-iteration, and for its start and end."""

    tensor_clk: F64
    cuda_core_clk: F64
    spill_factor: F64
    serial: bool  #: CUDA cores wait for the products of their own iteration
    handshake_clk: F64
    groups: I64  #: consumer warp groups of a specialised CTA, 0 where warps are not specialised
    smem_clk: F64
    l2_bytes: F64
    iterations: I64
    stages: I64
    prologue_ns: F64
    epilogue_ns: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One wave's time and the part of it in which loads were waited for."""

    time_ns: F64
    exposed_ns: F64
    dram_ns: F64


def compute_clk(one: Iteration, per_sm: I64) -> F64:
    """Clocks of one K-iteration of ``per_sm`` CTAs on tensor and CUDA cores together.

    A warp group that must add its partial sums before its next product leaves the tensor cores idle
    meanwhile: T = 1 + R alone.  Others fill in for it, the less surely the fewer there are: of the
    time that could be hidden, co-resident CTAs leave 1/sqrt(CTAs) exposed, and specialised warp
    groups, which wait for nothing but their own products, leave 1/groups.  Both are priors.
    """
    busy = per_sm * np.maximum(one.tensor_clk, one.cuda_core_clk)
    if one.serial:
        # A producer group does the handshakes of specialised consumers.
        handshake = np.where(one.groups > 0, one.handshake_clk, HANDSHAKE_CLK)
        alone = one.tensor_clk + one.cuda_core_clk + handshake
    else:
        alone = np.maximum(one.tensor_clk, one.cuda_core_clk) + one.handshake_clk
    exposed = 1 / (np.sqrt(per_sm) * np.maximum(one.groups, 1))
    return busy + (per_sm * alone - busy) * exposed


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
) -> Wave:
    """The main loop of one wave: ``per_sm`` CTAs on each multiprocessor, ``ctas`` together."""
    compute = compute_clk(one, per_sm)
    in_flight = footprint_bytes * in_flight_share
    moved = dram_ns(
        gpu,
        read_bytes=read_bytes,
        write_bytes=write_bytes,
        in_flight_bytes=np.minimum(in_flight, footprint_bytes),
    )
    steady = overlap(
        compute * one.spill_factor / clock_ghz,
        per_sm * one.smem_clk / clock_ghz,
        l2_ns(
            gpu,
            bytes_per_sm=per_sm * one.l2_bytes,
            bytes_total=ctas * one.l2_bytes,
            clock_ghz=clock_ghz,
        ),
        moved / one.iterations,
    )
    exposed = exposed_ns(latency_ns, steady, one.stages)
    return Wave(
        time_ns=one.iterations * (steady + exposed),
        exposed_ns=one.iterations * exposed,
        dram_ns=moved,
    )
