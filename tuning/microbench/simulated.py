"""What a machine with known figures would answer: samples for a dry run without a GPU."""

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from sim import Gpu
from tuning.microbench.catalogue import OPERATIONS
from tuning.microbench.sample import Case, Sample

__all__ = ["simulated_samples"]

REPEATS = 7
#: Spread of repeated samples.
NOISE = 0.005


def _stream(rate: float, latency_ns: float) -> Callable[[Gpu, Case], tuple[float, float, str]]:
    """Bytes, their nanoseconds, and which list of a sample they go to."""

    def samples(gpu: Gpu, case: Case) -> tuple[float, float, str]:
        moved = float(case["bytes"])
        in_flight = float(case["sms"]) * 131_072
        busy = -math.expm1(-in_flight / (rate * latency_ns))
        return moved, moved / (rate * busy), "ns"

    return samples


def _pipe(gpu: Gpu, case: Case) -> tuple[float, float, str]:
    rates = {
        "fma": gpu.fma_per_clk,
        "half2_fma": 2 * gpu.fma_per_clk,
        "logic": gpu.int_per_clk,
        "permute": gpu.int_per_clk,
        "int_to_float": gpu.convert_per_clk,
        "float_to_int": 16.0,
        "floats_to_bf16": gpu.convert_per_clk,
        "exponential": 16.0,
    }
    work = 1e6 * OPERATIONS[str(case["op"])]
    return work, work / rates[str(case["op"])], "clocks"


def _answer(name: str, gpu: Gpu, case: Case) -> tuple[float, float, str]:
    """Work of a repeat, its time or clocks, and which of the two."""
    if name in ("dram_read", "dram_write"):
        return _stream(gpu.dram_read_gb_per_s, gpu.dram_latency_ns)(gpu, case)
    if name == "dram_copy":
        return _stream(gpu.dram_copy_gb_per_s, gpu.dram_latency_ns)(gpu, case)
    if name == "l2_read":
        moved, sms = 2.0**32, int(case["sms"])
        if sms < gpu.sm_count:
            return moved, moved / (gpu.l2_bytes_per_clk_per_sm * sms), "clocks"
        rate = gpu.l2_read_gb_per_s
        if float(case["bytes"]) > 0.75 * gpu.l2_bytes:
            rate = gpu.dram_read_gb_per_s
        return moved, moved / rate, "ns"
    if name == "latency":
        latency = gpu.l2_latency_ns if case["level"] == "l2" else gpu.dram_latency_ns
        return 1000.0, 1000.0 * latency, "ns"
    if name == "pipes":
        return _pipe(gpu, case)
    if name in ("wgmma", "mma_sync"):
        share = gpu.tensor_share if name == "wgmma" else gpu.mma_sync_share
        rate = gpu.tensor_flop_per_clk[str(case["element"])] * share
        if name == "wgmma":
            n = float(case["n"])
            rate *= min(1.0, (n / 2) / (16 + n / 4))  # the feed of operands from shared memory
        return 1e9, 1e9 / rate, "clocks"
    if name in ("graph_launch", "stream_launch"):
        each = gpu.graph_launch_us if name == "graph_launch" else gpu.stream_launch_us
        return 500.0, 500.0 * each * 1e3, "ns"
    if name == "store":
        return 1e8, 1e8 / (0.5 * gpu.l2_read_gb_per_s), "ns"
    return 1.0, gpu.sustained_clock_mhz, "mhz"


def simulated_samples(name: str, case: Case, gpu: Gpu, seed: int) -> Sample:
    """Samples of one case on a machine of those figures, the same for the same seed."""
    work, value, which = _answer(name, gpu, case)
    key = zlib.crc32(f"{name} {sorted(case.items())}".encode())
    rng = np.random.default_rng([seed, key])
    repeats = tuple((value * np.exp(NOISE * rng.normal(size=REPEATS))).tolist())
    lists: Mapping[str, tuple[float, ...]] = {which: repeats}
    if which == "mhz":
        lists = {"mhz": repeats, "watts": (0.9 * gpu.tdp_w,) * REPEATS}
    if name == "l2_read" and which == "clocks":
        lists = {"clocks": repeats, "ns": tuple(c / (gpu.max_clock_mhz / 1e3) for c in repeats)}
    return Sample(case=case, work=work, **lists)
