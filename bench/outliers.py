"""Products with outliers apart beside plain ones: ``python -m bench.outliers [--output FILE]``.

For ``llm-int8`` and ``int8-fallback`` and every shape: the best of the configurations that the cost
model ranks highest, timed cold and in turns with the same product without its outliers (what they
cost) and with ``torch.matmul`` in fp16.  ``--device cpu`` compiles the configurations that would be
timed and prints no time.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.turns import (
    compiled,
    find_gpu,
    geomean_worst,
    in_turns,
    ranked,
    tried,
    write_record,
)
from sim import Gpu
from tiles.kernels import kernel
from tiles.kernels.outlier_gemm import inner_problem
from tiles.problems import Gemm, parse_shape
from tiles.recipes import recipe

FAMILY = kernel("triton_outlier_gemm")
PLAIN = kernel("triton_gemm")
RECIPES = ("llm-int8", "int8-fallback")
SHAPES = ("4096x4096x4096", "4096x14336x4096", "128x7168x2048", "16x8192x8192")


def matmul(problem: Gemm, sets: int) -> list[Any]:
    """Launches of cuBLAS in fp16 on as many sets of operands."""
    import torch

    m, n, k = problem.shape
    shapes = ((m, k), (n, k), (m, n))
    made = [
        [torch.randn(shape, dtype=torch.float16, device="cuda") for shape in shapes]
        for _ in range(sets)
    ]
    return [partial(torch.matmul, a, b.T, out=c) for a, b, c in made]


def row_of(problem: Gemm, gpu: Gpu, count: int, device: str) -> dict[str, Any]:
    """Search, then time the winner in turns with its peers; without a GPU, compile."""
    configs = ranked(problem, FAMILY, gpu, count)
    if device == "cpu":
        return compiled(problem, FAMILY, gpu, configs)
    inner = inner_problem(problem)
    ours = FAMILY.workload(problem, device="cuda", seed=0)
    plain = PLAIN.workload(inner, device="cuda", seed=0)
    times = tried(ours, configs)
    plain_times = tried(plain, ranked(inner, PLAIN, gpu, count))
    best, plain_best = (min(found, key=found.__getitem__) for found in (times, plain_times))
    m, n, k = problem.shape
    timings = in_turns(
        {
            "ours": (partial(ours.launchers, best), ours.set_bytes),
            "plain": (partial(plain.launchers, plain_best), plain.set_bytes),
            "fp16": (partial(matmul, problem), 2 * (m * k + n * k + m * n)),
        }
    )
    took = {name: timing.time_us for name, timing in timings.items()}
    return {
        "problem": str(problem),
        "config": best.to_dict(),
        "time_us": took["ours"],
        "without_outliers_us": took["plain"],
        "matmul_fp16_us": took["fp16"],
        "over_without_outliers": took["ours"] / took["plain"],
        "over_matmul_fp16": took["fp16"] / took["ours"],
        "samples_us": timings["ours"].samples_us,
        "tried": {str(config): time for config, time in times.items()},
    }


def printed(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "time_us" not in row:
        facts = [found for found in row["compiled"].values() if found is not None]
        spilt = sum(found["stack_bytes"] > 0 for found in facts)
        return f"{row['problem']:44} {len(facts)} compiled, {spilt} of them spill, not timed"
    return (
        f"{row['problem']:44} {row['time_us']:8.1f} us  {row['over_without_outliers']:.2f} of the "
        f"time without outliers  {row['over_matmul_fp16']:.2f} x torch.matmul fp16"
    )


def main() -> None:
    """Print the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpu", help="GPU file; by default that of the device, or h200")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="MxNxK")
    parser.add_argument("--configs", type=int, default=12, help="configurations tried a problem")
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    chosen = parser.parse_args()
    gpu = find_gpu(chosen.device, chosen.gpu)
    rows: list[dict[str, Any]] = []
    for name, shape in product(chosen.recipes, chosen.shapes):
        m, n, k = parse_shape(shape, 3)
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out="fp16")
        rows.append(row_of(problem, gpu, chosen.configs, chosen.device))
        print(printed(rows[-1]), flush=True)
        # After each row: a run that is cut short keeps the others.
        write_record(chosen.output, "tile-workbench/outlier-bench/1", rows, gpu=gpu.name)
    if ratios := [row["over_matmul_fp16"] for row in rows if "time_us" in row]:
        mean, worst = geomean_worst(ratios)
        print(f"geometric mean {mean:.2f}, worst {worst:.2f} of torch.matmul fp16")


if __name__ == "__main__":
    main()
