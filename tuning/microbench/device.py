"""Runs microbenchmarks on the current CUDA device, in the measuring process.  Imports CuPy."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from tiles.kernels.cuda import modules
from tuning.microbench.catalogue import ELEMENTS, MIB, OPERATIONS, STREAM_BYTES
from tuning.microbench.sample import Case, Sample
from tuning.nvml import open_nvml

__all__ = ["run_cases"]

_FOLDER = Path(__file__).parent
#: Repeats of a case, after one that warms up.
REPEATS = 7
THREADS, AHEAD = 1024, 8
#: Keeps a second CTA off the multiprocessor.
MOST_SMEM = 120 * 1024
#: A stream through the L2 reads this much in a repeat.
L2_BYTES = 2**32
CHAINS, UNROLL, TURNS = 8, 16, 2000
POWER_S, POWER_STEP_S = 1.0, 0.01


def _kernel(file: str, name: str, *defines: str) -> Any:
    capability = cupy.cuda.Device().compute_capability
    arch = f"-arch=sm_{capability}{'a' if capability == '90' else ''}"
    return modules.load(_FOLDER / file, (*defines, arch)).get_function(name)


def _times_ns(launch: Callable[[], None], repeats: int = REPEATS) -> tuple[float, ...]:
    """Time of each repeat between device events, the first one dropped."""
    found = []
    for _ in range(repeats + 1):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        launch()
        end.record()
        end.synchronize()
        found.append(float(cupy.cuda.get_elapsed_time(start, end)) * 1e6)  # events say ms
    return tuple(found[1:])


def _streams(case: Case, name: str) -> Sample:
    sms = int(case["sms"])
    step = 16 * sms * THREADS * AHEAD
    # Few multiprocessors get less to do, whole steps always.
    count = max(1, int(case["bytes"]) * sms // 132 // step) * step // 16
    source = cupy.zeros(count * 2, cupy.uint64)
    sink, clocks = cupy.zeros(1, cupy.uint32), cupy.zeros(sms, cupy.uint64)
    if name == "dram_read":
        kernel = _kernel("memory.cu", "read_vectors")
        arguments: tuple[Any, ...] = (source, np.uint64(count), np.int32(1), sink, clocks)
        moved = 16.0 * count
    elif name == "dram_write":
        kernel = _kernel("memory.cu", "write_vectors")
        arguments = (source, np.uint64(count))
        moved = 16.0 * count
    else:
        kernel = _kernel("memory.cu", "copy_vectors")
        arguments = (source, cupy.empty_like(source), np.uint64(count))
        moved = 32.0 * count
    kernel.max_dynamic_shared_size_bytes = MOST_SMEM
    ns = _times_ns(lambda: kernel((sms,), (THREADS,), arguments, shared_mem=MOST_SMEM))
    return Sample(case=case, work=moved, ns=ns)


def _l2_read(case: Case) -> Sample:
    sms = int(case["sms"])
    step = 16 * sms * THREADS * AHEAD
    # A working set below a step of all multiprocessors is read by threads with less ahead of them.
    threads = THREADS
    while 16 * sms * threads * AHEAD > int(case["bytes"]) and threads > 128:
        threads //= 2
    step = 16 * sms * threads * AHEAD
    count = max(1, int(case["bytes"]) // step) * step // 16
    turns = max(1, L2_BYTES // (16 * count)) * sms // 132 or 1
    source = cupy.zeros(count * 2, cupy.uint64)
    sink, clocks = cupy.zeros(1, cupy.uint32), cupy.zeros(sms, cupy.uint64)
    kernel = _kernel("memory.cu", "read_vectors")
    kernel.max_dynamic_shared_size_bytes = MOST_SMEM
    longest: list[float] = []

    def launch() -> None:
        arguments = (source, np.uint64(count), np.int32(turns), sink, clocks)
        kernel((sms,), (threads,), arguments, shared_mem=MOST_SMEM)

    ns = _times_ns(launch)
    for _ in range(REPEATS):
        launch()
        longest.append(float(clocks.max()))
    return Sample(case=case, work=16.0 * count * turns, ns=ns, clocks=tuple(longest))


def _latency(case: Case) -> Sample:
    # A random ring of lines: neither a prefetcher nor a row of DRAM helps.
    lines = int(case["bytes"]) // 128
    order = np.random.default_rng(0).permutation(lines).astype(np.uint32)
    ring = np.zeros(lines * 32, np.uint32)
    ring[order * 32] = np.roll(order, -1) * 32
    following = cupy.asarray(ring)
    steps = min(lines, 20_000)
    sink, clocks = cupy.zeros(1, cupy.uint32), cupy.zeros(1, cupy.uint64)
    kernel = _kernel("memory.cu", "chase")
    if case["level"] == "l2":
        following.sum()  # brings all of it in
        steps = lines
    arguments = (following, np.int32(steps), sink, clocks)
    flush = cupy.zeros(2 * STREAM_BYTES // 64, cupy.uint64) if case["level"] == "dram" else None

    def launch() -> None:
        kernel((1,), (1,), arguments)

    found = []
    for _ in range(REPEATS):
        if flush is not None:
            flush.fill(1)  # the last ring's lines leave the L2
        found.append(_times_ns(launch, 1)[-1] if flush is None else _once_ns(launch))
    return Sample(case=case, work=float(steps), ns=tuple(found))


def _once_ns(launch: Callable[[], None]) -> float:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    launch()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) * 1e6


def _spans(kernel: Any, threads: int, smem: int, leading: Sequence[Any]) -> tuple[float, ...]:
    """Clocks from a CTA's first warp's start to its last one's end, one CTA a multiprocessor."""
    sms = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
    warps = threads // 32
    begins, ends = cupy.zeros(sms * warps, cupy.int64), cupy.zeros(sms * warps, cupy.int64)
    sink = cupy.zeros(1, cupy.uint32)
    kernel.max_dynamic_shared_size_bytes = smem
    found = []
    for _ in range(REPEATS + 1):
        kernel((sms,), (threads,), (*leading, sink, begins, ends), shared_mem=smem)
        span = ends.reshape(sms, warps).max(axis=1) - begins.reshape(sms, warps).min(axis=1)
        found.append(float(np.median(cupy.asnumpy(span))))
    return tuple(found[1:])


