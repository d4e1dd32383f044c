"""What the pipes of an SM take, measured: issue slots, FFMA, conversions, int8 products, together.

    python -m bench.pipe_rates [--output rates.json]

Each stream of instructions (bench/pipe_rates.cu) fills every SM for some milliseconds, over and
over, until the clock is its own; a rate is the median over the samples that follow, a clock of an
SM and a microsecond of the whole GPU.  ``--dry-run`` compiles the streams for sm_90a, counts the
instructions of their loops and times nothing.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiles.kernels import cuda
from tiles.kernels.cuda.modules import CUPY_OPTIONS, read_source
from tiles.kernels.nvrtc import compile_code

__all__ = ["STREAMS", "Rate", "Stream", "compile_stream", "measure", "options", "source"]

SCHEMA = "tile-workbench/pipe-rates/1"
SOURCE = Path(__file__).with_suffix(".cu")
HOPPER = "sm_90a"
CHAINS, UNROLL, THREADS = 8, 32, 1024
#: SM clocks that one sample covers, about 10 ms, and samples, of which the first settle the clock.
SAMPLE_CLK = 2e7
SETTLING, SAMPLES = 15, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A kernel of one mix of instructions."""

    name: str
    number: int  #: STREAM in the source
    unit: str  #: what is counted
    each: int = 1  #: of it, in a link of a chain; for products, in one of a warpgroup
    wgmma_n: int = 0  #: columns of a wgmma; 0 = none
    warpgroups: int = 0

    @property
    def threads(self) -> int:
        """Of a CTA, one of which fills an SM."""
        return 128 * self.warpgroups or THREADS

    @property
    def units_per_round(self) -> int:
        """Of all threads of an SM in one pass of the loop."""
        if self.warpgroups:
            return 2 * self.warpgroups * self.each
        return THREADS * CHAINS * UNROLL * self.each

    @property
    def smem_bytes(self) -> int:
        """Operand tiles of 128-byte rows."""
        return (64 * self.warpgroups + self.wgmma_n) * 128 if self.wgmma_n else 0


def _products(name: str, number: int, wgmma_n: int, warpgroups: int) -> Stream:
    return Stream(
        name=f"{name}, {warpgroups} x 64x{wgmma_n}",
        number=number,
        unit="multiply-adds of int8",
        each=64 * wgmma_n * 32,
        wgmma_n=wgmma_n,
        warpgroups=warpgroups,
    )


def _by_warps(name: str, number: int) -> Stream:
    """32 x 64 sums a warp, by mma.sync."""
    macs = 4 * 32 * 64 * 32
    return Stream(
        name=f"{name}, 8 x 32x64",
        number=number,
        unit="multiply-adds of int8",
        each=macs,
        warpgroups=2,
    )


