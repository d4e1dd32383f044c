"""What the table measures: the fastest configuration of any family that sweeps found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim import Gpu
from tiles.kernels import Kernel, TileConfig
from tiles.problems import Problem

__all__ = ["Winner", "winners"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A configuration, and who found it."""

    problem: Problem
    family: Kernel
    config: TileConfig
    gpu: Gpu
    run: str  #: name of the sweep's folder
    swept_us: float  #: what the sweep took for it; simulated, or nan, in a dry run


def winners(folders: Sequence[Path], *, dry: bool, device_name: str = "") -> dict[Problem, Winner]:
    """The fastest configuration of any family and run for every problem.

    Args:
        folders: finished or interrupted sweeps.
        dry: take simulated sweeps.
        device_name: what the driver calls the GPU, which the sweeps must have been measured on.
    Raises:
        ValueError: no such run, it was simulated or measured on another GPU.
    """
    import tuning
    from workbench.emission.winners import TunedEntry

    found: dict[Problem, Winner] = {}
    for folder in folders:
        run = tuning.load_run(folder)
        if not dry and not run.gpu.matches(device_name):
            raise ValueError(f"{folder}: swept for {run.gpu.name}, the device is {device_name!r}")
        for study in run.studies:
            if study.best is None:
                continue
            if study.simulated and not dry:
                raise ValueError(
                    f"{folder}: {study.problem} was simulated, which is no configuration that a "
                    "sweep found on this GPU: sweep with --on gpu, or pass --dry-run"
                )
            entry = TunedEntry(study=study, best=study.best, gpu=run.gpu)
            known = found.get(study.problem)
            if known is None or entry.time_us < known.swept_us:
                found[study.problem] = Winner(
                    problem=study.problem,
                    family=entry.kernel,
                    config=entry.best.config,
                    gpu=run.gpu,
                    run=folder.resolve().name,
                    swept_us=entry.time_us,
                )
    return found
