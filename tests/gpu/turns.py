"""Turns at a GPU that several processes test on: most share it, tests marked ``alone`` do not.

A test that decides on a time or an energy must not run while another launches on the same GPU.  So
each phase of a test holds a lock of its GPU: shared, and exclusive while an ``alone`` test itself
runs (not while its fixtures are made).  Waiting counts in the durations that pytest tells.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["gpu_of", "pytest_runtest_call", "pytest_runtest_setup", "pytest_runtest_teardown"]
__all__ += ["turn"]

FOLDER = Path(tempfile.gettempdir())


def gpu_of(visible: str | None) -> str:
    """The GPU that a process tests on.

    Args:
        visible: ``CUDA_VISIBLE_DEVICES``, None where it is not set.
    """
    names = ["0"] if visible is None else [name for name in visible.split(",") if name]
    return names[0] if names else "none"


@contextmanager
def turn(gpu: str, *, alone: bool) -> Iterator[None]:
    """Hold a GPU's lock.

    Who waits for it alone holds the gate, so that those who would share it queue up behind.
    """
    stem = f"tile-workbench-gpu-{gpu.replace('/', '-')}"
    with (FOLDER / f"{stem}.gate").open("w") as gate, (FOLDER / f"{stem}.lock").open("w") as lock:
        # Unlocked by name: a forked process may hold the files open for longer.
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_UN)


def _phase(item: pytest.Item, *, alone: bool = False) -> Generator[None, object, object]:
    if item.get_closest_marker("gpu") is None:
        return (yield)
    with turn(gpu_of(os.environ.get("CUDA_VISIBLE_DEVICES")), alone=alone):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fixtures are made beside other tests."""
    return (yield from _phase(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked ``alone`` runs while no other does on its GPU."""
    alone = item.get_closest_marker("alone") is not None
    return (yield from _phase(item, alone=alone))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """As :func:`pytest_runtest_setup`."""
    return (yield from _phase(item))
