"""The INT8 dataflow set beside copy bandwidth and the issue bound: ``python bench/dataflow.py``.

A row an operator and format: the best of the configurations that the cost model ranks highest,
timed cold and in turns with a device copy of as many bytes.  The bound is the longer of that copy
and of the kernel's instructions at one a clock in each of an SM's four schedulers, at the GPU's
highest clock.  ``--device cpu`` compiles the configurations that would be timed and prints no time.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sim import Gpu, gpu_names, load_gpu, price
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


def ranked(problem: Dataflow, family: Kernel, gpu: Gpu, count: int) -> list[TileConfig]:
    """The configurations that the model predicts to be fastest."""
    table = family.legal_space(problem, gpu.limits).accepted
    order = price(problem, family, table, gpu).time_us.argsort(kind="stable")
    return [table.config(int(row)) for row in order[:count]]


def issue_us(problem: Dataflow, config: TileConfig, gpu: Gpu) -> float:
    """Microseconds of the instructions alone."""
    count = float(instructions(problem, ConfigTable.of([config]))[0])
    elements = problem.rows * problem.cols
    return elements * count / (ISSUE_LANES * gpu.sm_count * gpu.max_clock_mhz)


def copies(size: int) -> Callable[[int], list[Callable[[], None]]]:
    """Launchers of device copies that read and write ``size`` bytes together."""
    import torch

    def make(sets: int) -> list[Callable[[], None]]:
        pairs = [torch.empty(2, size // 2, dtype=torch.uint8, device="cuda") for _ in range(sets)]
        return [lambda pair=pair: pair[1].copy_(pair[0]) for pair in pairs]  # type: ignore[misc]

    return make


def measured(problem: Dataflow, family: Kernel, gpu: Gpu, count: int) -> dict[str, Any]:
    """Search, then time the winner in turns with the copy."""
    import torch

    from tuning.timing import time_callable, time_interleaved

    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    workload = family.workload(problem, device="cuda", seed=0)
    times: dict[TileConfig, float] = {}
    for config in ranked(problem, family, gpu, count):
        launchers = partial(workload.launchers, config)
        accuracy = workload.check(config)
        if not accuracy.ok:
            raise SystemExit(f"{problem} {config}: {accuracy.reason}")
        timing = time_callable(launchers, set_bytes=workload.set_bytes, l2_bytes=l2)
        times[config] = timing.time_us
    best = min(times, key=lambda config: times[config])
    ours, copy = time_interleaved(
        [
            (partial(workload.launchers, best), workload.set_bytes),
            (copies(problem.min_bytes), problem.min_bytes),
        ],
        l2_bytes=l2,
    )
    bound = max(copy.time_us, issue_us(problem, best, gpu))
    return {
        "config": best.to_dict(),
        "time_us": ours.time_us,
        "copy_us": copy.time_us,
        "issue_us": issue_us(problem, best, gpu),
        "of_bound": bound / ours.time_us,
        "of_copy": copy.time_us / ours.time_us,
        "samples_us": ours.samples_us,
        "tried": {str(config): time for config, time in times.items()},
    }


def compiled(problem: Dataflow, family: Kernel, gpu: Gpu, count: int) -> dict[str, Any]:
    """What the compiler makes of the same configurations, without a GPU."""
    facts = {}
    for config in ranked(problem, family, gpu, count):
        found = family.compile_offline(problem, config, gpu.limits)
        facts[str(config)] = None if found is None else found.to_dict()
    return {"compiled": facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--gpu", default="", help="GPU file; by default that of the device, or h200"
    )
    parser.add_argument("--ops", nargs="+", default=list(DATAFLOW_OPS), choices=DATAFLOW_OPS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--configs", type=int, default=12, help="configurations tried a problem")
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    chosen = parser.parse_args()
    name = chosen.gpu or "h200"
    if chosen.device == "cuda" and not chosen.gpu:
        import torch

        device = torch.cuda.get_device_name()
        name = next(n for n in gpu_names() if load_gpu(n).matches(device))
    gpu = load_gpu(name)
    rows = []
    for shape in chosen.shapes:
        for fmt in chosen.formats:
            for op in chosen.ops:
                problem = parse_problem(f"dataflow:{shape}:{op}:{fmt}")
                assert isinstance(problem, Dataflow)
                family = family_of(problem, gpu)
                work = measured if chosen.device == "cuda" else compiled
                row = {"problem": str(problem), **work(problem, family, gpu, chosen.configs)}
                rows.append(row)
                if "time_us" in row:
                    print(
                        f"{row['problem']:48} {row['time_us']:8.1f} us  "
                        f"copy {row['copy_us']:8.1f}  issue {row['issue_us']:8.1f}  "
                        f"of the bound {row['of_bound']:.2f}  of the copy {row['of_copy']:.2f}"
                    )
                else:
                    facts = [f for f in row["compiled"].values() if f is not None]
                    spilt = sum(f["stack_bytes"] > 0 for f in facts)
                    print(
                        f"{row['problem']:48} {len(facts)} compiled, {spilt} of them spill, "
                        "not timed"
                    )
    if chosen.output is not None:
        record = {"schema": "tile-workbench/dataflow-bench/1", "gpu": gpu.name, "rows": rows}
        chosen.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
