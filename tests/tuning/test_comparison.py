"""Near-ties: every one of them takes turns, however many there are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_kernels
import kill_loop
import pytest
from sweep_runs import make_plan

import tuning
import tuning.sweep
from tiles.kernels import Status, TileConfig
from tuning import Measurement, Strategy
from tuning.comparison import GROUP, compare_all
from tuning.conditions import Conditions
from tuning.timing import Timing

CONFIGS = [fake_kernels.FakeConfig(mode=0, size=size, flag=False) for size in range(1, 41)]


class Rig:
    """Times in turns; the clock slows down from one group to the next."""

    def __init__(self, times: Sequence[float]) -> None:
        self.true = dict(zip(CONFIGS, times, strict=False))
        self.groups: list[list[TileConfig]] = []

    def compare(self, configs: Sequence[TileConfig]) -> list[Timing] | str:
        slower = 1 + 0.1 * len(self.groups)
        self.groups.append(list(configs))
        times = [slower * self.true[config] for config in configs]  # type: ignore[index]
        return [Timing(time_us=t, samples_us=(t,), timing="t") for t in times]


def test_groups_share_the_fastest_so_far_and_a_moved_clock_does_not_count() -> None:
    true = [100 + (place * 17 % 40) / 20 for place in range(40)]
    rig = Rig(true)
    timings, left = compare_all(rig.compare, CONFIGS, lambda: True)
    assert left == ""
    assert [t.time_us for t in timings] == pytest.approx(true, abs=1e-3)
    assert [len(group) for group in rig.groups] == [12, 12, 12, 7]
    assert {config for group in rig.groups for config in group} == set(CONFIGS)
    for done, group in zip((12, 23, 34), rig.groups[1:], strict=True):
        assert group[0] == min(CONFIGS[:done], key=lambda c: rig.true[c])
    assert timings[39].samples_us == pytest.approx((1.3 * true[39],))  # as it was taken


def test_what_was_left_out_is_counted() -> None:
    rig = Rig([100.0] * 40)
    timings, left = compare_all(rig.compare, CONFIGS, lambda: len(rig.groups) < 2)
    assert len(timings) == 23
    assert left == "17 of 40 near-ties were not timed in turns: the time limit was reached"

    def dying(configs: Sequence[TileConfig]) -> list[Timing] | str:
        return "it died" if rig.groups else rig.compare(configs)

    rig.groups.clear()
    timings, left = compare_all(dying, CONFIGS, lambda: True)
    assert len(timings) == GROUP
    assert left == "28 of 40 near-ties were not timed in turns: it died"
    assert compare_all(dying, CONFIGS, lambda: True) == ([], "it died")


class FlatBench(kill_loop.TableBench):
    """Every configuration is as fast as every other within 3 %; an hour passes at the 20th."""

    now = 0.0
    measured = 0

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, None]:
        FlatBench.measured += 1
        FlatBench.now += 3600.0 * (FlatBench.measured == 20)
        time_us = 100 + config.to_dict()["mode"] / 10
        return Measurement(status=Status.CORRECT, simulated=False, time_us=time_us), None


@pytest.mark.parametrize(
    ("limit_s", "measured", "left"), [(None, 84, 0), (7200.0, 84, 0), (60.0, 20, 20 - GROUP)]
)
def test_a_sweep_compares_everything_within_3_percent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit_s: float | None,
    measured: int,
    left: int,
) -> None:
    monkeypatch.setattr(FlatBench, "now", 0.0)
    monkeypatch.setattr(FlatBench, "measured", 0)
    clock = SimpleNamespace(monotonic=lambda: FlatBench.now, sleep=time.sleep)
    monkeypatch.setattr("tuning.search.time", clock)
    monkeypatch.setattr("tuning.sweep.Bench", FlatBench)
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE, time_limit_s=limit_s
    )
    (study,) = tuning.run(plan, price=fake_kernels.price).studies
    interleaved = [t for t in study.trials if t.measurement.timing == "table-interleaved"]
    assert (len(study.trials), len(interleaved)) == (measured, measured - left)
    said = f"{left} of {measured} near-ties were not timed in turns: the time limit was reached"
    assert study.not_compared == (said if left else "")


class ObservedBench(FlatBench):
    """A GPU that was hot while each was measured by itself, and is cool in turns."""

    hot, cool = (Conditions(source="nvml", temperature_c=(degrees,)) for degrees in (80, 40))

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, None]:
        found, _ = super().measure(study, config, environment)
        return replace(found, conditions=self.hot), None

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        return [replace(t, conditions=self.cool) for t in super().compare(study, configs)]


def test_times_in_turns_have_the_conditions_of_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.sweep.Bench", ObservedBench)
    plan = make_plan(tmp_path / "run", simulate=False, max_measurements=6)
    run = tuning.run(plan, price=fake_kernels.price)
    assert tuning.load_run(plan.folder) == run
    (study,) = run.studies
    assert {t.measurement.conditions for t in study.trials} == {ObservedBench.cool}
    assert study.best is not None
    assert study.best.measurement.conditions == ObservedBench.cool


class BusyBench(FlatBench):
    """Some lose by 4 % each by itself; kept busy in turns, the GPU is 10 % slower."""

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, None]:
        found, _ = super().measure(study, config, environment)
        return replace(found, time_us=100.0 if config.to_dict()["flag"] else 104.0), None

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        return [replace(one, time_us=110.0) for one in super().compare(study, configs)]


def test_who_lost_alone_does_not_win_because_others_were_timed_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.sweep.Bench", BusyBench)
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    (study,) = tuning.run(plan, price=fake_kernels.price).studies
    assert study.best is not None
    assert study.best.config.to_dict()["flag"]
    assert {(t.measurement.time_us, t.outpaced) for t in study.trials} == {
        (110.0, 0.0),
        (104.0, 1.1),
    }
    assert tuning.load_run(plan.folder).studies[0].best == study.best


class HoldingBench(FlatBench):
    """Begins to compare and never ends."""

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        print("comparing", flush=True)
        time.sleep(600)
        raise AssertionError("was to be killed")


def hold(folder: str) -> None:
    """A process that is at its comparison; it changes the program for good."""
    tuning.sweep.Bench = HoldingBench  # type: ignore[misc,assignment]
    tuning.run(plan_of(Path(folder)), price=fake_kernels.price)


def plan_of(folder: Path) -> tuning.Plan:
    return make_plan(folder, simulate=False, max_measurements=12, strategy=Strategy.MODEL)


def test_when_the_comparing_process_dies_another_one_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import test_comparison; test_comparison.hold({str(folder)!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"comparing\n"
    compared: list[int | None] = []

    def compare(self: object, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        compared.append(holder.poll())
        return [Timing(time_us=1.0, samples_us=(1.0,), timing="here") for _ in configs]

    monkeypatch.setattr(FlatBench, "compare", compare)
    monkeypatch.setattr("tuning.sweep.Bench", FlatBench)
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            holder.kill()
            holder.wait()

    monkeypatch.setattr("tuning.search.time", SimpleNamespace(monotonic=time.monotonic, sleep=look))
    (study,) = tuning.run(plan_of(folder), price=fake_kernels.price).studies
    holder.stdout.close()
    assert compared == [-signal.SIGKILL]
    assert len(looks) == 3
    assert {t.measurement.timing for t in study.trials} == {"here-interleaved"}
