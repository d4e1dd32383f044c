"""The measuring process: whatever candidate code does, a status comes back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import hostile_kernels
import pytest

from tiles.kernels import Status
from tuning.environment import read_environment
from tuning.limits import AdaptiveLimits, JobLimits
from tuning.precompile import CompilePool, pool_size
from tuning.records import Environment
from tuning.worker import Target, Worker

#: Of what is to run into its limit.  All else has the limits that users have: a process of a busy
#: host may stand still for seconds.
HASTY = JobLimits(check_s=0.8, time_s=0.8)
#: After which a test gives up what has to happen.
PATIENCE_S = 120
TARGET = Target(
    problem=str(fake_kernels.gemm()),
    kernel="fake_kernels:FakeKernel",
    device="cpu",
    seed=0,
    cache="cold",
    l2_bytes=2**20,
)


def config(mode: str, size: int = 16) -> fake_kernels.FakeConfig:
    return fake_kernels.FakeConfig(mode=fake_kernels.MODES.index(mode), size=size, flag=False)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, "given up"
        time.sleep(0.02)


LIMITS = AdaptiveLimits(JobLimits())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker("cpu", LIMITS) as opened:
        yield opened


@contextmanager
def hasty() -> Iterator[None]:
    """The worker waits for less than a second meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIMITS, "limits", HASTY)
        yield


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [
        ("fine", Status.CORRECT, ""),
        ("raise", Status.RUNTIME, "RuntimeError: illegal memory access ... second line"),
        ("compile", Status.COMPILE, "CompilationError: register allocation failed"),
        ("exit", Status.RUNTIME, "the process exited with code 3: last words"),
        ("abort", Status.RUNTIME, "the process was killed by SIGSEGV"),
        ("real_time_signal", Status.RUNTIME, "the process was killed by signal 35"),
        ("wrong", Status.CORRECTNESS, "C[0, 1] = 7"),
        ("nan", Status.CORRECTNESS, "C[0, 0] is NaN"),
        ("noise", Status.CORRECT, ""),
    ],
)
def test_every_misbehaviour_has_its_status(
    worker: Worker, mode: str, status: Status, reason: str
) -> None:
    outcome, _ = worker.measure(TARGET, config(mode))
    assert (outcome.status, outcome.reason) == (status, reason)
    assert (outcome.time_us is not None) == (status is Status.CORRECT)
    after, _ = worker.measure(TARGET, config("fine"))
    assert after.status is Status.CORRECT


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("hang", "compiling and checking took longer than 0.8 s"),
        ("hang_timing", "timing took longer than 0.8 s"),
    ],
)
def test_what_takes_too_long_is_ended(worker: Worker, mode: str, reason: str) -> None:
    with hasty():
        outcome, _ = worker.measure(TARGET, config(mode))
    assert (outcome.status, outcome.reason) == (Status.TIMEOUT, reason)
    assert outcome.time_us is None
    after, _ = worker.measure(TARGET, config("fine"))
    assert after.status is Status.CORRECT


def test_a_kill_from_outside_condemns_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    with Worker("cpu") as worker:
        worker.hello()
        pid = worker.pid
        assert pid is not None

        def kill_it_at_its_check() -> None:
            wait_until(log.exists)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_it_at_its_check)
        killer.start()
        outcome, _ = worker.measure(TARGET, config("first_hangs"))
        killer.join()
        assert outcome.status is Status.CORRECT
        assert worker.starts == 2
    assert len(log.read_text().splitlines()) == 2


def test_a_configuration_that_kills_every_process_is_condemned(worker: Worker) -> None:
    outcome, _ = worker.measure(TARGET, config("kill"))
    assert (outcome.status, outcome.reason) == (
        Status.RUNTIME,
        "the process was killed by SIGKILL (twice, in two processes)",
    )
    assert outcome.doubtful
    assert not worker.measure(TARGET, config("raise"))[0].doubtful


@pytest.mark.parametrize("cap", [None, hostile_kernels.HOST_BYTES], ids=["default", "chosen"])
def test_a_cap_by_what_neighbours_had_left_is_doubted(
    monkeypatch: pytest.MonkeyPatch, cap: int | None
) -> None:
    room = hostile_kernels.HOST_BYTES * 4 // 3
    monkeypatch.setattr("tuning.worker.available_bytes", lambda: room)
    modes = list(hostile_kernels.MODES)
    glutton = hostile_kernels.HostileConfig(mode=modes.index("memory"), size=100)
    target = replace(TARGET, kernel="hostile_kernels:HostileKernel")
    with Worker("cpu", JobLimits(host_bytes=cap)) as worker:
        outcome, _ = worker.measure(target, glutton)
        assert "of host memory, more than the cap of 512 MiB" in outcome.reason
        assert outcome.doubtful == outcome.reason.endswith("(twice, in two processes)")
        assert outcome.doubtful == (cap is None)
        assert worker.starts == (2 if cap is None else 1)


def test_process_is_reused_until_it_dies(worker: Worker) -> None:
    worker.measure(TARGET, config("fine"))
    starts = worker.starts
    for mode in ("fine", "raise", "compile", "wrong", "noise"):
        worker.measure(TARGET, config(mode))
    assert worker.starts == starts
    worker.measure(TARGET, config("exit"))
    worker.measure(TARGET, config("fine"))
    assert worker.starts == starts + 1


