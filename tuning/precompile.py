"""Compiles ahead of the measuring worker, which then finds binaries in the disk cache."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import Self

from tiles.kernels import Limits, Status, TileConfig
from tuning.environment import free_gpu_bytes
from tuning.limits import AdaptiveLimits, JobLimits
from tuning.worker import Compiled, Target, Worker

__all__ = ["CompilePool", "pool_size"]

#: A CUDA context with torch takes 0.5 GB of device memory, and a problem's operands come on top.
BYTES_PER_PROCESS = 4 * 2**30
#: The worker's device: it looks for none, and its jobs open one when they need it.
OFFLINE = "cpu"


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


_Job = tuple[Target, TileConfig]


class CompilePool:
    """Processes that compile what is announced; a context manager that kills them at the end.

    They touch no GPU, but for families that cannot compile without one.

    Args:
        limits: time limits of a job's stages.
        size: processes; None = what CPUs and device memory allow.
        on_device: some family cannot compile without the GPU.
    """

    def __init__(
        self,
        limits: JobLimits | AdaptiveLimits,
        size: int | None = None,
        *,
        on_device: bool = False,
    ) -> None:
        self._limits = limits if isinstance(limits, AdaptiveLimits) else AdaptiveLimits(limits)
        self._size = size or pool_size(free_bytes=free_gpu_bytes() if on_device else None)
        self._jobs: deque[_Job] = deque()
        self._gpus: dict[Target, Limits | None] = {}
        self._futures: dict[_Job, Future[Compiled]] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self.compiled = 0  #: jobs that ended well

    def announce(
        self,
        target: Target,
        configs: Iterable[TileConfig],
        limits: Limits | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """Add configurations that will be measured; urgent ones go before those that wait.

        Args:
            limits: of the GPU to compile for; None compiles on the target's device.
        """
        with self._wake:
            self._gpus[target] = limits
            named = dict.fromkeys((target, config) for config in configs)
            fresh = [job for job in named if job not in self._futures]
            self._futures.update((job, Future()) for job in fresh)
            if urgent:
                self._jobs.extendleft(reversed(fresh))
            else:
                self._jobs.extend(fresh)
            self._wake.notify_all()

    def hasten(self, target: Target, config: TileConfig) -> Future[Compiled]:
        """Put an announced configuration before all others: how compiling it will end, or ended."""
        job = target, config
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)
                self._jobs.appendleft(job)
            return self._futures[job]

    def _serve(self, worker: Worker) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                job = self._jobs.popleft()
                limits = self._gpus[job[0]]
            try:
                compiled = worker.compile(*job, limits)
            except (ValueError, RuntimeError, OSError, AssertionError) as error:
                # Killed under this thread, or it cannot start: the measuring worker will tell.
                compiled = Compiled(status=Status.RUNTIME, reason=str(error))
            with self._wake:
                self.compiled += compiled.status is None
            with contextlib.suppress(InvalidStateError):  # the pool was left meanwhile
                self._futures[job].set_result(compiled)

    def __enter__(self) -> Self:
        for index in range(self._size):
            worker = Worker(OFFLINE, self._limits)
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
        for future in self._futures.values():
            future.cancel()
