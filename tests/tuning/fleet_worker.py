"""One worker of a fleet, as a script: ``python fleet_worker.py NAME URL [begin STRATEGY]``.

Measures in the script's own process, from a table, and writes a line for every configuration that
it begins and another when its outcome is known, to the file in ``FLEET_LOG``.  While there is a
file of that name and its process number behind a point, it writes ``held`` and goes on with
nothing.  The first measurement waits until ``FLEET_TOGETHER`` processes are at theirs.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fake_kernels
import kill_loop

import tuning.sweep
from sim.prediction import PricedTable
from tiles.kernels import ConfigTable, Kernel, Limits, Rule, Status, TileConfig
from tiles.problems import Problem
from tuning import Measurement, Plan, Strategy, StudyPlan
from tuning.fleet import run_shared, work
from tuning.fleet_storage import FleetStorage
from tuning.records import Environment

MEASURING_S = 0.05
#: Of a busy host's process it may be long before one hears again.
HEARTBEAT_S, GRACE_S = 1, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class GridConfig(TileConfig):
    size: int
    mode: int


class GridKernel(fake_kernels.FakeKernel):
    """Four hundred legal configurations."""

    name: ClassVar[str] = "grid"
    config_type: ClassVar[type[TileConfig]] = GridConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(GridConfig, size=list(range(1, 21)), mode=list(range(20)))

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        return []


def price(problem: Problem, kernel: Kernel, table: ConfigTable, gpu: object) -> PricedTable:
    time_us = table["size"] * 1.0 + 0.01 * table["mode"]
    return fake_kernels.priced(problem, kernel, table, time_us)


def log(word: str, config: TileConfig) -> None:
    with Path(os.environ["FLEET_LOG"]).open("a") as file:
        file.write(f"{os.getpid()} {word} {config}\n")


def at_work() -> int:
    """Processes that have begun to measure."""
    lines = Path(os.environ["FLEET_LOG"]).read_text().splitlines()
    return len({line.split()[0] for line in lines})


class LoggingBench(kill_loop.TableBench):
    together = int(os.environ.get("FLEET_TOGETHER", "1"))

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        log("begin", config)
        while at_work() < self.together:
            time.sleep(0.02)
        time.sleep(MEASURING_S)
        if Path(f"{os.environ['FLEET_LOG']}.{os.getpid()}").exists():
            log("held", config)
            time.sleep(600)
        values = config.to_dict()
        time_us = values["size"] * (1 + 0.01 * ((values["mode"] * 7 + values["size"]) % 20))
        outcome = Measurement(
            status=Status.CORRECT, simulated=False, time_us=time_us, timing="table"
        )
        log("end", config)
        return outcome, self.environment(study) if environment else None

    def compare(self, study: object, configs: Any) -> str:
        return "not compared here"


def make_plan(name: str, strategy: str = "exhaustive", **changes: Any) -> Plan:
    return Plan(
        studies=(StudyPlan(problem=fake_kernels.gemm(), kernel="fleet_worker:GridKernel"),),
        gpu=fake_kernels.GPU,
        folder=Path(name),
        shared_name=name,
        strategy=Strategy(strategy),
        max_measurements=changes.pop("max_measurements", 100),
        **changes,
    )


def storage(url: str) -> FleetStorage:
    return FleetStorage(url, heartbeat_s=HEARTBEAT_S, grace_s=GRACE_S, outage_s=300)


def main(name: str, url: str, *words: str) -> None:
    tuning.sweep.Bench = LoggingBench  # type: ignore[misc,assignment]
    if words:
        run_shared(make_plan(name, words[1]), "", price=price, storage=storage(url))
    else:
        work(name, "", price=price, storage=storage(url))


if __name__ == "__main__":
    main(*sys.argv[1:])
