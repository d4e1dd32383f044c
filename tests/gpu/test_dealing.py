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
from turns import Turn, gpu_of


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


def _taken(name: str, told: list[str], *, alone: bool) -> threading.Thread:
    """Takes a turn of a few moments in another thread."""

    def hold() -> None:
        with Turn("7") as turn:
            turn.take(alone=alone)
            told.append(f"{name} in")
            time.sleep(0.02)
            told.append(f"{name} out")

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return thread


def test_who_waits_to_be_alone_comes_before_who_came_later(locks: Path) -> None:
    told: list[str] = []
    gate, lock = locks / "tile-workbench-gpu-7.gate", locks / "tile-workbench-gpu-7.lock"
    with Turn("7") as one, Turn("7") as two, Turn("8") as elsewhere:
        one.take(alone=False)
        two.take(alone=False)
        assert _free(gate)
        assert _free(lock, shared=True)
        first = _taken("alone", told, alone=True)
        _until(lambda: not _free(gate))
        others = [_taken("shared", told, alone=False) for _ in range(2)]
        elsewhere.take(alone=True)
        told.append("before")
        assert not _free(lock)
    for thread in (first, *others):
        thread.join(timeout=120)
    assert told[:3] == ["before", "alone in", "alone out"]
    assert len(told) == 7
    assert _free(gate)
    assert _free(lock)


def test_two_that_share_may_both_ask_to_be_alone(locks: Path) -> None:
    """Neither keeps what the other waits for."""
    told: list[str] = []
    both = threading.Barrier(2, timeout=120)

    def hold() -> None:
        with Turn("7") as turn:
            turn.take(alone=False)
            both.wait()
            turn.take(alone=True)
            told.append("in")
            time.sleep(0.02)
            told.append("out")

    threads = [threading.Thread(target=hold, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert told == ["in", "out"] * 2


@pytest.mark.parametrize(
    ("marks", "between", "during"),
    [
        (("gpu",), "shared", "shared"),
        (("gpu", "alone"), "shared", "alone"),
        ((), "free", "free"),
        (("alone",), "free", "free"),  # on the host
    ],
)
def test_a_test_has_its_lock(
    locks: Path, marks: tuple[str, ...], between: str, during: str
) -> None:
    item: Any = SimpleNamespace(
        get_closest_marker=lambda name: name if name in marks else None, stash=pytest.Stash()
    )
    lock = locks / "tile-workbench-gpu-7.lock"

    def held() -> str:
        return "free" if _free(lock) else "shared" if _free(lock, shared=True) else "alone"

    protocol = turns.pytest_runtest_protocol(item)
    next(protocol)
    for fails in (False, True):
        assert held() == between
        call = turns.pytest_runtest_call(item)
        next(call)
        assert held() == during
        if fails:
            with pytest.raises(KeyError):
                call.throw(KeyError("the test failed"))
        else:
            with pytest.raises(StopIteration, match="what it answered"):
                call.send("what it answered")
        assert held() == between
    with pytest.raises(StopIteration, match="done"):
        protocol.send("done")
    assert _free(lock)
