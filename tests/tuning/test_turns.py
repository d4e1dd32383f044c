"""Turns of a sweep's studies under a time limit: everybody's share is kept, nobody is forgotten."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import fake_kernels
import kill_loop
import pytest
from sweep_runs import make_plan, sweep

import tuning
from tiles.kernels import Status, TileConfig
from tuning import Measurement, Strategy
from tuning.candidates import Candidates
from tuning.timing import Timing
from tuning.turn import TIME_IS_UP, Turn


class ClockBench(kill_loop.TableBench):
    """A measurement takes ``cost`` seconds of a clock that nothing else moves, each tie as long."""

    now = 0.0
    cost = 2.0
    measured: tuple[str, ...] = ()

    def measure(
        self, study: Candidates, config: TileConfig, environment: bool
    ) -> tuple[Measurement, None]:
        ClockBench.now += ClockBench.cost
        ClockBench.measured += (str(study.plan.problem),)
        return Measurement(status=Status.CORRECT, simulated=False, time_us=100.0), None

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        ClockBench.now += ClockBench.cost * len(configs)
        return [Timing(time_us=100.0, samples_us=(100.0,), timing="t") for _ in configs]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[ClockBench]:
    monkeypatch.setattr(ClockBench, "now", 0.0)
    monkeypatch.setattr(ClockBench, "cost", 2.0)
    monkeypatch.setattr(ClockBench, "measured", ())
    clock = SimpleNamespace(monotonic=lambda: ClockBench.now, sleep=time.sleep)
    monkeypatch.setattr("tuning.search.time", clock)
    monkeypatch.setattr("tuning.sweep.Bench", ClockBench)
    return ClockBench


def limited(folder: Path, studies: int, seconds: float | None) -> tuning.Run:
    """A sweep of gemm:64x..., gemm:128x..., and so on, four measurements each at most."""
    return sweep(
        make_plan(
            folder,
            studies=studies,
            simulate=False,
            time_limit_s=seconds,
            strategy=Strategy.MODEL,
            max_measurements=4,
        )
    )


def counts(run: tuning.Run) -> list[int]:
    return [len(study.trials) for study in run.studies]


def test_nobody_begins_what_would_end_beyond_its_share(
    tmp_path: Path, bench: type[ClockBench]
) -> None:
    """Shares of three seconds, measurements of two: a second one would be at the others' cost."""
    run = limited(tmp_path / "run", 10, 30.0)
    assert counts(run) == [1, 1, 1, 1, 1, 2, 1, 1, 2, 2]
    assert {study.stopped for study in run.studies} == {TIME_IS_UP}
    # The ties of one left enough for the four behind it, those of the last but one did not.
    assert [at for at, study in enumerate(run.studies) if study.not_compared] == [8]
    assert run.studies[8].not_compared == (
        "2 near-ties were not timed in turns: the time limit was reached"
    )
    assert bench.now == 34.0  # the ties of the last one
    run = limited(tmp_path / "run", 10, None)
    assert {study.not_compared for study in run.studies} == {""}


def test_a_sweep_goes_on_with_what_its_time_did_not_reach(
    tmp_path: Path, bench: type[ClockBench]
) -> None:
    bench.cost = 10.0
    run = limited(tmp_path / "run", 6, 35.0)
    assert counts(run) == [1, 1, 1, 1, 0, 0]
    problems = [str(study.problem) for study in run.studies]
    bench.measured, bench.now = (), 0.0
    run = limited(tmp_path / "run", 6, 15.0)
    assert counts(run) == [1, 1, 1, 1, 1, 1]
    assert list(bench.measured) == problems[4:]
    bench.measured, bench.now = (), 0.0
    run = limited(tmp_path / "run", 6, 25.0)
    assert list(bench.measured) == problems[:3]  # nobody is left out: the plan's order


def test_what_was_killed_goes_on_in_the_order_of_the_plan(
    tmp_path: Path, bench: type[ClockBench]
) -> None:
    """A study learns from those that ended before it began: a kill must not change their order."""
    plan = make_plan(tmp_path / "run", studies=3, simulate=False, time_limit_s=9000.0)

    def kill(event: tuning.Progress) -> None:
        if len(bench.measured) == 14:  # in the second study
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.run(plan, kill, price=fake_kernels.price)
    before, bench.measured = bench.measured, ()
    run = sweep(plan)
    assert counts(run) == [12, 12, 12]
    problems = [str(study.problem) for study in run.studies]
    assert [*before, *bench.measured] == [name for name in problems for _ in range(12)]


def test_a_turn_without_a_limit_is_never_full() -> None:
    turn = Turn(None, 5, time.monotonic)
    turn.measured = 1
    assert (turn.full, turn.over, turn.seconds, turn.spares(10**9)) == (False, False, None, True)