def _pipe(case: Case) -> Sample:
    names = list(OPERATIONS)
    op = str(case["op"])
    kernel = _kernel("pipes.cu", "rate", f"-DOP={names.index(op)}")
    leading = (np.int32(TURNS), np.uint32(0x3F8147AE), np.uint32(0x3A83126F))
    clocks = _spans(kernel, THREADS, MOST_SMEM, leading)
    return Sample(
        case=case, work=float(THREADS * CHAINS * UNROLL * TURNS * OPERATIONS[op]), clocks=clocks
    )


def _wgmma(case: Case) -> Sample:
    element, n = ELEMENTS.index(str(case["element"])), int(case["n"])
    kernel = _kernel("wgmma.cu", "rate", f"-DELEMENT={element}", f"-DWGMMA_N={n}")
    clocks = _spans(kernel, 256, MOST_SMEM, (np.int32(TURNS),))
    depth = 16 if element < 2 else 32
    return Sample(case=case, work=2.0 * 128 * n * depth * 4 * TURNS, clocks=clocks)


def _mma_sync(case: Case) -> Sample:
    element = ELEMENTS.index(str(case["element"]))
    kernel = _kernel("mma_sync.cu", "rate", f"-DELEMENT={element}")
    clocks = _spans(kernel, 512, MOST_SMEM, (np.int32(TURNS), np.uint32(0)))
    depth = 16 if element < 2 else 32
    return Sample(case=case, work=2.0 * 16 * 8 * depth * 8 * 16 * TURNS, clocks=clocks)


def _launch(case: Case) -> Sample:
    kernel = _kernel("memory.cu", "nothing")
    count = 500
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        kernel((1,), (32,), ())
        if case["how"] == "graph":
            stream.begin_capture()
            for _ in range(count):
                kernel((1,), (32,), ())
            graph = stream.end_capture()
            ns = _times_ns(lambda: graph.launch(stream))
        else:

            def launch() -> None:
                for _ in range(count):
                    kernel((1,), (32,), ())

            ns = _times_ns(launch)
    return Sample(case=case, work=float(count), ns=ns)


def _store(case: Case) -> Sample:
    pitch, rows, tiles = int(case["pitch"]), 128, 16 * 32
    target = cupy.zeros(pitch * rows * (tiles // 16) + 16 * MIB, cupy.uint8)
    kernel = _kernel("memory.cu", "store_tiles")
    sms = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
    arguments = (target, np.uint64(pitch), np.int32(rows), np.int32(tiles))
    ns = _times_ns(lambda: kernel((2 * sms,), (256,), arguments))
    return Sample(case=case, work=256.0 * rows * tiles, ns=ns)


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
    torch.cuda.synchronize()
    mhz: list[float] = []
    watts: list[float] = []
    until = time.monotonic() + POWER_S
    while time.monotonic() < until:
        for _ in range(10):  # some ten milliseconds of work
            launch()
        time.sleep(POWER_STEP_S / 2)
        reading = nvml.read()
        torch.cuda.synchronize()
        if reading.sm_clock_mhz is not None:
            mhz.append(float(reading.sm_clock_mhz))
        if reading.power_w is not None:
            watts.append(reading.power_w)
    return Sample(case=case, work=2.0 * int(case["size"]) ** 3, mhz=tuple(mhz), watts=tuple(watts))


_RUNNERS: Mapping[str, Callable[[Case], Sample]] = {
    "launch": _launch,
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
    return [_RUNNERS[name](case) for case in cases]
