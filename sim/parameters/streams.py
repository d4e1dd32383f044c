"""Template parameters of kernels that pass over memory: quantise, decode, transpose, dataflow."""

from dataclasses import dataclass

from sim.parameters.base import Parameters, fitted

__all__ = [
    "DATAFLOW_ROW",
    "STREAM",
    "TURNS",
    "DataflowRowParameters",
    "StreamParameters",
    "TurnParameters",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParameters(Parameters):
    """Of a streaming kernel.

    Gaps of a CTA without neighbours and the second pass were set on 35 timings of Triton kernels on
    an H200 at 4096 x 4096, the start on 61 at 16 x 4096, all of one board and session; the rest on
    188 timings at 8192 x 8192 (see :mod:`sim.cta_turns`).
    """

    #: A CTA of a streaming kernel starts, waits for its loads, reduces, stores and leaves.
    cta_clk: float = fitted(600.0, 0.3)
    #: Of a copy's bandwidth, what a kernel reaches that computes between its loads and stores.
    dram_share: float = fitted(0.945, 0.05)
    #: Issue slots of an instruction, beside what :attr:`sim.Gpu.issue_per_clk` says of a mix.
    instruction_share: float = fitted(1.06, 0.2)
    #: Of the norm that joins resources side by side: bursts of loads leave gaps in both.
    overlap_exponent: float = fitted(4.0, 0.3)
    #: The GPU hands out its CTAs one by one: tiles of 128 elements are bound by that.
    cta_start_ns: float = fitted(0.60, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnParameters(StreamParameters):
    """Of kernels whose CTAs load, compute and store once, see :mod:`sim.cta_turns`."""

    #: What a CTA's own chain adds falls with this power of the CTAs beside it.
    gap_exponent: float = fitted(1.75, 0.2)
    #: Bytes that a piece of a line costs DRAM beside its own: rows of narrow tiles.
    request_bytes: float = fitted(12.0, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataflowRowParameters(StreamParameters):
    """Of dataflow kernels on rows."""

    #: A barrier of a cluster.
    cluster_clk: float = fitted(400.0, 0.4)


STREAM = StreamParameters()
TURNS = TurnParameters()
DATAFLOW_ROW = DataflowRowParameters()
