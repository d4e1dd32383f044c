"""Promotion: the better of two entries is kept, whatever the other does, and nothing is lost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import kill_loop
import pytest
from contested_kernels import FIRST, SECOND, contest, one

import tuning
from tiles.kernels import Status as Outcome
from tiles.kernels import TileConfig
from tuning import Measurement
from tuning.promotion.contest import Contest, Side, Status, decide
from tuning.promotion.run import Promoted, plan_of, promote
from tuning.timing import Timing

PROBLEM = fake_kernels.gemm()


def promoted(
    folder: Path, contests: Sequence[Contest], *, simulate: bool = False, **options: Any
) -> Promoted:
    plan = plan_of(contests, fake_kernels.GPU, folder, simulate=simulate, cache="cold", seed=0)
    return promote(
        plan, contests, options.pop("min_gain", 0.03), price=fake_kernels.price, **options
    )


def winners(folder: Path) -> list[tuple[str, int]]:
    """Family and size of whoever has an entry, problem by problem, as emission finds them."""
    return [
        (study.kernel, study.best.config.to_dict()["size"])
        for study in tuning.load_run(folder).studies
        if study.best is not None
    ]


@pytest.mark.slow
def test_the_better_entry_is_kept_whatever_the_new_one_does(tmp_path: Path) -> None:
    """In real measuring processes: better, worse, barely better, wrong, raising, crashing."""
    contests = [
        contest(0, one(1000), one(500)),
        contest(1, one(1000), one(1500)),
        contest(2, one(1000), one(990)),
        contest(3, one(1000), one(500, "wrong")),
        contest(4, one(1000), one(500, "raise")),
        contest(5, one(1000), one(500, "abort")),
        contest(6, one(1000, "wrong"), one(2000)),
        contest(7, one(1000, "nan"), one(500, "wrong")),
        contest(8, one(1000), one(800), one(500, "abort"), one(750)),
        contest(9, one(1000), one(600, kernel=SECOND)),
        contest(10, one(1000), one(16, flag=True)),
        contest(11, one(1000)),
        contest(12, None, one(700)),
    ]
    done = promoted(tmp_path / "run", contests)
    told = [(v.status, v.reason.split(":")[0]) for v in done.verdicts]
    assert told == [
        (Status.PROMOTED, "faster"),
        (Status.REFUSED, "not faster by 3 %"),
        (Status.REFUSED, "not faster by 3 %"),
        (Status.REFUSED, "correctness"),
        (Status.REFUSED, "runtime"),
        (Status.REFUSED, "runtime"),
        (Status.PROMOTED, "the old entry is not right"),
        (Status.REFUSED, "correctness"),
        (Status.PROMOTED, "faster"),
        (Status.PROMOTED, "faster"),
        (Status.REFUSED, "not legal"),
        (Status.KEPT, "nothing new stands against it"),
        (Status.PROMOTED, "there is no old entry"),
    ]
    assert done.verdicts[0].reason == "faster: +100.0 % between medians, beyond noise"
    assert done.verdicts[3].reason == "correctness: C[0, 1] = 7"
    assert done.verdicts[5].reason == "runtime: the process was killed by SIGSEGV"
    assert done.verdicts[7].winner is None
    assert "the old entry is not right either: correctness" in done.verdicts[7].reason
    # Both medians and spreads are new, and were taken in turns.
    for verdict in done.verdicts[:3]:
        assert verdict.old is not None
        assert verdict.new is not None
        assert (verdict.old.time_us, verdict.old.iqr_us) == (1000.0, 0.0)
        assert len(verdict.new.samples_us) >= 4
        assert verdict.old.timing == verdict.new.timing == "host-interleaved"
    kept = [1000] * 5
    assert winners(tmp_path / "run") == [
        (FIRST, size) for size in (500, *kept, 2000, 750)
    ] + [(SECOND, 600)] + [(FIRST, size) for size in (1000, 1000, 700)]  # fmt: skip
    loser = tuning.load_run(tmp_path / "run").studies[1].trials[1]
    assert loser.stale.startswith("lost its contest: not faster by 3 %: -33.3 % between")
    again = promoted(tmp_path / "run", contests)
    assert again.verdicts == done.verdicts


class ContestBench(kill_loop.TableBench):
    """Takes what a configuration's size says; counts what it is asked."""

    measured = 0
    compared = 0
    stop_measuring = stop_comparing = 10**9
    failing = ""

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Any]:
        if ContestBench.measured == ContestBench.stop_measuring:
            raise KeyboardInterrupt
        ContestBench.measured += 1
        values = config.to_dict()
        where = self.environment(study) if environment else None
        if fake_kernels.MODES[values["mode"]] == "wrong":
            return Measurement(status=Outcome.CORRECTNESS, simulated=False, reason="off"), where
        return Measurement(
            status=Outcome.CORRECT, simulated=False, time_us=float(values["size"]), timing="alone"
        ), where

    def compare_families(
        self, studies: Sequence[Any], configs: Sequence[TileConfig]
    ) -> list[Timing] | str:
        if ContestBench.compared == ContestBench.stop_comparing:
            raise KeyboardInterrupt
        ContestBench.compared += 1
        if ContestBench.failing:
            return ContestBench.failing
        times = [float(config.to_dict()["size"]) for config in configs]
        return [Timing(time_us=t, samples_us=(t,) * 8, timing="turns") for t in times]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[ContestBench]:
    for name, value in (("measured", 0), ("compared", 0), ("failing", "")):
        monkeypatch.setattr(ContestBench, name, value)
    for name in ("stop_measuring", "stop_comparing"):
        monkeypatch.setattr(ContestBench, name, 10**9)
    monkeypatch.setattr("tuning.sweep.Bench", ContestBench)
    monkeypatch.setattr("tuning.promotion.judging.Bench", ContestBench)
    return ContestBench


