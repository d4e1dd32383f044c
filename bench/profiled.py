"""Running a profiler and what it profiles, and ending both."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

__all__ = ["run_profiled"]


def run_profiled(
    command: Sequence[str], *, time_limit_s: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a tool that starts processes of its own; none of them is left on the GPU.

    Args:
        environment: variables beside this process's.  ``ncu`` waits for a lock file in ``TMPDIR``
            while another one counts, be it on another GPU: each gets a folder of its own.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was killed with all that it started.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            said, complained = process.communicate(timeout=time_limit_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)
