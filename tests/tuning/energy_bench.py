"""A bench whose fastest configuration is not the one that takes the least energy."""

from collections.abc import Sequence
from dataclasses import replace

import kill_loop

from tiles.kernels import TileConfig
from tuning.energy import Energy
from tuning.records import Environment, Measurement
from tuning.timing import Timing


def true_energy_mj(config: TileConfig) -> float:
    """Half a watt more for every unit of ``size`` below 100, so that slow ones may take less."""
    values = config.to_dict()
    power_w = 80.0 + 9.0 * max(0, 100 - values["size"]) + 40.0 * values["flag"]
    return power_w * kill_loop.true_time_us(config) / 1e3


class EnergyBench(kill_loop.TableBench):
    """What :class:`kill_loop.TableBench` measures, with energies; in turns they are 1 % more."""

    asked: tuple[int, ...] = ()  #: configurations that were compared at a time

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        outcome, where = super().measure(study, config, environment)
        if outcome.time_us is None:
            return outcome, where
        return replace(outcome, energy=self._read(true_energy_mj(config))), where

    def compare(self, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        type(self).asked += (len(configs),)
        found = super().compare(study, configs)
        return [
            replace(timing, energy=self._read(1.01 * true_energy_mj(config)))
            for timing, config in zip(found, configs, strict=True)
        ]

    def _read(self, energy_mj: float) -> Energy:
        return Energy(energy_mj=energy_mj, source="counter", launches=100, seconds=1.0)
