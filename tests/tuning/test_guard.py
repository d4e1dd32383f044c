"""Sensors beside the samples, and what makes a measurement be taken again."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_nvml import FakeNvml

from tiles.kernels import Status
from tuning import Measurement
from tuning.conditions import Conditions, Reading
from tuning.environment import sm_clock_mhz
from tuning.guard import PARTS, REPEATS, guarded_samples, guarded_turns
from tuning.nvml import Nvml, open_nvml
from tuning.observers import SmiObserver, open_observer
from tuning.timer import HostTimer
from tuning.timing import ROUNDS

STRANGER = 2**22 + 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def plug(*arguments: object, **changes: bool) -> FakeNvml:
        fake = FakeNvml(*arguments, **changes)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return plug


def observer() -> Nvml:
    opened = open_nvml()
    assert opened is not None
    return opened


def timer() -> HostTimer:
    return HostTimer(lambda: time.sleep(1e-4))


def conditions_of(found: tuple[list[float], Conditions | None]) -> Conditions:
    assert found[1] is not None
    return found[1]


def test_a_quiet_gpu_is_measured_once(gpu: Callable[..., FakeNvml]) -> None:
    gpu([1980, 1965, 1980, 1950]).throttle_bits = 0x4
    rule = timer()
    samples, conditions = guarded_samples(rule, observer())
    assert len(samples) == rule.samples
    assert conditions == Conditions(
        source="nvml",
        sm_clock_mhz=(1980, 1965, 1980, 1950),
        power_w=(512.3,) * PARTS,
        temperature_c=(57,) * PARTS,
        throttled=("power cap",),
    )


def test_nobody_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")
    assert open_observer() is None
    assert guarded_samples(timer(), None)[1] is None


def test_a_clock_that_settles_is_waited_for(gpu: Callable[..., FakeNvml]) -> None:
    gpu([1980, 1900, 1800, 1755, 1755])
    found = conditions_of(guarded_samples(timer(), observer()))
    assert (found.repeats, found.disturbed) == (1, "")
    assert found.sm_clock_mhz == (1755,) * PARTS
    assert found.thrown_away == ("the SM clock moved between 1755 and 1980 MHz",)
    assert found.company_watched
    assert Conditions.from_dict(asdict(found)) == found


def test_a_clock_that_never_settles_is_told(gpu: Callable[..., FakeNvml]) -> None:
    gpu([1980, 1400] * 50)
    rule = timer()
    samples, found = guarded_samples(rule, observer())
    assert len(samples) == rule.samples  # of one attempt, not of all
    assert found is not None
    assert found.repeats == REPEATS
    assert found.disturbed == "the SM clock moved between 1400 and 1980 MHz"


def test_another_process_at_work_makes_samples_be_taken_again(
    gpu: Callable[..., FakeNvml],
) -> None:
    fake = gpu()
    watcher = observer()
    watcher.claim()
    calls = 0

    def launch() -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            fake.busy = [(os.getpid(), 90), (STRANGER, 40)]

    found = conditions_of(guarded_samples(HostTimer(launch), watcher))
    assert (found.repeats, found.disturbed) == (1, "")
    assert found.thrown_away == (f"process {STRANGER} used the GPU, 40 % of the time",)


def test_another_process_that_stays_at_work_is_told(gpu: Callable[..., FakeNvml]) -> None:
    fake = gpu()

    def launch() -> None:
        fake.busy = [(STRANGER, 40)]

    found = conditions_of(guarded_samples(HostTimer(launch), observer()))
    assert found.repeats == REPEATS
    assert found.disturbed == f"process {STRANGER} used the GPU, 40 % of the time"


def test_each_rival_has_the_conditions_of_its_own_turns(gpu: Callable[..., FakeNvml]) -> None:
    # Forth and back: the first rival's readings are the outer ones.
    gpu([1980, 1755, 1755, 1980, 1980, 1755, 1755, 1980])
    rules = [timer(), timer()]
    found = guarded_turns(rules, observer())
    assert [len(samples) for samples, _ in found] == [
        ROUNDS * -(-rule.samples // ROUNDS) for rule in rules
    ]
    first, second = map(conditions_of, found)
    assert first.sm_clock_mhz == (1980,) * ROUNDS
    assert second.sm_clock_mhz == (1755,) * ROUNDS
    assert (first.repeats, second.repeats) == (0, 0)


def test_what_disturbs_one_rival_has_all_take_their_turns_again(
    gpu: Callable[..., FakeNvml],
) -> None:
    gpu([1980, 1755] * 3 + [1980, 1400] + [1755] * 20)
    rules = [timer(), timer()]
    for rule, (samples, found) in zip(rules, guarded_turns(rules, observer()), strict=True):
        assert len(samples) < rule.samples + ROUNDS  # of one attempt, not of both
        assert found is not None
        assert found.sm_clock_mhz == (1755,) * ROUNDS
        assert (found.repeats, found.disturbed) == (1, "")
        assert found.thrown_away[0].startswith("the SM clock moved between ")


def test_a_clock_that_wanders_for_all_rivals_disturbs_none(gpu: Callable[..., FakeNvml]) -> None:
    # 13 % from the first round to the last, the two within 3 % of each other: the power limit.
    gpu([1755, 1740, 1695, 1710, 1620, 1605, 1530, 1545])
    for _, found in guarded_turns([timer(), timer()], observer()):
        assert found is not None
        assert (found.repeats, found.disturbed) == (0, "")
        assert min(found.sm_clock_mhz) < 1550 < 1700 < max(found.sm_clock_mhz)


def test_rivals_that_nobody_observes_have_no_conditions() -> None:
    assert [found for _, found in guarded_turns([timer(), timer()], None)] == [None, None]


def test_a_process_that_only_sits_there_is_no_disturbance(gpu: Callable[..., FakeNvml]) -> None:
    fake = gpu()
    fake.pids = [STRANGER]
    watcher = observer()
    fake.pids = [STRANGER, 77]  # 77 is this process by the host's numbers
    watcher.claim()
    assert watcher.company() == ""
    fake.busy = [(77, 100)]
    assert watcher.company() == ""
    fake.pids = [STRANGER, 77, STRANGER + 1]
    assert watcher.company() == f"process {STRANGER + 1} came to the GPU"
    assert watcher.company() == ""


def test_sensors_that_refuse_say_nothing(gpu: Callable[..., FakeNvml]) -> None:
    gpu(silent=True)
    watcher = observer()
    watcher.claim()
    assert watcher.read() == Reading()
    found = conditions_of(guarded_samples(timer(), watcher))
    assert found == Conditions(source="nvml")
    assert sm_clock_mhz() is None


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("3,1", 3), ("GPU-1a2b", "GPU-1a2b"), ("", 0)]
)
def test_the_visible_gpu_is_asked(
    gpu: Callable[..., FakeNvml],
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    asked: int | str,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake = gpu()
    observer()
    assert fake.asked_for == [asked]


def test_nvidia_smi_is_read_where_pynvml_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\nwhile :; do echo '1755, 431.27, 61'; sleep 0.05; echo '1740, [N/A], 61';"
        " sleep 0.05; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watcher = open_observer()
    assert isinstance(watcher, SmiObserver)
    try:
        monkeypatch.setattr("tuning.observers.STALE_S", 600.0)
        deadline = time.monotonic() + 120
        while (reading := watcher.read()) == Reading():
            assert time.monotonic() < deadline, "nothing was read"
            time.sleep(0.01)
        assert (reading.sm_clock_mhz, reading.temperature_c) in ((1755, 61), (1740, 61))
        assert reading.power_w in (431.27, None)
        found = conditions_of(guarded_samples(timer(), watcher))
        assert (found.source, found.company_watched) == ("nvidia-smi", False)
    finally:
        watcher.close()
    monkeypatch.setattr("tuning.observers.STALE_S", 0.0)
    assert watcher.read() == Reading()


def test_conditions_are_stored_and_journals_without_them_load() -> None:
    readings = [Reading(sm_clock_mhz=1980, power_w=500.04, throttled=("heat",)), Reading()]
    measurement = Measurement(
        status=Status.CORRECT,
        simulated=False,
        time_us=1.0,
        conditions=Conditions.of(
            "nvml", readings, thrown_away=["company"], disturbed="moved", company_watched=True
        ),
    )
    stored = json.loads(json.dumps(measurement.to_dict()))
    assert Measurement.from_dict(stored) == measurement
    assert stored["conditions"]["power_w"] == [500.0]
    for added in ("thrown_away", "company_watched"):
        del stored["conditions"][added]
    earlier = Measurement.from_dict(stored).conditions
    assert earlier is not None
    assert (earlier.repeats, earlier.thrown_away) == (1, ())
    bare = Measurement(status=Status.CORRECT, simulated=False, time_us=1.0).to_dict()
    assert "conditions" not in bare
    assert Measurement.from_dict(bare).conditions is None
