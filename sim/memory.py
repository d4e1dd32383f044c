"""L2 and DRAM: bandwidth, its saturation by bytes in flight, and latency that stays exposed."""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.parameters import GEMM

__all__ = [
    "dram_ns",
    "exposed_ns",
    "l2_ns",
    "load_latency_ns",
    "overlap",
    "raised",
    "rooted",
    "saturation",
    "segment_share",
]

F64 = NDArray[np.float64]

#: Bytes of a line of the L2.
LINE_BYTES = 128


def saturation(in_flight_bytes: F64, gb_per_s: float, latency_ns: float) -> F64:
    """Share of a bandwidth that ``in_flight_bytes`` keep busy, in (0, 1].

    Little's law asks for bandwidth x latency bytes (GB/s x ns = bytes); queueing softens the knee
    to 1 - exp(-x), which meets public measurements of Hopper's TMA within a sixth.
    """
    return -np.expm1(-np.maximum(in_flight_bytes, 1.0) / (gb_per_s * latency_ns))


def dram_ns(gpu: Gpu, *, read_bytes: F64, write_bytes: F64, in_flight_bytes: F64) -> F64:
    """Nanoseconds to move the bytes through DRAM; writes need nobody to wait for them."""
    busy = saturation(in_flight_bytes, gpu.dram_read_gb_per_s, gpu.dram_latency_ns)
    return read_bytes / (gpu.dram_read_gb_per_s * busy) + write_bytes / gpu.dram_copy_gb_per_s


def l2_ns(gpu: Gpu, *, bytes_per_sm: F64, bytes_total: F64, clock_ghz: float) -> F64:
    """Nanoseconds to bring ``bytes_total`` from the L2, ``bytes_per_sm`` of them to one SM."""
    port = bytes_per_sm / (gpu.l2_bytes_per_clk_per_sm * clock_ghz)
    return np.maximum(port, bytes_total / gpu.l2_read_gb_per_s)


def segment_share(segment_bytes: F64, request_bytes: float = GEMM.request_bytes) -> F64:
    """Share of the L2's rate that tile rows of ``segment_bytes`` reach, 1 from a line upwards.

    A request costs as much as ``request_bytes`` beside the bytes that it brings.
    """
    bytes_ = np.clip(segment_bytes, 1, LINE_BYTES)
    share: F64 = bytes_ / (bytes_ + request_bytes) * ((LINE_BYTES + request_bytes) / LINE_BYTES)
    return share


def load_latency_ns(gpu: Gpu, miss: F64, tma: NDArray[np.bool_]) -> F64:
    """Latency of a stage's loads when a share ``miss`` of the lines comes from DRAM."""
    plain = gpu.l2_latency_ns + miss * max(0.0, gpu.dram_latency_ns - gpu.l2_latency_ns)
    return plain + tma * gpu.tma_extra_latency_ns


def exposed_ns(latency_ns: F64, steady_ns: F64, stages: F64, held: float) -> F64:
    """Latency that a pipeline of ``stages`` buffers cannot hide, per iteration.

    A buffer is busy for latency + one steady iteration and comes round every ``stages`` iterations;
    it is held a steady iteration longer where a product that is still under way reads it.
    """
    ahead = np.maximum(stages - 1 - held, 0)
    exposed: F64 = np.maximum(0.0, latency_ns - ahead * steady_ns) / stages
    return exposed


def raised(term: F64, exponent: float) -> F64:
    """``term ** exponent``; products take a tenth of the time of a power."""
    if exponent not in (4.0, 8.0):
        return np.asarray(term**exponent, np.float64)
    square = term * term
    fourth = square * square
    return fourth if exponent == 4.0 else fourth * fourth


def rooted(total: F64, exponent: float) -> F64:
    """``total ** (1 / exponent)``; three roots take a fraction of the time of a power."""
    if exponent not in (4.0, 8.0):
        return np.asarray(total ** (1.0 / exponent), np.float64)
    root: F64 = np.sqrt(np.sqrt(total))
    return root if exponent == 4.0 else np.sqrt(root)


def overlap(*terms: F64, exponent: float = 8.0) -> F64:
    """p-norm: the slowest of resources side by side, and a little of the others."""
    total = raised(terms[0], exponent)
    for term in terms[1:]:
        total = total + raised(term, exponent)
    return rooted(total, exponent)