def test_time_is_that_of_the_launch() -> None:
    clocked = replace(TARGET, kernel="fake_kernels:ClockedKernel")
    with Worker("cpu", LIMITS) as worker:
        outcome, _ = worker.measure(clocked, config("fine", size=2000))
    assert outcome.timing == "host"
    assert outcome.time_us == 2000
    assert len(outcome.samples_us) >= 10
    assert set(outcome.samples_us) == {2000}


def test_environment_is_read_on_request(worker: Worker) -> None:
    _, none = worker.measure(TARGET, config("fine"))
    _, environment = worker.measure(TARGET, config("fine"), environment=True)
    assert none is None
    assert environment is not None
    assert environment.versions["python"] == sys.version.split()[0]


def test_rivals_are_timed_in_turns(worker: Worker) -> None:
    # A busy host's sleep overshoots by milliseconds.
    timings = worker.compare(TARGET, [config("fine", 30_000), config("fine", 100)])
    assert not isinstance(timings, str)
    assert timings[0].time_us > timings[1].time_us > 100
    with hasty():
        reason = worker.compare(TARGET, [config("fine"), config("hang_timing")])
    assert isinstance(reason, str)
    assert "took longer" in reason


def test_a_child_that_a_candidate_left_is_killed(worker: Worker) -> None:
    worker.hello()
    pid = worker.pid
    assert pid is not None
    outcome, _ = worker.measure(TARGET, config("leave_child"))
    assert outcome.reason == "the process exited with code 4: a child is left"
    wait_until(lambda: not _children_left_by(pid))


def _children_left_by(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"\0left by {pid}\0".encode() in command:
                found.append(int(entry.name))
    return found


def test_unknown_kernel_is_recorded_with_its_reason(worker: Worker) -> None:
    target = Target(**{**TARGET.to_dict(), "kernel": "fake_kernels:Nothing"})
    outcome, _ = worker.measure(target, config("fine"))
    assert outcome.status is Status.RUNTIME
    assert "fake_kernels:Nothing" in outcome.reason


@pytest.mark.slow
def test_missing_device_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with (
        Worker("cuda", LIMITS) as worker,
        pytest.raises(ValueError, match="no CUDA device: simulate the sweep instead, --on sim"),
    ):
        worker.hello()


#: What a process says that found a device.
READ = read_environment("cpu").to_dict()
FOUND = {"environment": READ, "l2_bytes": 50 * 2**20}
NOT_OPENED = {"missing": "torch finds no CUDA device", "built_for_it": True}


@pytest.mark.parametrize(
    ("answers", "gpu", "starts"),
    [
        ([NOT_OPENED, FOUND], "NVIDIA H200", 2),
        ([NOT_OPENED, NOT_OPENED, FOUND], "NVIDIA H200", 3),
        ([NOT_OPENED] * 3, "NVIDIA H200", 3),
        ([NOT_OPENED], None, 1),  # a machine without a GPU
        ([{**NOT_OPENED, "built_for_it": False}], "NVIDIA H200", 1),  # torch for CPUs
    ],
)
def test_a_device_that_does_not_open_for_a_moment_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, Any]], gpu: str | None, starts: int
) -> None:
    coming = iter(answers)

    class Process:
        alive = True

        def __init__(self, *_: Any) -> None: ...

        def ask(self, *_: Any) -> dict[str, Any]:
            return next(coming)

        def close(self) -> None: ...

    monkeypatch.setattr("tuning.worker.WorkerProcess", Process)
    monkeypatch.setattr("tuning.worker.PAUSE_S", 0.0)
    monkeypatch.setattr("tuning.worker.visible_gpu", lambda: gpu)
    with Worker("cuda") as worker:
        if answers[-1] is FOUND:
            assert worker.hello() == (Environment.from_dict(READ), 50 * 2**20)
        else:
            with pytest.raises(ValueError, match=r"no CUDA device: simulate .* --on sim"):
                worker.hello()
        assert worker.starts == starts


def test_worker_dies_with_its_parent() -> None:
    script = (
        "import time; from tuning.worker import Worker; w = Worker('cpu'); w.hello();"
        "print(w.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: not alive(pid))


def test_parent_imports_no_torch() -> None:
    script = (
        "import sys, tuning.sweep, tuning.precompile\n"
        "from tuning.worker import Worker\n"
        "with Worker('cpu') as w: w.hello()\n"
        "sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_pool_compiles_what_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    configs = [config(mode) for mode in ("fine", "raise", "exit", "slow", "fine")]
    with CompilePool(JobLimits(), 2) as pool:
        pool.announce(TARGET, configs)
        pool.announce(TARGET, configs[:2], urgent=True)
        wait_until(lambda: pool.compiled >= 2)
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 4
    assert pool.compiled == 2


def test_pool_that_is_left_early_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    with CompilePool(JobLimits(), 2) as pool:
        pool.announce(TARGET, [config("hang", size) for size in (16, 32, 64)])
        wait_until(lambda: log.exists() and log.read_text().count("\n") == 2)
        workers = pool._workers
    assert all(worker._process is None for worker in workers)
    # Whoever had waited for the two would have come to the third.
    assert pool.compiled == 0
    assert log.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("cpus", "free", "size"),
    [(1, None, 1), (2, None, 1), (8, None, 6), (16, None, 12), (64, None, 12), (16, 2**34, 2)],
)
def test_pool_size(cpus: int, free: int | None, size: int) -> None:
    assert pool_size(cpus, free) == size
