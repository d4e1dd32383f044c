"""Runs microbenchmarks on the current CUDA device, in the measuring process.  Imports CuPy."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from tiles.kernels.cuda import modules
from tuning.microbench.catalogue import ELEMENTS, OPERATIONS
from tuning.microbench.sample import Case, Sample
from tuning.nvml import open_nvml

__all__ = ["run_cases"]

_FOLDER = Path(__file__).parent
#: Repeats of a case, after one that warms up.
REPEATS = 7
THREADS, AHEAD = 1024, 8
#: A stream is so many times the L2 at least, or it would be the L2's.
LEAST_CACHES = 4
#: Reads through the L2 in a repeat, all multiprocessors together: a millisecond or so.
L2_BYTES = 2**33
STORE_TURNS = 256
LAUNCHES = 500
CHAINS, UNROLL, TURNS = 8, 16, 2000
#: The driver's power is the mean of a second: the second half of these is settled.
POWER_S, POWER_BATCH_NS = 2.0, 2e7


def _kernel(file: str, name: str, *defines: str) -> Any:
    capability = cupy.cuda.Device().compute_capability
    arch = f"-arch=sm_{capability}{'a' if capability == '90' else ''}"
    return modules.load(_FOLDER / file, (*defines, arch)).get_function(name)


def _sms() -> int:
    return int(cupy.cuda.Device().attributes["MultiProcessorCount"])


def _alone(kernel: Any) -> int:
    """Shared memory by which a CTA keeps a second one off its multiprocessor; allows it, too."""
    attributes = cupy.cuda.Device().attributes
    smem = int(attributes["MaxSharedMemoryPerMultiprocessor"]) // 2 + 1024
    smem = min(smem, int(attributes["MaxSharedMemoryPerBlockOptin"]))
    kernel.max_dynamic_shared_size_bytes = smem
    return smem


def _scrambled(count_bytes: int) -> Any:
    """Device memory of random bits."""
    array = cupy.empty(count_bytes // 4, cupy.uint32)
    grid = (4 * _sms(),)
    _kernel("memory.cu", "scramble")(grid, (THREADS,), (array, np.uint64(array.size)))
    return array


def _times_ns(
    launch: Callable[[], None], repeats: int = REPEATS, *, dropped: int = 1
) -> tuple[float, ...]:
    """Time of each repeat between device events, after some that are dropped.

    All are in the queue before the first is over, so that none waits for the host.
    """
    events = [(cupy.cuda.Event(), cupy.cuda.Event()) for _ in range(dropped + repeats)]
    for start, end in events:
        start.record()
        launch()
        end.record()
    events[-1][1].synchronize()
    # Events say milliseconds.
    found = [float(cupy.cuda.get_elapsed_time(start, end)) * 1e6 for start, end in events]
    return tuple(found[dropped:])


def _stream_bytes(wanted: int, buffers: int) -> int:
    """What a buffer may take of the device's free memory.

    Raises:
        MemoryError: less than what the L2 might keep.
    """
    free = int(cupy.cuda.runtime.memGetInfo()[0])
    least = LEAST_CACHES * int(cupy.cuda.Device().attributes["L2CacheSize"])
    size = min(wanted, free * 3 // 4 // buffers)
    if size < least:
        raise MemoryError(
            f"{free / 1e9:.1f} GB of device memory are free and {buffers * least / 1e9:.1f} are "
            "needed: end what else uses the GPU"
        )
    return size


def _streams(case: Case, name: str) -> Sample:
    sms = int(case["sms"])
    step = 16 * sms * THREADS * AHEAD
    buffers = 2 if name == "dram_copy" else 1
    count = _stream_bytes(int(case["bytes"]), buffers) // step * step // 16
    source = _scrambled(16 * count)
    moved = 16.0 * count * buffers
    if name == "dram_read":
        kernel = _kernel("memory.cu", "read_vectors")
        arguments: tuple[Any, ...] = (source, np.uint64(count), cupy.zeros(1, cupy.uint32))
    elif name == "dram_write":
        kernel = _kernel("memory.cu", "write_vectors")
        arguments = (source, np.uint64(count))
    else:
        kernel = _kernel("memory.cu", "copy_vectors")
        arguments = (source, cupy.empty_like(source), np.uint64(count))
    smem = _alone(kernel)
    ns = _times_ns(lambda: kernel((sms,), (THREADS,), arguments, shared_mem=smem))
    return Sample(case=case, work=moved, ns=ns)


def _l2_read(case: Case) -> Sample:
    sms, size = int(case["sms"]), int(case["bytes"])
    if size % (16 * THREADS * AHEAD):
        raise ValueError(f"a working set of {size} B: take whole steps of {16 * THREADS * AHEAD}")
    turns = max(1, L2_BYTES // (size * sms))
    source = _scrambled(size)
    sink, clocks = cupy.zeros(1, cupy.uint32), cupy.zeros(sms, cupy.uint64)
    kernel = _kernel("memory.cu", "read_shared")
    smem = _alone(kernel)
    longest: list[float] = []

    def launch() -> None:
        arguments = (source, np.uint32(size // 16), np.int32(turns), sink, clocks)
        kernel((sms,), (THREADS,), arguments, shared_mem=smem)

    ns = _times_ns(launch)
    for _ in range(REPEATS):
        launch()
        longest.append(float(cupy.asnumpy(clocks).max()))
    return Sample(case=case, work=float(size) * sms * turns, ns=ns, clocks=tuple(longest))


def _latency(case: Case) -> Sample:
    # A random ring of lines: neither a prefetcher nor a row of DRAM helps.
    lines = int(case["bytes"]) // 128
    order = np.random.default_rng(0).permutation(lines).astype(np.uint32)
    ring = np.zeros(lines * 32, np.uint32)
    ring[order * 32] = np.roll(order, -1) * 32
    following = cupy.asarray(ring)
    cold = case["level"] == "dram"
    # In the L2 all of the ring, which the first turn brings in; from DRAM a part of it.
    steps = min(lines, 20_000) if cold else lines
    sink, clocks = cupy.zeros(1, cupy.uint32), cupy.zeros(1, cupy.uint64)
    kernel = _kernel("memory.cu", "chase")
    arguments = (following, np.int32(steps), sink, clocks)
    l2 = int(cupy.cuda.Device().attributes["L2CacheSize"])
    flush = cupy.empty(LEAST_CACHES * l2, cupy.uint8) if cold else None
    found: list[float] = []
    for _ in range(REPEATS):
        if flush is not None:
            flush.fill(1)  # the last turn's lines leave the L2
        found += _times_ns(lambda: kernel((1,), (1,), arguments), 1, dropped=0 if cold else 1)
    return Sample(case=case, work=float(steps), ns=tuple(found))


def _spans(kernel: Any, threads: int, leading: Sequence[Any]) -> tuple[float, ...]:
    """Clocks from a CTA's first warp's start to its last one's end, one CTA a multiprocessor."""
    sms, warps = _sms(), threads // 32
    begins, ends = cupy.zeros(sms * warps, cupy.uint64), cupy.zeros(sms * warps, cupy.uint64)
    sink = cupy.zeros(1, cupy.uint32)
    smem = _alone(kernel)
    found = []
    for _ in range(REPEATS + 1):
        kernel((sms,), (threads,), (*leading, sink, begins, ends), shared_mem=smem)
        first, last = (cupy.asnumpy(one).reshape(sms, warps) for one in (begins, ends))
        found.append(float(np.median(last.max(axis=1) - first.min(axis=1))))
    return tuple(found[1:])


