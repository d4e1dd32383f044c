"""A GPU as the cost model sees it: one frozen record of figures, read from a data file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache

from tiles.kernels.base import Limits

__all__ = ["Gpu"]


@lru_cache(maxsize=64)
def _any_measured(name: str, sources: tuple[str, ...]) -> bool:
    """Asked at every price, and the same for every change of a figure alone."""
    named = re.compile(rf"measured on .*\b{re.escape(name)}\b", re.IGNORECASE)
    return any(named.match(source) for source in sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Figures of one GPU.  Rates are per clock and multiprocessor (SM, AMD: compute unit).

    GB/s are 10^9 bytes.  ``sources`` says for every figure where it comes from; a figure that was
    not read at its origin is called unverified there.
    """

    name: str
    title: str
    vendor: str  #: "nvidia" or "amd"
    capability: int  #: NVIDIA 80, 90, 100, ...; AMD 942, 950
    device_names: tuple[str, ...]  #: what drivers call the device, as shell patterns
    features: frozenset[str]
    native_elements: frozenset[str]
    tensor_flop_per_clk: Mapping[str, float]  #: element name to dense flop/clk/SM
    sm_count: int
    max_clock_mhz: float
    datasheet_clock_mhz: float  #: the clock that the datasheet's peaks assume
    sustained_clock_mhz: float  #: under large dense products, see :mod:`sim.clock`
    tdp_w: float
    tensor_share: float  #: share of the peak that the best product instructions sustain
    mma_sync_share: float  #: the same for ``mma.sync``, where there is something better
    smem_bytes_per_sm: int
    smem_bytes_per_cta: int
    smem_bytes_per_clk: float
    registers_per_sm: int
    registers_per_thread: int
    threads_per_sm: int
    ctas_per_sm: int
    warp_threads: int
    l2_bytes: int  #: last-level cache by the datasheet
    l2_driver_bytes: int  #: the same as the driver reports it
    l2_read_gb_per_s: float
    l2_bytes_per_clk_per_sm: float  #: port of one SM
    dram_gb_per_s: float  #: datasheet
    dram_read_gb_per_s: float  #: achievable when reading
    dram_copy_gb_per_s: float  #: achievable when copying, read plus written bytes
    smem_latency_ns: float
    l2_latency_ns: float  #: plain load that hits the L2
    dram_latency_ns: float  #: plain load that misses it
    tma_extra_latency_ns: float  #: what a tensor-memory-access load takes longer
    stream_launch_us: float  #: kernel after kernel on a stream
    graph_launch_us: float  #: kernel after kernel in a graph
    issue_per_clk: float  #: instructions of a thread that mixed code issues
    fma_per_clk: float  #: fp32 multiply-adds
    int_per_clk: float  #: integer logic, shifts, permutes
    convert_per_clk: float  #: int32 to fp32 and back
    special_per_clk: float  #: exponentials, reciprocals, square roots
    sources: Mapping[str, str]  #: figure to where it comes from
    text: str = field(repr=False)  #: of the file that it was read from

    @property
    def limits(self) -> Limits:
        """What the legality gate needs to know."""
        return Limits(
            gpu=self.name,
            vendor=self.vendor,
            capability=self.capability,
            smem_bytes_per_cta=self.smem_bytes_per_cta,
            registers_per_sm=self.registers_per_sm,
            threads_per_sm=self.threads_per_sm,
            warp_threads=self.warp_threads,
            native_elements=self.native_elements,
            features=self.features,
        )

    @property
    def measured(self) -> bool:
        """Whether a figure was measured on the board itself, as its source says.

        Such a source begins with ``measured on`` and names the GPU: ``measured on an H200 by ...``.
        """
        return _any_measured(self.name, tuple(self.sources.values()))

    def matches(self, device_name: str) -> bool:
        """True when a driver that reports ``device_name`` means this GPU."""
        return any(fnmatchcase(device_name, pattern) for pattern in self.device_names)