STREAMS = (
    Stream(name="issue slots", number=0, unit="instructions of a thread", each=2),
    Stream(name="FFMA", number=1, unit="FFMA"),
    Stream(name="conversion", number=2, unit="int32 to fp32"),
    Stream(name="magic conversion", number=3, unit="int32 to fp32 by IADD and FADD"),
    Stream(name="promotion", number=4, unit="conversion and FFMA"),
    Stream(name="magic promotion", number=5, unit="IADD, FADD and FFMA"),
    _products("products", 6, 128, 2),
    _products("products", 6, 192, 2),
    _products("products and promotion", 7, 128, 2),
    _products("products and promotion", 7, 64, 4),
    _by_warps("products by mma.sync", 8),
    _by_warps("products by mma.sync and FFMA", 9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A stream's rate on one GPU."""

    stream: str
    unit: str
    per_clk: float | None = None  #: of one SM
    per_us: float | None = None  #: of the whole GPU, by device events
    sm_clock_mhz: float | None = None  #: clocks of the kernel over its time
    per_us_iqr: float | None = None
    refused: str = ""  #: why it was not measured


def source() -> str:
    """The CUDA C++ text, headers of the Hopper kernels written in."""
    folder = Path(cuda.__file__).parent

    def header(match: re.Match[str]) -> str:
        return read_source(folder / match[1])

    return re.sub(r'^#include "(\w+\.cuh)"$', header, SOURCE.read_text("utf-8"), flags=re.M)


def options(stream: Stream, target: str) -> tuple[str, ...]:
    """Options of the compiler; ``target`` is an architecture, e.g. "sm_90a"."""
    given = (f"-DSTREAM={stream.number}", f"-DCHAINS={CHAINS}", f"-arch={target}")
    if not stream.wgmma_n:
        return given
    return (*given, "-DELEMENT=4", "-DCLUSTER=1", f"-DWGMMA_N={stream.wgmma_n}")


def compile_stream(stream: Stream, target: str = HOPPER) -> bytes:
    """The stream's cubin, without a GPU.

    Raises:
        OfflineCompileError: NVRTC refuses it; its log is the message.
    """
    words = [
        word.replace("-arch=", "--gpu-architecture=")
        for word in (*options(stream, target), *CUPY_OPTIONS)
    ]
    return compile_code(source(), SOURCE.name, words).binary


def _sampled(kernel: Any, stream: Stream, sms: int) -> Rate:
    import cupy

    clk = cupy.zeros(sms, dtype=cupy.int64)
    sink = cupy.zeros(1, dtype=cupy.float32)  # written by no launch: rounds are positive

    def launch(rounds: int) -> tuple[float, float]:
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        arguments = (
            clk,
            sink,
            cupy.int32(rounds),
            cupy.float32(0.999),
            cupy.float32(0.001),
            cupy.uint32(0x55AA55AA),
        )
        first.record()
        kernel((sms,), (stream.threads,), arguments, shared_mem=stream.smem_bytes)
        last.record()
        last.synchronize()
        us = 1e3 * cupy.cuda.get_elapsed_time(first, last)
        return us, float(cupy.median(clk))

    launch(16)
    rounds = max(16, int(64 * SAMPLE_CLK / launch(64)[1]))
    taken = [launch(rounds) for _ in range(SETTLING + SAMPLES)][SETTLING:]
    units = stream.units_per_round * rounds
    per_us = sorted(sms * units / us for us, _ in taken)
    return Rate(
        stream=stream.name,
        unit=stream.unit,
        per_clk=statistics.median(units / clocks for _, clocks in taken),
        per_us=statistics.median(per_us),
        sm_clock_mhz=statistics.median(clocks / us for us, clocks in taken),
        per_us_iqr=per_us[3 * SAMPLES // 4] - per_us[SAMPLES // 4],
    )


def measure(streams: Sequence[Stream] = STREAMS) -> list[Rate]:
    """Rates on the current GPU; those of wgmma are refused where it is no Hopper.

    Raises:
        ImportError: CuPy is missing.
    """
    import cupy

    device = cupy.cuda.Device()
    sms = int(device.attributes["MultiProcessorCount"])
    capability = str(device.compute_capability)
    rates = []
    for stream in streams:
        if stream.wgmma_n and capability != "90":
            reason = f"wgmma needs capability 9.0, the device has {capability}"
            rates.append(Rate(stream=stream.name, unit=stream.unit, refused=reason))
            continue
        target = HOPPER if capability == "90" else f"sm_{capability}"
        module = cupy.RawModule(code=source(), options=options(stream, target))
        rates.append(_sampled(module.get_function("stream"), stream, sms))
    return rates


def main(given: Sequence[str] | None = None) -> int:
    """Print and write the rates; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench.pipe_rates", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="compile for sm_90a, time nothing")
    parser.add_argument("--output", type=Path, help="a JSON file")
    chosen = parser.parse_args(given)
    if chosen.dry_run:
        from bench.sass import histogram, loops, machine_code

        for stream in STREAMS:
            body = max(loops(machine_code(compile_stream(stream))), key=len)
            print(f"{stream.name:38} compiled, not timed: {histogram(body)}")
        return 0
    from tuning.environment import read_environment
    from workbench.outfile import check_outfile, write_outfile

    if chosen.output is not None:
        check_outfile(chosen.output, SCHEMA)
    try:
        rates = measure()
    except ImportError:
        parser.error("cupy is missing: pip install 'tile-workbench[cuda]', or pass --dry-run")
    for rate in rates:
        print(text_of(rate), flush=True)
    if chosen.output is not None:
        record = {
            "schema": SCHEMA,
            "environment": read_environment("cuda").to_dict(),
            "rates": [asdict(rate) for rate in rates],
        }
        write_outfile(chosen.output, json.dumps(record, indent=1) + "\n")
    return 0


def text_of(rate: Rate) -> str:
    """One line."""
    if rate.per_clk is None or rate.per_us is None:
        return f"{rate.stream:38} not measured: {rate.refused}"
    return (
        f"{rate.stream:38} {rate.per_clk:10.1f} a clock and SM, {rate.per_us:.4g} a us at "
        f"{rate.sm_clock_mhz:.0f} MHz  ({rate.unit})"
    )


if __name__ == "__main__":
    sys.exit(main())
