"""What candidate code prints: drained as fast as it comes, its end kept."""

import contextlib
import fcntl
import os
import threading

from tuning.faults import one_line

__all__ = ["OutputTail"]

#: What is kept of the candidates' own output.
LOG_BYTES = 2**16
#: A large pipe and large reads: gigabytes of output must not hold a candidate up.
PIPE_BYTES = 2**20


class OutputTail:
    """Drains a pipe in a thread of its own and keeps the end of what came.

    Args:
        fd: the pipe's reading end, which this object closes.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = b""
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # beyond the user's quota: it stays at 64 KiB
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        buffer = bytearray(PIPE_BYTES)
        view = memoryview(buffer)
        try:
            while count := os.readv(self._fd, [buffer]):
                kept = bytes(view[max(0, count - LOG_BYTES) : count])
                self._kept = (self._kept + kept)[-LOG_BYTES:] if count < LOG_BYTES else kept
        finally:
            os.close(self._fd)

    def clear(self) -> None:
        """Forget what came so far."""
        self._kept = b""

    def join(self) -> None:
        """Wait for the pipe's end, but not long: a stray grandchild can keep it open."""
        self._thread.join(1.0)

    @property
    def last_line(self) -> str:
        """The last line that is not empty, cut to a length that fits a table."""
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return one_line(lines[-1]) if lines else ""
