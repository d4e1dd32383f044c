"""Turns at a GPU that several processes test on: most share it, tests marked ``alone`` do not.

A test that decides on a time or an energy must not run while another launches on the same GPU.  So
every test holds a lock of its GPU, shared, and one marked ``alone`` has it to itself while it runs
(not while its fixtures are made).  The wait for that counts in the durations that pytest tells.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

__all__ = ["Turn", "gpu_of", "pytest_runtest_call", "pytest_runtest_protocol"]

FOLDER = Path(tempfile.gettempdir())


def gpu_of(visible: str | None) -> str:
    """The GPU that a process tests on.

    Args:
        visible: ``CUDA_VISIBLE_DEVICES``, None where it is not set.
    """
    names = ["0"] if visible is None else [name for name in visible.split(",") if name]
    return names[0] if names else "none"


class Turn:
    """A GPU's lock, held from the beginning of a ``with`` to its end, by whatever was asked for.

    Who waits for it alone holds the gate, so that those who would share it queue up behind.
    """

    def __init__(self, gpu: str) -> None:
        self._stem = f"tile-workbench-gpu-{gpu.replace('/', '-')}"
        self._open = ExitStack()

    def __enter__(self) -> "Turn":
        self._gate, self._lock = (
            self._open.enter_context((FOLDER / f"{self._stem}.{kind}").open("w"))
            for kind in ("gate", "lock")
        )
        return self

    def take(self, *, alone: bool) -> None:
        """Wait for the lock; what was held before is let go of first."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def __exit__(self, *told: object) -> None:
        # Unlocked by name: a forked process may hold the files open for longer.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._open.close()


_TURN = pytest.StashKey[Turn]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Share the GPU from the first fixture to the end.

    A test that let go of it in between could wait for one that waits for what it holds (``huge``).
    """
    if item.get_closest_marker("gpu") is None:
        return (yield)
    with Turn(gpu_of(os.environ.get("CUDA_VISIBLE_DEVICES"))) as turn:
        turn.take(alone=False)
        item.stash[_TURN] = turn
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked ``alone`` runs while no other does on its GPU."""
    if item.get_closest_marker("gpu") is None or item.get_closest_marker("alone") is None:
        return (yield)
    turn = item.stash[_TURN]
    turn.take(alone=True)
    try:
        return (yield)
    finally:
        turn.take(alone=False)
