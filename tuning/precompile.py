"""Compiles ahead of the measuring worker, which then finds binaries in the disk cache."""

import os
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tiles.kernels import TileConfig
from tuning.environment import free_gpu_bytes
from tuning.worker import JobLimits, Target, Worker

__all__ = ["CompilePool", "pool_size"]

#: A CUDA context with torch takes 0.5 GB of device memory, and a problem's operands come on top.
BYTES_PER_PROCESS = 4 * 2**30


def pool_size(cpus: int | None = None, free_bytes: int | None = None) -> int:
    """Processes worth having: two CPUs are left to the sweep, the device's memory allows so many.

    Args:
        cpus: usable CPUs; asked from the system when None.
        free_bytes: free device memory; None when unknown.
    """
    usable = len(os.sched_getaffinity(0)) if cpus is None else cpus
    size = min(12, usable - 2)
    if free_bytes is not None:
        # Half of the memory stays with the measuring worker.
        size = min(size, free_bytes // 2 // BYTES_PER_PROCESS)
    return max(1, size)


class CompilePool:
    """Processes that compile what is announced; a context manager that kills them at the end.

    Failures are dropped here: the measuring worker meets the same one and records it.

    Args:
        limits: time limits of a job's stages.
        size: processes; None = what CPUs and device memory allow.
        device: "cuda", or "cpu" for kernels of the HOST backend.
    """

    def __init__(self, limits: JobLimits, size: int | None = None, *, device: str = "cuda") -> None:
        self._limits = limits
        self._device = device
        self._size = pool_size(free_bytes=free_gpu_bytes()) if size is None else size
        self._jobs: deque[tuple[Target, TileConfig]] = deque()
        self._seen: set[tuple[Target, TileConfig]] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self.compiled = 0  #: jobs that ended well

    def announce(
        self, target: Target, configs: Iterable[TileConfig], *, urgent: bool = False
    ) -> None:
        """Add configurations that will be measured; urgent ones go before those that wait."""
        with self._wake:
            named = dict.fromkeys((target, config) for config in configs)
            fresh = [job for job in named if job not in self._seen]
            self._seen.update(fresh)
            if urgent:
                self._jobs.extendleft(reversed(fresh))
            else:
                self._jobs.extend(fresh)
            self._wake.notify_all()

    def _serve(self, worker: Worker) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                target, config = self._jobs.popleft()
            try:
                compiled = worker.compile(target, config)
            except (ValueError, RuntimeError, OSError, AssertionError):
                if self._closing:
                    return  # the process was killed under this thread
                compiled = False
            with self._wake:
                self.compiled += compiled

    def __enter__(self) -> Self:
        for index in range(self._size):
            worker = Worker(self._device, self._limits)
            thread = threading.Thread(
                target=self._serve, args=(worker,), name=f"precompile-{index}", daemon=True
            )
            self._workers.append(worker)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._wake:
            self._closing = True
            self._jobs.clear()
            self._wake.notify_all()
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join(5.0)
        for worker in self._workers:
            worker.close()