def _pipe(case: Case) -> Sample:
    names = list(OPERATIONS)
    op = str(case["op"])
    kernel = _kernel("pipes.cu", "rate", f"-DOP={names.index(op)}")
    leading = (np.int32(TURNS), np.uint32(0x3F8147AE), np.uint32(0x3A83126F))
    clocks = _spans(kernel, THREADS, leading)
    return Sample(
        case=case, work=float(THREADS * CHAINS * UNROLL * TURNS * OPERATIONS[op]), clocks=clocks
    )


def _wgmma(case: Case) -> Sample:
    element, n = ELEMENTS.index(str(case["element"])), int(case["n"])
    kernel = _kernel("wgmma.cu", "rate", f"-DELEMENT={element}", f"-DWGMMA_N={n}")
    clocks = _spans(kernel, 256, (np.int32(TURNS),))
    depth = 16 if element < 2 else 32
    return Sample(case=case, work=2.0 * 128 * n * depth * 4 * TURNS, clocks=clocks)


def _mma_sync(case: Case) -> Sample:
    element = ELEMENTS.index(str(case["element"]))
    kernel = _kernel("mma_sync.cu", "rate", f"-DELEMENT={element}")
    clocks = _spans(kernel, 512, (np.int32(TURNS), np.uint32(0)))
    depth = 16 if element < 2 else 32
    return Sample(case=case, work=2.0 * 16 * 8 * depth * 8 * 16 * TURNS, clocks=clocks)


