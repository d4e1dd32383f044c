"""The parent's side of the measuring process: jobs, caps, restarts after a fault."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tiles.kernels import Limits, Status, TileConfig
from tiles.kernels.compile_facts import CompileFacts
from tuning.faults import one_line
from tuning.interrupts import Interrupts
from tuning.limits import AdaptiveLimits, JobLimits
from tuning.microbench.sample import Sample, samples_from
from tuning.process_memory import available_bytes
from tuning.records import Environment, Measurement
from tuning.timer import SAMPLING_US
from tuning.timing import Timing
from tuning.visible_gpu import visible_gpu
from tuning.worker_process import Lost, WorkerProcess

__all__ = ["Compiled", "Target", "Worker"]

#: A process that started before is started anew this often: the driver may need a moment.
STARTS, PAUSE_S = 3, 2.0
#: Cap of the host's memory where the system does not say what is available.
UNKNOWN_HOST_BYTES = 2**36


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker opens before it measures configurations."""

    problem: str
    kernel: str
    device: str  #: "cuda" or "cpu"
    seed: int
    cache: str  #: "cold" or "warm"
    l2_bytes: int
    sampling_us: float = SAMPLING_US  #: device time that a measurement's samples aim to cover
    energy: bool = False  #: read energy, too

    def to_dict(self) -> dict[str, Any]:
        """The part of a job that all configurations of a study share."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """How compiling ahead ended."""

    status: Status | None = None  #: COMPILE, TIMEOUT or RUNTIME; None when it went well
    reason: str = ""
    facts: CompileFacts | None = None  #: None where the family's compiler needs the GPU


class Worker:
    """One reused process for candidate code; a context manager that kills it at the end.

    Args:
        device: "cuda", or "cpu" for kernels of the HOST backend.
        limits: of time and memory; an :class:`AdaptiveLimits` may be shared between workers.
        interrupts: holds signals back but for the wait for an answer; by default they strike
            anywhere.
    """

    def __init__(
        self,
        device: str,
        limits: JobLimits | AdaptiveLimits | None = None,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.device = device
        if not isinstance(limits, AdaptiveLimits):
            limits = AdaptiveLimits(limits or JobLimits())
        self._limits = limits
        self.starts = 0  #: processes started so far
        self._process: WorkerProcess | None = None
        self._hello: dict[str, Any] = {}
        self._stopped = False
        self._interrupts = interrupts or Interrupts()
        room = available_bytes() or UNKNOWN_HOST_BYTES
        self._host_bytes = limits.limits.host_bytes or room * 3 // 4

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The running process's number."""
        return None if self._process is None else self._process.pid

    def hello(self) -> tuple[Environment, int]:
        """Start the process when there is none: its environment and its L2's bytes (0 unknown).

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        if self._process is None or not self._process.alive:
            left = STARTS if self.starts else 1
            while not self._started(last=left == 1):
                left -= 1
                time.sleep(PAUSE_S)
            self._look_again()
        if "missing" in self._hello:
            raise ValueError(f"{self._hello['missing']}: simulate the sweep instead, --on sim")
        return Environment.from_dict(self._hello["environment"]), self._hello["l2_bytes"]

    def _look_again(self) -> None:
        """Start the process anew where it finds no device and the driver names one: CUDA fails to
        open for a moment when a host is short of memory or descriptors."""
        for _ in range(STARTS - 1):
            passing = "missing" in self._hello and self._hello["built_for_it"]
            if not passing or self._stopped or visible_gpu() is None:
                return
            time.sleep(PAUSE_S)
            self._started(last=True)

    def _started(self, last: bool) -> bool:
        self.close()
        job = {
            "kind": "hello",
            "device": self.device,
            "device_share": self._limits.limits.device_share,
        }
        try:
            self._process = WorkerProcess(self._limits, self._host_bytes, self._interrupts)
            self.starts += 1
            if self._stopped:
                self._process.kill()
            self._hello = self._process.ask(job, ("start_s",))
        # No memory, no file descriptors, no thread, or no torch: the user's to mend.
        except (Lost, OSError, RuntimeError) as error:
            if not last and not self._stopped:
                return False
            raise ValueError(
                f"the measuring process does not start: {one_line(str(error))}: "
                f"mend what `{sys.executable} -c 'import torch'` says, "
                "or simulate the sweep, --on sim"
            ) from error
        return True

    def measure(
        self,
        target: Target,
        config: TileConfig,
        *,
        environment: bool = False,
        checked: bool = False,
    ) -> tuple[Measurement, Environment | None]:
        """Check one configuration, then time it.

        Args:
            environment: also read the environment, with the clock under load.
            checked: its answer was right before: it is timed once more and not checked again.

        Returns:
            The outcome, whatever happened, and the environment if it was asked for and read.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {
            "kind": "measure",
            "config": config.to_dict(),
            "environment": environment,
            "checked": checked,
            **target.to_dict(),
        }
        try:
            answer = self._ask(job, ("open_s", "check_s", "time_s"))
        except Lost as lost:
            failed = Measurement(
                status=lost.status, simulated=False, reason=lost.reason, doubtful=lost.doubtful
            )
            return failed, None
        read = answer.get("environment")
        return (
            Measurement.from_dict(answer["measurement"]),
            None if read is None else Environment.from_dict(read),
        )

    def compare(
        self, target: Target, configs: Sequence[TileConfig], kernels: Sequence[str] = ()
    ) -> list[Timing] | str:
        """Time configurations in turns; the reason when one of them fails this time.

        Args:
            kernels: the family of each, where they are not all the target's.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {
            "kind": "compare",
            "configs": [c.to_dict() for c in configs],
            "kernels": list(kernels),
            **target.to_dict(),
        }
        try:
            answer = self._ask(job, ("open_s", "compare_s"))
        except Lost as lost:
            return lost.reason
        return [Timing.from_dict(timing) for timing in answer["timings"]]

    def compile(self, target: Target, config: TileConfig, limits: Limits | None = None) -> Compiled:
        """Fill the compiler's disk cache, launching nothing.

        Args:
            limits: of the GPU to compile for; it is not touched where the family can do without.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {
            "kind": "compile",
            "config": config.to_dict(),
            "limits": None if limits is None else limits.to_dict(),
            **target.to_dict(),
        }
        try:
            answer = self._ask(job, ("open_s", "compile_s"))
        except Lost as lost:
            return Compiled(status=lost.status, reason=lost.reason)
        facts = answer["facts"]
        return Compiled(facts=None if facts is None else CompileFacts.from_dict(facts))

    def energy_sensor(self) -> str:
        """What energy can be read from there: "counter", "power", or "" for nothing.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        try:
            found: str = self._ask({"kind": "energy_sensor"}, ("start_s",))["sensor"]
        except Lost:
            return ""
        return found

    def microbenchmark(
        self, name: str, cases: Sequence[Mapping[str, float | str]]
    ) -> list[Sample] | tuple[Status, str]:
        """Samples of a microbenchmark, or why there are none.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {"kind": "microbenchmark", "name": name, "cases": [dict(one) for one in cases]}
        try:
            answer = self._ask(job, ("microbenchmark_s",))
        except Lost as lost:
            return lost.status, lost.reason
        return samples_from(answer["samples"])

    def _ask(self, job: dict[str, Any], stages: tuple[str, ...]) -> dict[str, Any]:
        """Send a job, a second time to a fresh process when the first end may be somebody else's
        doing: what a neighbour's memory or the out-of-memory killer ends is no fault of a
        configuration."""
        try:
            return self._ask_once(job, stages)
        except Lost as lost:
            if not lost.doubtful or self._stopped:
                raise
        try:
            return self._ask_once(job, stages)
        except Lost as lost:
            if not lost.doubtful:
                raise
            reason = f"{lost.reason} (twice, in two processes)"
            raise Lost(lost.status, reason, doubtful=True) from None

    def _ask_once(self, job: dict[str, Any], stages: tuple[str, ...]) -> dict[str, Any]:
        self.hello()
        assert self._process is not None
        return self._process.ask(job, stages)

    def kill(self) -> None:
        """Kill the process for good, from another thread; :meth:`close` then cleans up."""
        self._stopped = True  # before the look: a process started meanwhile sees it
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Kill the process and everything that it started."""
        if self._process is not None:
            self._process.close()
        self._process = None
