"""Compiles launches by many processes before one process makes them in turn."""

import os
from collections.abc import Sequence
from concurrent.futures import wait

from bench.executed import Launch
from sim import Gpu
from tiles.kernels import kernel
from tiles.kernels.cuda.modules import BINARIES
from tuning.cache_folder import cache_folder
from tuning.precompile import CompilePool
from tuning.worker import JobLimits, Target

__all__ = ["compile_ahead", "use_kept_binaries"]


def use_kept_binaries() -> None:
    """Have launches of this process take the CUDA C++ that sweeps and pools have compiled."""
    os.environ.setdefault(BINARIES, str(cache_folder() / "binaries"))


def compile_ahead(
    launches: Sequence[Launch], gpu: Gpu, *, time_limit_s: float, processes: int | None = None
) -> int:
    """Fill the compilers' disk caches for a GPU, without touching it; how many ended in time.

    What fails is not told: whoever launches it will hear of it.
    """
    use_kept_binaries()
    futures = []
    with CompilePool(JobLimits(), processes) as pool:
        for one in launches:
            target = Target(
                problem=one.problem,
                kernel=one.kernel,
                device="cuda",
                seed=0,
                cache="cold",
                l2_bytes=gpu.l2_bytes,
            )
            config = kernel(one.kernel).config_type.from_dict(one.config)
            pool.announce(target, [config], gpu.limits)
            futures.append(pool.hasten(target, config))
        return len(wait(futures, timeout=time_limit_s).done)
