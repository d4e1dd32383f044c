"""One life of the measuring process: started, asked, killed.

Nothing that candidate code does reaches the parent: it hangs, crashes and prints in a process of
its own session, whose whole group is killed, and which talks on a socket of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tiles.kernels import Status
from tuning.channel import Channel
from tuning.interrupts import Interrupts
from tuning.limits import AdaptiveLimits
from tuning.process_memory import resident_bytes
from tuning.worker_output import OutputTail

__all__ = ["Lost", "WorkerProcess"]

#: While a job runs, its process's memory and life are looked at this often.
LOOK_S = 0.05
#: A killed process ends when the driver has torn its context down, a hanging kernel included.
DEATH_S = 60.0

#: Signals that come from outside: no fault of a program raises them.
_SENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_STAGES = {
    "start_s": "starting the measuring process",
    "open_s": "making operands",
    "compile_s": "compiling",
    "check_s": "compiling and checking",
    "time_s": "timing",
    "compare_s": "timing in turns",
    "microbenchmark_s": "a microbenchmark",
}


def _signal_name(number: int) -> str:
    """``SIGSEGV``, or ``signal 35`` for most real-time signals, which Python has no names for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Lost(Exception):
    """The job ended without an answer: the process hung, died, or the job raised there.

    ``doubtful``: somebody else may have caused it: a signal that the kernel's out-of-memory killer
    or a user sends, memory that a neighbour had taken, or a cap by what neighbours had left.
    """

    def __init__(self, status: Status, reason: str, *, doubtful: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.doubtful = doubtful


class WorkerProcess:
    """A running measuring process.

    Args:
        limits: time limits of a job's stages, told how long the stages took.
        host_bytes: cap of the resident memory of the process and its children.
        interrupts: holds signals back but for the wait for an answer.

    Raises:
        OSError: no memory, no file descriptor, no process to be had.
        RuntimeError: no thread to be had.
    """

    def __init__(self, limits: AdaptiveLimits, host_bytes: int, interrupts: Interrupts) -> None:
        self._limits = limits
        self._host_bytes = host_bytes
        self._interrupts = interrupts
        self._jobs = 0
        self._closed = False
        self._channel, theirs = Channel.pair()
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
            self._channel.close()
            os.close(read_fd)
            raise
        finally:
            theirs.close()
            os.close(write_fd)
        try:
            self._tail = OutputTail(read_fd)
        except BaseException:
            os.close(read_fd)
            self.kill()
            self._process.wait()
            self._channel.close()
            raise

    @property
    def pid(self) -> int:
        """Process number, also of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while it can be asked."""
        return not self._closed and self._process.poll() is None

    def ask(self, job: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
        """Send a job and follow its stages to the answer.

        Raises:
            Lost: it gave none; the process is closed unless the job only raised.
        """
        self._tail.clear()
        self._jobs += 1
        try:
            self._channel.send({**job, "number": self._jobs})
        except OSError:
            raise self._died() from None
        for stage in stages:
            answer = self._receive(stage, job)
            if answer["phase"] == "failed":
                if answer["restart"]:
                    self.close()
                raise Lost(
                    Status(answer["status"]), answer["reason"], doubtful=answer["out_of_memory"]
                )
            if answer["phase"] == "done":
                return answer
        raise AssertionError(f"the worker answered {job['kind']} with too many stages")

    def _receive(self, stage: str, job: Mapping[str, Any]) -> dict[str, Any]:
        topic = f"{job.get('problem')} {job.get('kernel')}"
        if stage == "compare_s":
            limits = self._limits.limits
            limit = (limits.check_s + limits.time_s) * len(job["configs"])
        else:
            limit = self._limits.seconds(stage, topic)
        start = time.monotonic()
        while not self._wait(min(LOOK_S, start + limit - time.monotonic())):
            if time.monotonic() - start >= limit:
                self.close()
                raise Lost(Status.TIMEOUT, f"{_STAGES[stage]} took longer than {limit:.3g} s")
            used = resident_bytes(self.pid)
            if used > self._host_bytes:
                self.close()
                raise Lost(
                    Status.RUNTIME,
                    f"{_STAGES[stage]} held {used / 2**20:.0f} MiB of host memory, more than the "
                    f"cap of {self._host_bytes / 2**20:.0f} MiB",
                    # The default is a share of what neighbours had left when the sweep began.
                    doubtful=self._limits.limits.host_bytes is None,
                )
            # A child can keep the socket open after the process itself is gone.
            if self._process.poll() is not None and not self._wait(0.0):
                raise self._died()
        try:
            answer = self._channel.receive()
        except (EOFError, OSError):
            raise self._died() from None
        except ValueError:
            answer = {}
        if answer.get("job") != self._jobs:
            self.close()
            raise Lost(Status.RUNTIME, "candidate code wrote into the workbench's own channel")
        if answer["phase"] != "failed":
            self._limits.note(stage, topic, time.monotonic() - start)
        return answer

    def _wait(self, seconds: float) -> bool:
        with self._interrupts.let_through():  # minutes in all, and no lock is held
            return self._channel.wait(seconds)

    def _died(self) -> Lost:
        """What the end of the process tells: exit code or signal, and its last words."""
        deadline = time.monotonic() + 2.0
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self.close()
        if code is None:
            end = "the process closed its socket"
        elif code < 0:
            end = f"the process was killed by {_signal_name(-code)}"
        else:
            end = f"the process exited with code {code}"
        said = self._tail.last_line
        sent = code is not None and -code in _SENT
        return Lost(Status.RUNTIME, f"{end}: {said}" if said else end, doubtful=sent)

    def kill(self) -> None:
        """Kill the process and its group; from any thread."""
        # The group outlives its leader while it has members, so it is killed even after a crash.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and everything that it started, and wait for its end."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        # A driver that does not let it go is met again by the next start, which says so.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEATH_S)
        self._channel.close()
        self._tail.join()
