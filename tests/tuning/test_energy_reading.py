"""Energy of a launch from the board's sensors, here a board with a clock of its own."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_kernels import FineKernel, gemm
from fake_nvml import FakeNvml

from tuning import energy_reading
from tuning.conditions import Reading
from tuning.energy import Energy
from tuning.energy_reading import (
    LEAST_STEPS,
    LONGEST_S,
    REPEATS,
    WINDOW_S,
    energies_in_turns,
    energy_sensor,
    launch_energy,
)
from tuning.nvml import Nvml
from tuning.timer import HostTimer, Timer
from tuning.timing import SETTLE_S, Timing
from tuning.worker_main import _Bench, _compare, _measure


class Board(Timer):
    """Draws ``power_w`` while launches of ``launch_us`` run, and half of that while it settles."""

    name = "board"
    samples = 1
    launches = 4

    def __init__(
        self, *, power_w: float = 400.0, launch_us: float = 250.0, step_s: float = 0.1
    ) -> None:
        self.power_w, self.launch_us, self.step_s = power_w, launch_us, step_s
        self.time_s = self.joules = 0.0
        self.counter: float | None = 0.0
        self.count = 0
        self.companies: list[str] = []
        self.power: float | None = power_w

    def sample(self, count: int, meanwhile: Callable[[], None] | None = None) -> list[float]:
        raise AssertionError("energies are not samples")

    def bout(self, replays: int) -> None:
        launches = replays * self.launches
        seconds = launches * self.launch_us / 1e6
        self.count += launches
        watts = self.power_w * (0.5 if self.time_s < SETTLE_S else 1.0)
        begun = self.time_s
        self.time_s += seconds
        self.joules += seconds * watts
        if self.counter is not None and self.time_s // self.step_s > begun // self.step_s:
            since = self.time_s % self.step_s
            self.counter = self.joules - since * watts

    def energy_j(self) -> float | None:
        return self.counter

    def read(self) -> Reading:
        return Reading(power_w=self.power)

    def company(self) -> str:
        return self.companies.pop(0) if self.companies else ""

    def now(self) -> float:
        return self.time_s


def read(board: Board) -> Energy | None:
    return launch_energy(board, board.launch_us, board, board.now)


@pytest.mark.parametrize("launch_us", [3.0, 250.0, 9_000.0, 70_000.0])
def test_the_counter_tells_millijoules_a_launch(launch_us: float) -> None:
    board = Board(launch_us=launch_us)
    found = read(board)
    assert found is not None
    assert found.source == "counter"
    exact = board.power_w * launch_us / 1e3
    # A look is a bout late; what is divided is about a second of launches.
    bout_s = max(energy_reading.BOUT_S, board.launches * launch_us / 1e6)
    assert found.energy_mj == pytest.approx(exact, rel=0.001 + 2 * bout_s / WINDOW_S)
    assert found.seconds <= LONGEST_S
    assert found.power_w == pytest.approx(board.power_w, rel=0.3)


def test_what_comes_before_the_first_step_does_not_count() -> None:
    """While it settles the board draws half: with it the answer would be 5 % too low."""
    found = read(Board())
    assert found is not None
    assert found.energy_mj == pytest.approx(100.0, rel=0.012)
    assert WINDOW_S - 1e-9 <= found.seconds <= WINDOW_S + 0.2


@pytest.mark.parametrize("launch_us", [250.0, 150_000.0])
def test_launches_and_steps_may_be_long(launch_us: float) -> None:
    """Of 0.6 s a bout there are few looks, and the counter moves between any two of them."""
    board = Board(launch_us=launch_us)
    found = read(board)
    assert found is not None
    assert found.source == "counter"
    assert found.launches >= board.launches * (LEAST_STEPS - 1)


def test_a_counter_that_steps_rarely_is_waited_for() -> None:
    found = read(Board(step_s=0.5))
    assert found is not None
    assert found.source == "counter"
    assert found.energy_mj == pytest.approx(100.0, rel=0.025)


@pytest.mark.parametrize("why", ["no counter", "a counter that stands"])
def test_power_times_time_stands_in(why: str) -> None:
    board = Board(step_s=1e9) if why == "a counter that stands" else Board()
    if why == "no counter":
        board.counter = None
    found = read(board)
    assert found is not None
    assert found.source == "power"
    assert found.energy_mj == pytest.approx(100.0, rel=0.01)
    assert found.seconds >= LONGEST_S


def test_readings_of_the_first_half_lag_and_do_not_count() -> None:
    board = Board()
    board.counter = None
    begun: list[float] = []

    def lagging() -> Reading:
        begun.append(board.time_s)
        return Reading(power_w=board.power_w)

    board.read = lagging  # type: ignore[method-assign]
    read(board)
    assert min(begun) >= SETTLE_S + LONGEST_S / 2


def test_without_a_sensor_there_is_no_energy() -> None:
    board = Board()
    board.counter = board.power = None
    assert read(board) is None
    assert (
        energy_sensor(board, board.now, lambda s: setattr(board, "time_s", board.time_s + s)) == ""
    )
    assert energy_sensor(None) == ""


def test_the_counter_comes_before_power() -> None:
    board = Board()
    assert energy_sensor(board) == "counter"
    board.counter = None
    assert energy_sensor(board) == "power"


def test_a_sensor_that_answers_late_is_waited_for() -> None:
    """``nvidia-smi`` says its first line after a moment."""
    board = Board()
    board.counter = board.power = None

    def sleep(seconds: float) -> None:
        board.time_s += seconds
        board.power = 300.0

    assert energy_sensor(board, board.now, sleep) == "power"


def test_a_reading_that_was_disturbed_is_taken_again() -> None:
    board = Board()
    board.companies = ["", "process 7 came to the GPU", "", ""]
    found = read(board)
    assert found is not None
    assert found.disturbed == ""
    assert board.time_s > 2 * WINDOW_S

    board = Board()
    board.companies = ["", "process 7 came to the GPU"] * (1 + REPEATS)
    found = read(board)
    assert found is not None
    assert found.disturbed == "process 7 came to the GPU"


def test_rivals_take_turns() -> None:
    one, other = Board(), Board(power_w=200.0)
    order: list[str] = []

    def told(board: Board, name: str) -> None:
        plain = board.bout

        def bout(replays: int) -> None:
            if not order or order[-1] != name:
                order.append(name)
            plain(replays)

        board.bout = bout  # type: ignore[method-assign]

    class Both:
        """One board's sensors under two kernels: the time and the energy of both count."""

        def energy_j(self) -> float:
            return round((one.joules + other.joules) / 20) * 20.0

        def read(self) -> Reading:
            return Reading()

        def company(self) -> str:
            return ""

    told(one, "one")
    told(other, "other")
    found = energies_in_turns(
        [one, other], [250.0, 250.0], Both(), lambda: one.time_s + other.time_s
    )
    # The second turn is in reverse, so the other one's turns follow one another.
    assert order == ["one", "other", "one"]
    assert [f is not None and f.source for f in found] == ["counter", "counter"]
    first, second = found
    assert first is not None
    assert second is not None
    assert first.energy_mj == pytest.approx(100.0, rel=0.05)
    assert second.energy_mj == pytest.approx(50.0, rel=0.1)
    assert first.launches > one.count / 2


