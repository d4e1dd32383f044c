"""Workers of one run take the GPUs in turns, and tests marked ``alone`` have theirs alone."""

import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import turns
from dealing import dealt
from turns import gpu_of, turn


@pytest.mark.parametrize(
    ("worker", "visible", "wanted"),
    [
        ("", None, None),  # one process sees them all
        ("gw0", None, "0"),
        ("gw1", None, "1"),
        ("gw4", None, "1"),
        ("gw3", "2", None),  # one GPU was chosen already
        ("gw3", "5,7", "7"),
        ("gw3", "", None),  # none is to be seen
    ],
)
def test_gpu_of_a_worker(worker: str, visible: str | None, wanted: str | None) -> None:
    assert dealt(worker, visible, ("0", "1", "2")) == wanted


def test_a_host_without_a_gpu() -> None:
    assert dealt("gw0", None, ()) is None


@pytest.mark.parametrize(
    ("visible", "wanted"), [(None, "0"), ("", "none"), ("3", "3"), ("GPU-1a,GPU-2b", "GPU-1a")]
)
def test_gpu_that_a_process_tests_on(visible: str | None, wanted: str) -> None:
    assert gpu_of(visible) == wanted


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(turns, "FOLDER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    return tmp_path


def _free(path: Path, *, shared: bool = False) -> bool:
    """Whether somebody else could have the lock now."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_waits_to_be_alone_comes_before_who_came_later(locks: Path) -> None:
    told: list[str] = []

    def take(name: str, *, alone: bool) -> threading.Thread:
        def held() -> None:
            with turn("7", alone=alone):
                told.append(f"{name} in")
                time.sleep(0.02)
                told.append(f"{name} out")

        thread = threading.Thread(target=held, daemon=True)
        thread.start()
        return thread

    gate, lock = locks / "tile-workbench-gpu-7.gate", locks / "tile-workbench-gpu-7.lock"
    with turn("7", alone=False), turn("7", alone=False):  # two that share
        assert _free(gate)
        assert _free(lock, shared=True)
        first = take("alone", alone=True)
        _until(lambda: not _free(gate))
        others = [take("shared", alone=False) for _ in range(2)]
        with turn("8", alone=True):  # another GPU's
            told.append("before")
        assert not _free(lock)
    for thread in (first, *others):
        thread.join(timeout=120)
    assert told[:3] == ["before", "alone in", "alone out"]
    assert len(told) == 7
    assert _free(gate)
    assert _free(lock)


@pytest.mark.parametrize(
    ("marks", "shared", "free"),
    [
        (("gpu",), True, False),
        (("gpu", "alone"), False, False),
        ((), True, True),
        (("alone",), True, True),  # on the host
    ],
)
def test_a_phase_of_a_test_has_its_lock(
    locks: Path, marks: tuple[str, ...], shared: bool, free: bool
) -> None:
    item: Any = SimpleNamespace(get_closest_marker=lambda name: name if name in marks else None)
    lock = locks / "tile-workbench-gpu-7.lock"
    for hook, exclusive in (
        (turns.pytest_runtest_setup, False),
        (turns.pytest_runtest_call, not shared),
        (turns.pytest_runtest_teardown, False),
    ):
        phase = hook(item)
        next(phase)
        assert _free(lock) == free
        assert _free(lock, shared=True) == (not exclusive)
        with pytest.raises(StopIteration, match="what it answered"):
            phase.send("what it answered")
        assert _free(lock)
    phase = turns.pytest_runtest_call(item)
    next(phase)
    with pytest.raises(KeyError):
        phase.throw(KeyError("the test failed"))
    assert _free(lock)