def _graph_launch(case: Case) -> Sample:
    kernel = _kernel("memory.cu", "nothing")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        kernel((1,), (32,), ())
        stream.begin_capture()
        for _ in range(LAUNCHES):
            kernel((1,), (32,), ())
        graph = stream.end_capture()
        ns = _times_ns(lambda: graph.launch(stream))
    return Sample(case=case, work=float(LAUNCHES), ns=ns)


def _stream_launch(case: Case) -> Sample:
    kernel = _kernel("memory.cu", "nothing")
    kernel((1,), (32,), ())
    driver, function = cupy.cuda.driver, kernel.kernel.ptr
    stream = cupy.cuda.get_current_stream().ptr

    def launch() -> None:
        for _ in range(LAUNCHES):  # the driver's own call: CuPy's would be the slower half
            driver.launchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, 0, 0)

    return Sample(case=case, work=float(LAUNCHES), ns=_times_ns(launch))


def _store(case: Case) -> Sample:
    # Four megabytes in all: every L2 takes them.
    pitch, rows, tiles = int(case["pitch"]), 32, 16 * 32
    target = cupy.empty(pitch * rows * (tiles // 16), cupy.uint8)
    kernel = _kernel("memory.cu", "store_tiles")
    arguments = (target, np.uint64(pitch), np.int32(rows), np.int32(tiles), np.int32(STORE_TURNS))
    ns = _times_ns(lambda: kernel((2 * _sms(),), (256,), arguments))
    return Sample(case=case, work=256.0 * rows * tiles * STORE_TURNS, ns=ns)


def _product(element: str, data: str, size: int) -> Callable[[], object]:
    """A library's product of random or zero operands: what draws the most power."""
    import torch

    kinds = {"bf16": torch.bfloat16, "e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}
    make = torch.randn if data == "normal" else torch.zeros
    a, b = (make(size, size, device="cuda") for _ in range(2))
    if element == "int8":
        a, b = ((x * 32).clamp(-127, 127).to(torch.int8) for x in (a, b))
        return lambda: torch._int_mm(a, b.T)
    a, b = (x.to(kinds[element]) for x in (a, b))
    if element == "bf16":
        return lambda: torch.mm(a, b.T)
    one = torch.ones((), device="cuda")
    return lambda: torch._scaled_mm(a, b.T, one, one, out_dtype=torch.bfloat16)


def _power(case: Case) -> Sample:
    import torch

    nvml = open_nvml()
    if nvml is None:
        raise RuntimeError("NVML does not answer: install nvidia-ml-py")
    launch = _product(str(case["element"]), str(case["data"]), int(case["size"]))
    launch()
    event: Any = torch.cuda.Event  # untyped
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    launch()
    end.record()
    end.synchronize()
    batch = max(1, round(POWER_BATCH_NS / (begin.elapsed_time(end) * 1e6)))
    mhz: list[float] = []
    watts: list[float] = []
    queued: deque[Any] = deque()
    until = time.monotonic() + POWER_S
    while time.monotonic() < until:
        for _ in range(batch):
            launch()
        queued.append(event())
        queued[-1].record()
        if len(queued) > 2:  # two batches wait, so that the GPU never does
            queued.popleft().synchronize()
        reading = nvml.read()
        if reading.sm_clock_mhz is not None:
            mhz.append(float(reading.sm_clock_mhz))
        if reading.power_w is not None:
            watts.append(reading.power_w)
    torch.cuda.synchronize()
    return Sample(case=case, work=2.0 * int(case["size"]) ** 3, mhz=tuple(mhz), watts=tuple(watts))


_RUNNERS: Mapping[str, Callable[[Case], Sample]] = {
    "graph_launch": _graph_launch,
    "stream_launch": _stream_launch,
    "dram_read": lambda case: _streams(case, "dram_read"),
    "dram_write": lambda case: _streams(case, "dram_write"),
    "dram_copy": lambda case: _streams(case, "dram_copy"),
    "l2_read": _l2_read,
    "latency": _latency,
    "pipes": _pipe,
    "wgmma": _wgmma,
    "mma_sync": _mma_sync,
    "store": _store,
    "power": _power,
}


def run_cases(name: str, cases: Sequence[Case]) -> list[Sample]:
    """Samples of a microbenchmark's cases, in their order.

    Raises:
        Exception: whatever CuPy, the compiler or the driver says.
    """
    found = []
    for case in cases:
        found.append(_RUNNERS[name](case))
        # The next case finds all of the memory, and so do the kernels that are timed next.
        cupy.get_default_memory_pool().free_all_blocks()
    return found
