"""The parent's side of the measuring process: jobs, time limits, killing, restarting.

Nothing that candidate code does reaches the parent: it hangs, crashes and prints in a process of
its own session, whose whole group is killed, and which talks on a socket of its own.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from tiles.kernels import Status, TileConfig
from tuning.faults import one_line
from tuning.interrupts import Interrupts
from tuning.records import Environment, Measurement
from tuning.timing import Timing

__all__ = ["JobLimits", "Target", "Worker"]

#: What is kept of the candidates' own output.
LOG_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """Seconds that the stages of a job may take."""

    start_s: float = 180.0  #: importing torch and making a CUDA context
    open_s: float = 300.0  #: making operands
    check_s: float = 120.0  #: compiling, the first launch, the reference, the comparison
    time_s: float = 60.0  #: taking the samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker opens before it measures configurations."""

    problem: str
    kernel: str
    device: str  #: "cuda" or "cpu"
    seed: int
    cache: str  #: "cold" or "warm"
    l2_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The part of a job that all configurations of a study share."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Lost(Exception):
    """The job ended without an answer: the worker hung, died, or the job raised there."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Tail:
    """Drains the worker's standard output and error, keeping the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        try:
            while chunk := os.read(self._fd, 2**16):
                self._kept += chunk
                del self._kept[:-LOG_BYTES]
        finally:
            os.close(self._fd)

    def clear(self) -> None:
        self._kept.clear()

    def join(self) -> None:
        # A grandchild that left the session can keep the pipe open; the thread is a daemon.
        self._thread.join(1.0)

    @property
    def last_line(self) -> str:
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return one_line(lines[-1]) if lines else ""


class Worker:
    """One reused process for candidate code; a context manager that kills it at the end.

    Args:
        device: "cuda", or "cpu" for kernels of the HOST backend.
        limits: time limits of a job's stages.
        interrupts: holds signals back but for the wait for an answer; by default they strike
            anywhere.
    """

    def __init__(
        self,
        device: str,
        limits: JobLimits | None = None,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.device = device
        self.limits = limits or JobLimits()
        self.starts = 0  #: processes started so far
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._tail: _Tail | None = None
        self._hello: dict[str, Any] = {}
        self._stopped = False
        self._interrupts = interrupts or Interrupts()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def hello(self) -> tuple[Environment, int]:
        """Start the process when there is none: its environment and its L2's bytes (0 unknown).

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            try:
                self._start()
                self._hello = self._ask({"kind": "hello", "device": self.device}, ("start_s",))
            # No memory, no file descriptors, no thread, or no torch: the user's to mend.
            except (_Lost, OSError, RuntimeError) as error:
                raise ValueError(
                    f"the measuring process does not start: {one_line(str(error))}: "
                    f"mend what `{sys.executable} -c 'import torch'` says, "
                    "or simulate the sweep, --on sim"
                ) from error
        if "missing" in self._hello:
            raise ValueError(f"{self._hello['missing']}: simulate the sweep instead, --on sim")
        return Environment.from_dict(self._hello["environment"]), self._hello["l2_bytes"]

    def measure(
        self, target: Target, config: TileConfig, *, environment: bool = False
    ) -> tuple[Measurement, Environment | None]:
        """Check one configuration, then time it.

        Args:
            environment: also read the environment, with the clock under load.

        Returns:
            The outcome, whatever happened, and the environment if it was asked for and read.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {
            "kind": "measure",
            "config": config.to_dict(),
            "environment": environment,
            **target.to_dict(),
        }
        self.hello()
        try:
            answer = self._ask(job, ("open_s", "check_s", "time_s"))
        except _Lost as lost:
            return Measurement(status=lost.status, simulated=False, reason=lost.reason), None
        read = answer.get("environment")
        return (
            Measurement.from_dict(answer["measurement"]),
            None if read is None else Environment.from_dict(read),
        )

    def compare(self, target: Target, configs: Sequence[TileConfig]) -> list[Timing] | str:
        """Time configurations in turns; the reason when one of them fails this time.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        job = {"kind": "compare", "configs": [c.to_dict() for c in configs], **target.to_dict()}
        self.hello()
        try:
            answer = self._ask(job, ("open_s", "compare_s"))
        except _Lost as lost:
            return lost.reason
        return [
            Timing(time_us=t["time_us"], samples_us=tuple(t["samples_us"]), timing=t["timing"])
            for t in answer["timings"]
        ]

    def compile(self, target: Target, config: TileConfig) -> bool:
        """Fill the compiler's disk cache; False when that failed.

        Raises:
            ValueError: there is no such device, or the process does not start.
        """
        self.hello()
        try:
            self._ask(
                {"kind": "compile", "config": config.to_dict(), **target.to_dict()},
                ("open_s", "check_s"),
            )
        except _Lost:
            return False
        return True

    def kill(self) -> None:
        """Kill the process for good, from another thread; :meth:`close` then cleans up."""
        self._stopped = True  # before the look: a process started meanwhile sees it
        if self._process is not None:
            _kill_group(self._process)

    def close(self) -> None:
        """Kill the process and everything that it started."""
        if self._process is not None:
            _kill_group(self._process)
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        if self._tail is not None:
            self._tail.join()
        self._process = self._connection = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        read_fd, write_fd = os.pipe()
        # Kernels outside the registry are imported by name: the worker needs the same path.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tuning.worker_main"),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal is the parent's business
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            )
        except BaseException:
            ours.close()
            os.close(read_fd)
            raise
        finally:
            theirs.close()
            os.close(write_fd)
        self._connection = Connection(ours.detach())
        self._tail = _Tail(read_fd)
        self.starts += 1
        if self._stopped:
            _kill_group(self._process)

    def _ask(self, job: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
        """Send a job and follow its stages to the answer."""
        assert self._connection is not None
        assert self._tail is not None
        self._tail.clear()
        try:
            self._connection.send_bytes(json.dumps(job).encode())
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        for stage in stages:
            answer = self._receive(stage, job)
            if answer["phase"] == "failed":
                if answer["restart"]:
                    self.close()
                raise _Lost(Status(answer["status"]), answer["reason"])
            if answer["phase"] == "done":
                return answer
        raise AssertionError(f"the worker answered {job['kind']} with too many stages")

    def _receive(self, stage: str, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self._connection is not None
        if stage == "compare_s":
            limit = (self.limits.check_s + self.limits.time_s) * len(job["configs"])
        else:
            limit = getattr(self.limits, stage)
        try:
            with self._interrupts.let_through():  # minutes, and no lock is held
                ready = self._connection.poll(limit)
            if not ready:
                self.close()
                raise _Lost(Status.TIMEOUT, f"{_STAGES[stage]} took longer than {limit:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise self._died() from None
        return answer

    def _died(self) -> _Lost:
        """What the end of the process tells: exit code or signal, and its last words."""
        assert self._process is not None
        assert self._tail is not None
        deadline = time.monotonic() + 2.0
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self.close()
        if code is None:
            end = "the process closed its socket"
        elif code < 0:
            end = f"the process was killed by {signal.Signals(-code).name}"
        else:
            end = f"the process exited with code {code}"
        said = self._tail.last_line
        return _Lost(Status.RUNTIME, f"{end}: {said}" if said else end)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader while it has members, so it is killed even after a crash.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


_STAGES = {
    "start_s": "starting the measuring process",
    "open_s": "making operands",
    "check_s": "compiling and checking",
    "time_s": "timing",
    "compare_s": "timing in turns",
}
