"""Sweeps that are killed at random moments, as a script: it forks, so it must have no threads.

``python kill_loop.py FOLDER STRATEGY WORKERS KILLS SEED`` starts WORKERS processes on one run
folder, kills one of them at a random moment and starts another, until KILLS have struck; then it
lets them end.  Every other kill waits for the victim to measure: most of a start is imports, and on
a busy machine nothing else would be struck.  Until the last kill nobody measures the last study, so
that none is done too soon.
"""

import math
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import fake_kernels
from sweep_runs import MANY, WIDE, make_plan

import tuning
import tuning.store
import tuning.sweep
from tiles.kernels import Status, TileConfig
from tiles.problems import Problem
from tuning import Measurement, Plan, Strategy
from tuning.candidates import Candidates
from tuning.journal_file import JOURNAL
from tuning.records import Environment
from tuning.stored_plan import PLAN_FILE
from tuning.timing import Timing

MEASURING_S = 0.004
#: A kill strikes at most this long after the start of its victim, or after its first measurement.
STRIKE_S = 0.06


def true_time_us(config: TileConfig) -> float:
    """What this configuration takes: the model's time, off by up to 20 %, as its interval says.

    The error is one of ``size`` and ``mode``, so that a search can learn it, and has the model
    rank many others above the fastest.
    """
    values = config.to_dict()
    predicted = values["size"] * 1.0 + 0.1 * values["mode"] + 0.5 * values["flag"]
    wave = abs(math.cos((values["size"] - 100) / 12))
    return float(predicted * (0.8 + 0.33 * wave + 0.01 * (values["mode"] * 5 % 8)))


class TableBench:
    """Answers as a bench would, without processes: always the same for a configuration."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def start(self, studies: object) -> None:
        pass

    def compiles_ahead(self, study: object) -> bool:
        return False

    def announce(self, *_: object) -> None:
        pass

    def environment(self, study: object) -> Environment:
        return Environment(gpu="table", driver="none", sm_clock_mhz=None, versions={})

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        self.begin(study)
        time.sleep(MEASURING_S)
        where = self.environment(study) if environment else None
        if zlib.crc32(str(config).encode()) % 7 == 0:
            return Measurement(status=Status.RUNTIME, simulated=False, reason="seventh"), where
        time_us = true_time_us(config)
        return Measurement(
            status=Status.CORRECT, simulated=False, time_us=time_us, timing="table"
        ), where

    def begin(self, study: object) -> None:
        """Called before every measurement."""

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        return [
            Timing(time_us=true_time_us(c), samples_us=(true_time_us(c),), timing="table")
            for c in configs
        ]


class VictimsBench(TableBench):
    """Tells when it measures, and waits at the last study while there are kills to come."""

    told: int  #: descriptor that gets a byte
    last: Problem
    held: Path  #: is there until the last kill

    def begin(self, study: Candidates) -> None:  # type: ignore[override]
        os.write(self.told, b"x")
        while study.plan.problem == self.last and self.held.exists():
            time.sleep(0.01)


def plan_of(folder: Path, strategy: str, kills: int = 0) -> Plan:
    return make_plan(
        folder,
        MANY if strategy == "exhaustive" else WIDE,
        studies=1 if not kills else 2 if kills < 10 else 5,
        simulate=False,
        strategy=Strategy(strategy),
        max_measurements=60,
    )


def sweep(plan: Plan) -> tuning.Run:
    """Only for this script: it changes the program for good."""
    tuning.sweep.Bench = TableBench  # type: ignore[misc,assignment]
    return tuning.run(plan, price=fake_kernels.price)


def measured(folder: Path) -> set[str]:
    """Configurations with an outcome, from what is on the disk; each has been measured once."""
    if not (folder / JOURNAL).exists() or not (folder / PLAN_FILE).exists():
        return set()
    tuning.repair(folder)
    run = tuning.load_run(folder)
    for study in run.studies:
        assert study.repeats == 0, f"{study.problem}: measured {study.repeats} more than once"
    return {f"{s.problem} {t.config}" for s in run.studies for t in s.trials}


def start(plan: Plan) -> tuple[int, int]:
    """A process of its own, and a descriptor that can be read when it measures."""
    measures, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            VictimsBench.told = told
            VictimsBench.last = plan.studies[-1].problem
            VictimsBench.held = held(plan)
            tuning.sweep.Bench = VictimsBench  # type: ignore[misc,assignment]
            tuning.run(plan, price=fake_kernels.price)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(told)
    return pid, measures


def held(plan: Plan) -> Path:
    return plan.folder.with_suffix(".held")


def strike(victim: tuple[int, int], rng: random.Random, measuring: bool) -> None:
    pid, measures = victim
    if measuring:
        os.read(measures, 1)
    time.sleep(rng.uniform(0.0, STRIKE_S))
    os.kill(pid, signal.SIGKILL)
    os.close(measures)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -signal.SIGKILL, f"it ended by itself: {code}"


def main(folder: Path, strategy: str, workers: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    plan = plan_of(folder, strategy, kills)
    before: set[str] = set()
    alive: list[tuple[int, int]] = []
    held(plan).touch()
    for kill in range(kills):
        while len(alive) < workers:
            alive.append(start(plan))
        strike(alive.pop(rng.randrange(len(alive))), rng, measuring=kill % 2 == 1)
        if workers == 1:
            now = measured(folder)
            assert now >= before, "a completed measurement was lost"
            before = now
    held(plan).unlink()
    while len(alive) < workers:
        alive.append(start(plan))
    for pid, _ in alive:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert measured(folder) >= before


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(int(word) for word in sys.argv[3:6]))
