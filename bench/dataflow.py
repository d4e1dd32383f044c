"""The INT8 dataflow set beside copy bandwidth and the issue bound: ``python -m bench.dataflow``.

A row an operator and format: the best of the configurations that the cost model ranks highest,
timed cold and in turns with a device copy of as many bytes.  The bound is the longer of that copy
and of the kernel's instructions at one a clock in each of an SM's four schedulers, at the GPU's
highest clock.  ``--device cpu`` compiles the configurations that would be timed and prints no time.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from bench.turns import beside_copy, compiled, find_gpu, geomean_worst, ranked, write_record
from sim import Gpu
from sim.dataflow_model import instructions
from sim.pipes import ISSUE_LANES
from tiles.kernels import ConfigTable, Kernel, TileConfig, kernels
from tiles.problems import DATAFLOW_OPS, Dataflow, parse_problem

FORMATS = ("int8.b32x32+sr", "int8.b32x32")
SHAPES = ("16384x4096", "8192x8192")


def family_of(problem: Dataflow, gpu: Gpu) -> Kernel:
    """The family that serves a problem.

    Raises:
        ValueError: none does.
    """
    reasons = []
    for family in kernels().values():
        reason = family.refusal(problem, gpu.limits)
        if reason is None:
            return family
        reasons.append(reason)
    raise ValueError(f"{problem} on {gpu.name}: " + "; ".join(reasons))


def issue_us(problem: Dataflow, config: TileConfig, gpu: Gpu) -> float:
    """Microseconds of the instructions alone."""
    count = float(instructions(problem, ConfigTable.of([config]))[0])
    elements = problem.rows * problem.cols
    return elements * count / (ISSUE_LANES * gpu.sm_count * gpu.max_clock_mhz)


def row_of(problem: Dataflow, family: Kernel, gpu: Gpu, count: int, device: str) -> dict[str, Any]:
    """Search, then time the winner in turns with the copy; without a GPU, compile."""
    configs = ranked(problem, family, gpu, count)
    if device == "cpu":
        return compiled(problem, family, gpu, configs)
    best, row = beside_copy(problem, family, configs)
    issue = issue_us(problem, best, gpu)
    return row | {"issue_us": issue, "of_bound": max(row["copy_us"], issue) / row["time_us"]}


def printed(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "time_us" not in row:
        facts = [found for found in row["compiled"].values() if found is not None]
        spilt = sum(found["stack_bytes"] > 0 for found in facts)
        return f"{row['problem']:48} {len(facts)} compiled, {spilt} of them spill, not timed"
    return (
        f"{row['problem']:48} {row['time_us']:8.1f} us  copy {row['copy_us']:8.1f}  "
        f"issue {row['issue_us']:8.1f}  of the bound {row['of_bound']:.2f}  "
        f"of the copy {row['of_copy']:.2f}"
    )


def main() -> None:
    """Print the table; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpu", help="GPU file; by default that of the device, or h200")
    parser.add_argument("--ops", nargs="+", default=list(DATAFLOW_OPS), choices=DATAFLOW_OPS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--configs", type=int, default=12, help="configurations tried a problem")
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    chosen = parser.parse_args()
    gpu = find_gpu(chosen.device, chosen.gpu)
    rows: list[dict[str, Any]] = []
    for shape, fmt, op in product(chosen.shapes, chosen.formats, chosen.ops):
        problem = parse_problem(f"dataflow:{shape}:{op}:{fmt}")
        assert isinstance(problem, Dataflow)
        family = family_of(problem, gpu)
        rows.append(row_of(problem, family, gpu, chosen.configs, chosen.device))
        print(printed(rows[-1]), flush=True)
        # After each row: a run that is cut short keeps the others.
        write_record(chosen.output, "tile-workbench/dataflow-bench/1", rows, gpu=gpu.name)
    if ratios := [row["of_bound"] for row in rows if "of_bound" in row]:
        mean, worst = geomean_worst(ratios)
        print(f"geometric mean {mean:.2f}, worst {worst:.2f} of the bound")


if __name__ == "__main__":
    main()
