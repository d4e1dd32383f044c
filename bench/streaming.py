"""Quantise, dequantise and transpose beside copy bandwidth: ``python bench/streaming.py``.

A row a problem: the best of the configurations that the cost model ranks highest (and of the
fastest predicted for each number of warps and elements a thread), timed cold and in turns with a
device copy that reads and writes as many bytes.  ``of_copy`` is the copy's time over the kernel's.
A scale for the whole tensor (NVFP4 has one) reads the input twice, which the copy does not.
``--device cpu`` compiles the configurations that would be timed and prints no time.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from math import exp, log
from pathlib import Path
from typing import Any

from sim import Gpu, gpu_names, load_gpu, price
from tiles.kernels import Kernel, TileConfig, kernel
from tiles.problems import Problem, parse_problem

SHAPES = ("8192x8192", "16384x4096", "4096x14336")
QUANTIZE = (
    "int8.row int8.b1x128 int8.b32x32 int8.b64x64 int8.b128x128 int8.tensor e4m3fn.row "
    "e4m3fn.b1x128 e4m3fn.b128x128 e5m2.b1x128 e4m3fn.mx e4m3fn.mx+rceil e5m2.mx e3m2fn.mx "
    "e2m3fn.mx e2m1fn.mx mxint8.mx nvfp4 int8.b32x32+sr e4m3fn.b1x128+sr e2m1fn.mx+sr"
).split()
TRANSPOSED = "int8.b32x32 int8.b128x128 e4m3fn.b1x128 e4m3fn.mx".split()
SWIZZLED = "e4m3fn.mx e2m1fn.mx nvfp4".split()
DEQUANTIZE = "int8.b32x32 e4m3fn.b1x128 e4m3fn.mx e3m2fn.mx e2m1fn.mx nvfp4 int4.g128".split()
FAMILIES = {
    "quantize": "triton_quantize_tiles",
    "dequantize": "triton_dequantize",
    "transpose": "triton_transpose",
}


def texts(shape: str) -> list[str]:
    """The problems of one shape."""
    return [
        *(f"quantize:{shape}:{target}:bf16" for target in QUANTIZE),
        *(f"quantize:{shape}:int8.b32x32:{source}" for source in ("fp16", "fp32")),
        *(f"quantize:{shape}:{target}:bf16:transposed" for target in TRANSPOSED),
        *(f"quantize:{shape}:{target}:bf16:swizzled" for target in SWIZZLED),
        *(f"dequantize:{shape}:{source}:bf16" for source in DEQUANTIZE),
        f"dequantize:{shape}:int8.b32x32:fp32",
        f"transpose:{shape}:int8",
    ]


def candidates(problem: Problem, family: Kernel, gpu: Gpu, count: int) -> list[TileConfig]:
    """The fastest predicted of each kind, then the fastest predicted of all, without repetition."""
    table = family.legal_space(problem, gpu.limits).accepted
    order = price(problem, family, table, gpu).time_us.argsort(kind="stable")
    kinds: dict[tuple[int, int], int] = {}
    for row in order.tolist():
        warps = int(table["num_warps"][row])
        each = int(table["block_rows"][row] * table["block_cols"][row]) // (32 * warps)
        kinds.setdefault((warps, each), row)
    rows = list(dict.fromkeys([*order[: count // 2].tolist(), *kinds.values(), *order.tolist()]))
    return [table.config(row) for row in rows[:count]]


def copies(size: int) -> Callable[[int], list[Callable[[], None]]]:
    """Launchers of device copies that read and write ``size`` bytes together."""
    import torch

    def make(sets: int) -> list[Callable[[], None]]:
        pairs = [torch.empty(2, size // 2, dtype=torch.uint8, device="cuda") for _ in range(sets)]
        return [partial(pair[1].copy_, pair[0]) for pair in pairs]

    return make


def measured(problem: Problem, family: Kernel, gpu: Gpu, count: int) -> dict[str, Any]:
    """Search, then time the winner in turns with the copy."""
    import torch

    from tuning.timing import time_callable, time_interleaved

    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    workload = family.workload(problem, device="cuda", seed=0)
    times: dict[TileConfig, float] = {}
    for config in candidates(problem, family, gpu, count):
        accuracy = workload.check(config)
        if not accuracy.ok:
            raise SystemExit(f"{problem} {config}: {accuracy.reason}")
        launchers = partial(workload.launchers, config)
        timing = time_callable(launchers, set_bytes=workload.set_bytes, l2_bytes=l2)
        times[config] = timing.time_us
    best = min(times, key=times.__getitem__)
    ours, copy = time_interleaved(
        [
            (partial(workload.launchers, best), workload.set_bytes),
            (copies(problem.min_bytes), problem.min_bytes),
        ],
        l2_bytes=l2,
    )
    return {
        "config": best.to_dict(),
        "time_us": ours.time_us,
        "copy_us": copy.time_us,
        "of_copy": copy.time_us / ours.time_us,
        "gb_per_s": problem.min_bytes / ours.time_us / 1e3,
        "samples_us": ours.samples_us,
        "tried": {str(config): time for config, time in times.items()},
    }


def compiled(problem: Problem, family: Kernel, gpu: Gpu, count: int) -> dict[str, Any]:
    """What the compiler makes of the same configurations, without a GPU."""
    facts = {}
    for config in candidates(problem, family, gpu, count):
        found = family.compile_offline(problem, config, gpu.limits)
        facts[str(config)] = None if found is None else found.to_dict()
    return {"compiled": facts}


def printed(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "of_copy" not in row:
        return f"{row['problem']:58} compiled {len(row['compiled'])} configurations"
    return (
        f"{row['problem']:58} {row['time_us']:9.1f} us {row['gb_per_s']:7.0f} GB/s "
        f"{row['of_copy']:5.2f} of the copy"
    )


def main() -> None:
    """Print the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpu", help="GPU file; by default that of the device, or h200")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--match", default="", help="only problems whose text has this in it")
    parser.add_argument("--configs", type=int, default=12, help="configurations tried a problem")
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    chosen = parser.parse_args()
    name = chosen.gpu or "h200"
    if chosen.device == "cuda" and not chosen.gpu:
        import torch

        device = torch.cuda.get_device_name()
        name = next(n for n in gpu_names() if load_gpu(n).matches(device))
    gpu = load_gpu(name)
    work = measured if chosen.device == "cuda" else compiled
    rows: list[dict[str, Any]] = []
    for text in (text for shape in chosen.shapes for text in texts(shape)):
        if chosen.match not in text:
            continue
        problem = parse_problem(text)
        family = kernel(FAMILIES[problem.kind])
        rows.append({"problem": text, **work(problem, family, gpu, chosen.configs)})
        print(printed(rows[-1]), flush=True)
        if chosen.output is not None:  # after each row: a run that is cut short keeps the others
            record = {"schema": "tile-workbench/streaming/1", "gpu": gpu.name, "rows": rows}
            chosen.output.write_text(json.dumps(record, indent=1) + "\n")
    ratios = [row["of_copy"] for row in rows if "of_copy" in row]
    if ratios:
        mean = exp(sum(map(log, ratios)) / len(ratios))
        print(f"geometric mean {mean:.2f}, worst {min(ratios):.2f} of the copy")


if __name__ == "__main__":
    main()
