"""What the timing scripts of this folder share: the GPU, a short search, turns, ratios, the record.

Ours is the fastest of some configurations whose answers are right, each timed shortly; then it is
timed in turns with its peers, the L2 cold (:mod:`tuning.timing` has the rule).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import Gpu, gpu_names, load_gpu, price
from tiles.kernels import Kernel, TileConfig, Workload
from tiles.problems import Problem

if TYPE_CHECKING:
    from tuning.timing import Launchers, Timing

__all__ = [
    "beside_copy",
    "compiled",
    "copies",
    "find_gpu",
    "geomean_worst",
    "in_turns",
    "ranked",
    "tried",
    "write_record",
]


def find_gpu(device: str, name: str | None = None) -> Gpu:
    """The GPU file of that name; else that of the device, or of an H200 where nothing is timed."""
    if name or device != "cuda":
        return load_gpu(name or "h200")
    import torch

    found = torch.cuda.get_device_name()
    return next(gpu for gpu in map(load_gpu, gpu_names()) if gpu.matches(found))


def ranked(problem: Problem, family: Kernel, gpu: Gpu, count: int) -> list[TileConfig]:
    """The configurations that the model predicts to be fastest."""
    table = family.legal_space(problem, gpu.limits).accepted
    order = price(problem, family, table, gpu).ranking()
    return [table.config(int(row)) for row in order[:count]]


def _l2_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def tried(workload: Workload, configs: Iterable[TileConfig]) -> dict[TileConfig, float]:
    """Microseconds of each configuration, timed shortly and by itself.

    Raises:
        SystemExit: the answer of one of them is wrong.
    """
    from tuning.timing import time_callable

    times = {}
    for config in configs:
        accuracy = workload.check(config)
        if not accuracy.ok:
            raise SystemExit(f"{workload.problem} {config}: {accuracy.reason}")
        launchers = partial(workload.launchers, config)
        timing = time_callable(launchers, set_bytes=workload.set_bytes, l2_bytes=_l2_bytes())
        times[config] = timing.time_us
    return times


def in_turns(rivals: Mapping[str, tuple["Launchers", int]]) -> dict[str, "Timing"]:
    """Timings by name.

    Args:
        rivals: by name what makes launches, and the bytes of one set of operands.
    """
    from tuning.timing import time_interleaved

    timings = time_interleaved(list(rivals.values()), l2_bytes=_l2_bytes())
    return dict(zip(rivals, timings, strict=True))


def copies(size: int) -> Callable[[int], list[Callable[[], None]]]:
    """Launchers of device copies that read and write ``size`` bytes together."""
    import torch

    def make(sets: int) -> list[Callable[[], None]]:
        pairs = [torch.empty(2, size // 2, dtype=torch.uint8, device="cuda") for _ in range(sets)]
        return [partial(pair[1].copy_, pair[0]) for pair in pairs]

    return make


def beside_copy(
    problem: Problem, family: Kernel, configs: Sequence[TileConfig]
) -> tuple[TileConfig, dict[str, Any]]:
    """The winner, and its row beside a device copy that reads and writes as many bytes."""
    workload = family.workload(problem, device="cuda", seed=0)
    times = tried(workload, configs)
    best = min(times, key=times.__getitem__)
    timings = in_turns(
        {
            "ours": (partial(workload.launchers, best), workload.set_bytes),
            "copy": (copies(problem.min_bytes), problem.min_bytes),
        }
    )
    ours, copy = timings["ours"], timings["copy"]
    return best, {
        "problem": str(problem),
        "config": best.to_dict(),
        "time_us": ours.time_us,
        "copy_us": copy.time_us,
        "of_copy": copy.time_us / ours.time_us,
        "gb_per_s": problem.min_bytes / ours.time_us / 1e3,
        "samples_us": ours.samples_us,
        "tried": {str(config): time for config, time in times.items()},
    }


def compiled(
    problem: Problem, family: Kernel, gpu: Gpu, configs: Sequence[TileConfig]
) -> dict[str, Any]:
    """The row of a run without a GPU: what the compiler makes of the same configurations."""
    facts = {}
    for config in configs:
        found = family.compile_offline(problem, config, gpu.limits)
        facts[str(config)] = None if found is None else found.to_dict()
    return {"problem": str(problem), "compiled": facts}


def geomean_worst(ratios: Sequence[float]) -> tuple[float, float]:
    """Geometric mean and smallest of some ratios, at least one."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)), min(ratios)


def write_record(path: Path | None, schema: str, rows: Sequence[Any], **where: Any) -> None:
    """Write rows as JSON, where a file is asked for.

    Args:
        where: what all rows share: the GPU's name, the environment.
    """
    if path is not None:
        text = json.dumps({"schema": schema, **where, "rows": rows}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
