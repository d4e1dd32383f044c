"""A bench whose environment a test sets, and sweeps on it."""

from dataclasses import replace

import fake_kernels
import kill_loop
import pytest

import tuning
from tiles.kernels import TileConfig
from tuning import Measurement, Plan
from tuning.records import Environment
from tuning.sweep import Again

THEN = Environment(
    gpu="NVIDIA H200",
    driver="570.1",
    sm_clock_mhz=1980,
    versions={"torch": "2.11", "triton": "3.6", "cuda": "13.0", "numpy": "2.4"},
)
NOW = replace(THEN, driver="580.2", versions={**THEN.versions, "triton": "3.7", "numpy": "2.5"})


class DatedBench(kill_loop.TableBench):
    """A table bench of an environment and a factor on every time."""

    where = THEN
    factor = 1.0
    measured: list[TileConfig]

    def environment(self, study: object) -> Environment:
        return type(self).where

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        outcome, where = super().measure(study, config, environment)
        type(self).measured.append(config)
        # The new driver turns the order round.
        if outcome.time_us is not None and type(self).where is NOW:
            outcome = replace(outcome, time_us=1000 / outcome.time_us)
        return outcome, where

    def compare(self, study: object, configs: object) -> str:  # type: ignore[override]
        return "not here"


def take_over(monkeypatch: pytest.MonkeyPatch) -> type[DatedBench]:
    """Have sweeps measure on it, without a pause, in the environment of then."""
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.0)
    monkeypatch.setattr("tuning.sweep.Bench", DatedBench)
    monkeypatch.setattr(DatedBench, "where", THEN)
    monkeypatch.setattr(DatedBench, "measured", [], raising=False)
    return DatedBench


def sweep(plan: Plan, again: Again = Again.REFUSE) -> tuning.Run:
    return tuning.run(plan, price=fake_kernels.price, again=again)