def test_energies_are_stored_as_they_were() -> None:
    found = Energy(energy_mj=1.5, source="counter", launches=10, seconds=0.5, disturbed="x")
    assert Energy.from_dict(found.to_dict()) == found
    timing = Timing.of([1.0, 2.0], "host", energy=found)
    assert timing.in_turns()["energy"] == found.to_dict()
    assert "energy" not in Timing.of([1.0, 2.0], "host").in_turns()


JOB = {
    "problem": str(gemm()),
    "kernel": "fake_kernels:FineKernel",
    "device": "cpu",
    "seed": 0,
    "cache": "cold",
    "l2_bytes": 0,
    "sampling_us": 5000.0,
    "checked": False,
    "environment": False,
}


def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[_Bench, list[dict[str, Any]], Any]:
    """A measuring process's bench with a board that draws 512 W and has no counter."""
    # Settling queues the first bout, however long the host then holds the process up.
    for name, value in (("LONGEST_S", 0.02), ("SETTLE_S", 0.005), ("WINDOW_S", 0.01)):
        monkeypatch.setattr(energy_reading, name, value)
    fake = FakeNvml()
    monkeypatch.setattr(fake, "nvmlDeviceGetTotalEnergyConsumption", None)
    bench = _Bench()
    bench.observer = Nvml(fake, "gpu 0")
    said: list[dict[str, Any]] = []
    return bench, said, lambda phase, content: said.append({"phase": phase, **content})


@pytest.mark.parametrize("asked", [True, False])
def test_the_measuring_process_reads_energy_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    bench, said, reply = opened(monkeypatch)
    config = FineKernel().default(gemm(), None).to_dict()  # type: ignore[arg-type]
    _measure(bench, {**JOB, "config": config, "energy": asked}, reply)
    outcome = said[-1]["measurement"]
    assert ("energy" in outcome) == asked
    if asked:
        assert outcome["energy"]["source"] == "power"
        power_w = Energy.from_dict(outcome["energy"]).power_w
        assert power_w == pytest.approx(512.34)


def test_and_of_rivals_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, said, reply = opened(monkeypatch)
    monkeypatch.setattr("tuning.timing.SETTLE_S", 0.0)
    config = FineKernel().default(gemm(), None).to_dict()  # type: ignore[arg-type]
    _compare(bench, {**JOB, "configs": [config] * 2, "kernels": [], "energy": True}, reply)
    for timing in said[-1]["timings"]:
        energy = Timing.from_dict(timing).energy
        assert energy is not None
        assert energy.power_w == pytest.approx(512.34)


def test_a_bout_runs_launches() -> None:
    ran: list[int] = []
    timer = HostTimer(lambda: ran.append(1), 5000.0)
    ran.clear()
    timer.bout(7)
    assert len(ran) == 7


def test_bouts_on_a_device_are_queued_ahead_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device never waits for the looks at the sensors: one bout runs while they are read."""
    timer_cuda = pytest.importorskip("tuning.timer_cuda")
    did: list[str] = []

    class Event:
        count = 0

        def record(self) -> None:
            Event.count += 1
            self.number = Event.count
            did.append(f"end {self.number}")

        def synchronize(self) -> None:
            did.append(f"wait {self.number}")

    class Graph:
        def replay(self) -> None:
            did.append("replay")

    monkeypatch.setattr(timer_cuda, "_event", Event)
    bouts = timer_cuda._Bouts(Graph())
    bouts.queue(2)
    bouts.queue(1)
    bouts.queue(1)
    assert did == [
        *("replay", "replay", "end 1"),
        *("replay", "end 2", "wait 1"),
        *("replay", "end 3", "wait 2"),
    ]