CONTESTS = (
    contest(0, one(1000), one(500)),
    contest(1, one(1000), one(1500, kernel=SECOND)),
    contest(2, one(1000), one(600, kernel=SECOND), one(620)),
    contest(3, one(1000), one(500, "wrong")),
)
WINNERS = [(FIRST, 500), (FIRST, 1000), (SECOND, 600), (FIRST, 1000)]


def test_one_winner_a_problem_is_left_in_the_record(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    done = promoted(tmp_path / "run", CONTESTS)
    assert winners(tmp_path / "run") == WINNERS
    assert bench.measured == 9
    assert bench.compared == 3  # nobody is right to stand against the last one
    (study,) = [s for s in done.run.studies if s.problem == CONTESTS[0].problem]
    assert study.best is not None
    assert study.best.measurement.timing == "turns-interleaved"
    # The whole space is told as it is: a few of it were asked for.
    assert (len(study.trials), study.legal_size) == (2, 84)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("stop", [4, *(pytest.param(stop, marks=SLOW) for stop in (0, 1, 8))])
def test_a_promotion_that_is_interrupted_while_it_measures_goes_on(
    tmp_path: Path, bench: type[ContestBench], stop: int
) -> None:
    bench.stop_measuring = stop
    with pytest.raises(KeyboardInterrupt):
        promoted(tmp_path / "run", CONTESTS)
    bench.stop_measuring = 10**9
    done = promoted(tmp_path / "run", CONTESTS)
    assert bench.measured == 9  # each of them once
    assert [v.status for v in done.verdicts] == [
        Status.PROMOTED, Status.REFUSED, Status.PROMOTED, Status.REFUSED
    ]  # fmt: skip
    assert winners(tmp_path / "run") == WINNERS


@pytest.mark.parametrize("stop", [1, *(pytest.param(stop, marks=SLOW) for stop in (0, 2))])
def test_what_was_decided_before_an_interrupt_is_not_timed_again(
    tmp_path: Path, bench: type[ContestBench], stop: int
) -> None:
    bench.stop_comparing = stop
    with pytest.raises(KeyboardInterrupt):
        promoted(tmp_path / "run", CONTESTS)
    assert bench.compared == stop
    bench.stop_comparing = 10**9
    done = promoted(tmp_path / "run", CONTESTS)
    assert (bench.measured, bench.compared) == (9, 3)
    assert winners(tmp_path / "run") == WINNERS
    assert promoted(tmp_path / "run", CONTESTS).verdicts == done.verdicts
    assert (bench.measured, bench.compared) == (9, 3)


def test_nothing_is_promoted_by_samples_taken_apart(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    bench.failing = "out of memory"
    done = promoted(tmp_path / "run", CONTESTS[:1])
    (verdict,) = done.verdicts
    assert verdict.status is Status.REFUSED
    assert verdict.reason == ("it could not be timed in turns with the old entry: out of memory")
    assert winners(tmp_path / "run") == [(FIRST, 1000)]
    bench.failing = ""
    assert promoted(tmp_path / "run", CONTESTS[:1]).verdicts == done.verdicts


def test_new_entries_alone_need_no_turns_to_hold_one(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    """The first of them may be wrong, and so may the old one."""
    bench.failing = "out of memory"
    contests = (
        contest(0, None, one(500, "wrong"), one(700), one(600)),
        contest(1, one(1000, "wrong"), one(800), one(900)),
    )
    done = promoted(tmp_path / "run", contests)
    assert [v.status for v in done.verdicts] == [Status.PROMOTED] * 2
    assert [v.reason for v in done.verdicts] == [
        "there is no old entry", "the old entry is not right: correctness: off"
    ]  # fmt: skip
    assert winners(tmp_path / "run") == [(FIRST, 600), (FIRST, 800)]
    assert promoted(tmp_path / "run", contests).verdicts == done.verdicts


def test_a_plan_is_never_there_without_its_promotion(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    def begin() -> None:
        assert not (tmp_path / "run" / "plan.json").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        promoted(tmp_path / "run", CONTESTS, begin=begin)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_simulated_promotion_starts_no_process_and_says_so(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    done = promoted(tmp_path / "run", CONTESTS, simulate=True)
    assert (bench.measured, bench.compared) == (0, 0)
    assert done.run.plan["simulate"] is True
    assert [v.status for v in done.verdicts] == [
        Status.PROMOTED, Status.REFUSED, Status.PROMOTED, Status.PROMOTED
    ]  # fmt: skip
    (study,) = [s for s in done.run.studies if s.problem == CONTESTS[3].problem]
    assert study.best is not None
    assert study.best.measurement.simulated


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, bench: type[ContestBench]
) -> None:
    promoted(tmp_path / "run", CONTESTS[:1])
    with pytest.raises(ValueError, match=r"holds another sweep \(.* differs\): choose another"):
        promoted(tmp_path / "run", CONTESTS)
    many = contest(0, one(1000), *(one(size) for size in range(100, 112)))
    with pytest.raises(ValueError, match="13 contenders, at most 12 take turns"):
        promoted(tmp_path / "many", [many])


def _side(samples: Sequence[float], **changes: Any) -> Side:
    ordered = sorted(samples)
    time_us = ordered[len(ordered) // 2]
    side = Side(contender=one(64), time_us=time_us, samples_us=tuple(samples), timing="t")
    return replace(side, **changes)


STEADY = [100.0 + place / 10 for place in range(20)]


@pytest.mark.parametrize(
    ("new", "min_gain", "status", "said"),
    [
        ([90 + p / 10 for p in range(20)], 0.03, Status.PROMOTED, "faster: +11.0 %"),
        ([98.5 + p / 10 for p in range(20)], 0.03, Status.REFUSED, "not faster by 3 %: +1.5 %"),
        ([98.5 + p / 10 for p in range(20)], 0.01, Status.PROMOTED, "faster: +1.5 %"),
        ([99.5 + p / 10 for p in range(20)], 0.0, Status.REFUSED, "not faster beyond noise: +0.5"),
        ([80 + 2 * p for p in range(20)], 0.0, Status.REFUSED, "not faster beyond noise: +1.0 %"),
        (STEADY, 0.0, Status.REFUSED, "not faster beyond noise: +0.0 %"),
    ],
)
def test_faster_means_by_the_least_gain_and_beyond_noise(
    new: Sequence[float], min_gain: float, status: Status, said: str
) -> None:
    verdict = decide(PROBLEM, _side(STEADY), [_side(new)], min_gain)
    assert verdict.status is status
    assert verdict.reason.startswith(said)
    assert verdict.winner is (verdict.new if status is Status.PROMOTED else verdict.old)
    assert verdict.gain == pytest.approx(101.0 / sorted(new)[10] - 1)


def test_equal_times_without_samples_replace_nothing() -> None:
    """A model gives two configurations one time; with no least gain either would do."""
    side = Side(contender=one(64), time_us=100.0)
    verdict = decide(PROBLEM, side, [replace(side, contender=one(65))], 0.0)
    assert (verdict.status, verdict.winner) == (Status.REFUSED, side)
    assert verdict.reason == "not faster: +0.0 % between medians"


def test_a_noisy_first_one_does_not_hide_a_steady_second() -> None:
    noisy = _side([80 + 2 * p for p in range(10)] + [120.0] * 9)
    steady = _side([94 + p / 10 for p in range(20)], contender=one(65))
    assert noisy.time_us is not None
    assert steady.time_us is not None
    noisy = replace(noisy, time_us=90.0)
    verdict = decide(PROBLEM, _side(STEADY), [steady, noisy], 0.03)
    assert (verdict.status, verdict.winner, verdict.new) == (Status.PROMOTED, steady, steady)
    alone = decide(PROBLEM, _side(STEADY), [noisy], 0.03)
    assert alone.status is Status.REFUSED
    assert alone.reason.startswith("not faster beyond noise")


def test_an_entry_that_nobody_can_fill_is_told() -> None:
    wrong = Side(contender=one(64), reason="correctness: off")
    verdict = decide(PROBLEM, wrong, [], 0.03)
    assert (verdict.status, verdict.winner, verdict.gain) == (Status.KEPT, None, None)
    assert verdict.reason.endswith("the old entry is not right either: correctness: off")
