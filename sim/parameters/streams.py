"""Template parameters of kernels that pass over memory: quantise, decode, transpose, dataflow."""

from dataclasses import dataclass

from sim.parameters.base import Parameters, fitted

__all__ = [
    "DATAFLOW_ROW",
    "STREAM",
    "DataflowRowParameters",
    "StreamParameters",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParameters(Parameters):
    """Of a streaming kernel.

    Gaps of a CTA without neighbours and the second pass were set on 35 timings of Triton kernels on
    an H200 at 4096 x 4096, the start on 61 at 16 x 4096, all of one board and session; the share of
    the bandwidth on the fastest configurations of ``data/h200/sweeps`` at 8192 x 8192, 183 of them.
    """

    #: A CTA of a streaming kernel starts, waits for its loads, reduces, stores and leaves.
    cta_clk: float = fitted(600.0, 0.3)
    #: Of a copy's bandwidth, what a kernel reaches that computes between its loads and stores.
    dram_share: float = fitted(0.94, 0.05)
    #: Instructions an element, as a multiple of those counted in compiled code.
    instruction_share: float = fitted(1.0, 0.2)
    #: Of the norm that joins resources side by side.
    overlap_exponent: float = fitted(8.0, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataflowRowParameters(StreamParameters):
    """Of dataflow kernels on rows."""

    #: A barrier of a cluster.
    cluster_clk: float = fitted(400.0, 0.4)


STREAM = StreamParameters()
DATAFLOW_ROW = DataflowRowParameters()
