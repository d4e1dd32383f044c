"""Operators that no kernel family serves and that pass over memory once, in 16 bits or codes.

Normalisations, activations and residual adds of a network without codes between its operators,
casts without scales, and the optimiser's step.  The model is that of ``sim.dataflow_model`` with
enough bytes in flight to saturate DRAM: bytes, issue slots, the special-function pipe, the ends of
a kernel.  Its instruction counts are priors, no measurement stands behind them; activations of
small tensors are bound by them, and the gradient of an activation in codes, whose are counted.

Left out: what the L2 still holds of a tensor that the operator before wrote, which small batches
profit from, and a second pass over rows too long for the registers of a CTA.
"""

from dataclasses import dataclass

import numpy as np

from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap
from sim.parameters import STREAM

__all__ = ["Streaming", "streaming_cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """One pass over some matrices."""

    name: str  #: what is computed, e.g. "layernorm-bwd"
    read_bytes: float
    written_bytes: float
    elements: float  #: that instructions are counted for
    instructions: float = 0.0  #: an element
    special_functions: float = 0.0  #: an element: exponentials, reciprocals, roots

    def __post_init__(self) -> None:
        counts = (self.read_bytes, self.written_bytes, self.instructions, self.special_functions)
        if min(counts) < 0 or self.elements <= 0:
            raise ValueError(f"{self.name}: bytes and counts must not be negative")

    @property
    def moved_bytes(self) -> float:
        """Bytes through device memory."""
        return self.read_bytes + self.written_bytes

    def __str__(self) -> str:
        return f"streaming:{self.name}"


def streaming_cost(work: Streaming, gpu: Gpu) -> Cost:
    """The cost of one pass, as columns of one row.

    DRAM: bytes at the rate of a copy, reads not faster than a read.  L2: all bytes.  CUDA cores:
    instructions over the issue slots, and special functions over their lanes, spread over all
    multiprocessors.  Ends: one latency of DRAM and one CTA, and the launch.
    """
    clock_ghz = gpu.max_clock_mhz / 1e3  # streaming draws far less than the power limit
    one = np.ones(1)
    dram = max(work.read_bytes / gpu.dram_read_gb_per_s, work.moved_bytes / gpu.dram_copy_gb_per_s)
    l2 = l2_ns(
        gpu,
        bytes_per_sm=one * (work.moved_bytes / gpu.sm_count),
        bytes_total=one * work.moved_bytes,
        clock_ghz=clock_ghz,
    )
    each_sm = work.elements / gpu.sm_count / clock_ghz
    issue = each_sm * work.instructions / gpu.issue_per_clk
    special = each_sm * work.special_functions / gpu.special_per_clk
    ends = gpu.dram_latency_ns + STREAM.cta_clk / clock_ghz
    main = overlap(one * dram, l2, one * issue, one * special)
    return Cost(
        time_us=(main + ends) / 1e3 + gpu.graph_launch_us,
        terms_us={
            "dram": one * dram / 1e3,
            "l2": l2 / 1e3,
            "cuda_cores": one * max(issue, special) / 1e3,
            "prologue_epilogue": one * ends / 1e3,
            "launch": one * gpu.graph_launch_us,
        },
        dram_read_bytes=one * work.read_bytes,
        dram_write_bytes=one * work.written_bytes,
        l2_read_bytes=one * work.read_bytes,
    )
