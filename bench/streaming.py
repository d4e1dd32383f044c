"""Quantise, dequantise and transpose beside copy bandwidth: ``python -m bench.streaming``.

A row a problem: the best of the configurations that the cost model ranks highest (and of the
fastest predicted for each number of warps and elements a thread), timed cold and in turns with a
device copy that reads and writes as many bytes.  ``of_copy`` is the copy's time over the kernel's.
A scale for the whole tensor (NVFP4 has one) reads the input twice, which the copy does not.
``--device cpu`` compiles the configurations that would be timed and prints no time.
"""

import argparse
from pathlib import Path
from typing import Any

from bench.turns import beside_copy, compiled, find_gpu, geomean_worst, write_record
from sim import Gpu, price
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
    order = price(problem, family, table, gpu).ranking()
    kinds: dict[tuple[int, int], int] = {}
    for row in order.tolist():
        warps = int(table["num_warps"][row])
        each = int(table["block_rows"][row] * table["block_cols"][row]) // (32 * warps)
        kinds.setdefault((warps, each), row)
    rows = list(dict.fromkeys([*order[: count // 2].tolist(), *kinds.values(), *order.tolist()]))
    return [table.config(row) for row in rows[:count]]


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
    gpu = find_gpu(chosen.device, chosen.gpu)
    rows: list[dict[str, Any]] = []
    for text in (text for shape in chosen.shapes for text in texts(shape)):
        if chosen.match not in text:
            continue
        problem = parse_problem(text)
        family = kernel(FAMILIES[problem.kind])
        configs = candidates(problem, family, gpu, chosen.configs)
        if chosen.device == "cpu":
            rows.append(compiled(problem, family, gpu, configs))
        else:
            rows.append(beside_copy(problem, family, configs)[1])
        print(printed(rows[-1]), flush=True)
        # After each row: a run that is cut short keeps the others.
        write_record(chosen.output, "tile-workbench/streaming/1", rows, gpu=gpu.name)
    if ratios := [row["of_copy"] for row in rows if "of_copy" in row]:
        mean, worst = geomean_worst(ratios)
        print(f"geometric mean {mean:.2f}, worst {worst:.2f} of the copy")


if __name__ == "__main__":
    main()
