"""A problem's launches as :mod:`bench.energy` needs them: bouts for the counter, times, sensors."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.dry_run import small
from sim import Gpu
from tiles.kernels import Backend, kernel
from tiles.problems import parse_problem
from tuning.conditions import Reading
from tuning.energy_counter import Work
from tuning.energy_reading import bouts
from tuning.timer import Timer, open_timer
from tuning.timing import SETTLE_S

__all__ = ["Load", "dry_run", "load", "opened"]

SEED = 0
#: Launches queued before the sensors are read; a reading asks NVML four times.
READING_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One problem's launches, warmed up."""

    work: Work  #: bouts, each queued behind the one that runs
    short_time_us: Callable[[], float]  #: of a launch by the rule of the tables
    read: Callable[[Callable[[], Reading]], Reading]  #: sensors while it runs


def opened(row: dict[str, Any]) -> Load:
    """Open a row's problem on the device, its answer checked.

    Raises:
        ValueError: the answer is wrong.
    """
    import torch

    problem, one = parse_problem(row["problem"]), kernel(row["kernel"])
    config = one.config_type.from_dict(row["config"])
    workload = one.workload(problem, device="cuda", seed=SEED)
    _check(row, workload.check(config))
    timer = open_timer(
        partial(workload.launchers, config),
        set_bytes=workload.set_bytes,
        l2_bytes=int(torch.cuda.get_device_properties(0).L2_cache_size),
        device="cuda",
    )
    return load(timer, row["predicted"]["time_us"])


def load(timer: Timer, time_us: float) -> Load:
    """What a timer's launches can be asked.

    Args:
        timer: warmed up.
        time_us: of one launch, about.
    """

    def short_time_us() -> float:
        timer.settle(SETTLE_S)
        return statistics.median(timer.sample(timer.samples))

    def read(sensors: Callable[[], Reading]) -> Reading:
        timer.bout(max(1, round(READING_S * 1e6 / (timer.launches * time_us))))
        return sensors()

    return Load(work=bouts(timer, time_us), short_time_us=short_time_us, read=read)


def dry_run(row: dict[str, Any], gpu: Gpu) -> None:
    """Launch a small problem of the row's kind once, on the host.

    Raises:
        ValueError: its answer is wrong.
    """
    one = kernel(row["kernel"])
    if one.backend is not Backend.TRITON:
        return  # nothing runs CUDA C++ on the host
    problem = small(parse_problem(row["problem"]))
    config = one.default(problem, gpu.limits)
    workload = one.workload(problem, device="cpu", seed=SEED)
    _check(row, workload.check(config))
    (launch,) = workload.launchers(config, 1)
    launch()


def _check(row: dict[str, Any], accuracy: Any) -> None:
    if not accuracy.ok:
        raise ValueError(f"{row['problem']}: {accuracy.reason}")
