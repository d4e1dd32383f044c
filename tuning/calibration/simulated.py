"""A machine with known figures and parameters, on which the whole command can be run dry."""

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sim import Gpu, PricedTable, price
from sim.calibration.unknowns import Machine
from sim.parameters import TEMPLATES
from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem

__all__ = ["SimulatedMachine"]

#: Spread of its timings, in log.
NOISE = 0.02
#: How its figures stand to the GPU file's, and its parameters to the defaults.
FIGURES = {"sustained_clock_mhz": 0.93, "dram_read_gb_per_s": 1.04, "l2_read_gb_per_s": 0.8}
PARAMETERS = {"drain_clk": 1.3, "cta_clk": 0.8, "loop_instructions": 1.2, "epilogue_clk": 1.3}


class SimulatedMachine:
    """Answers as a board would whose cost is the model's own, under other constants."""

    def __init__(self, gpu: Gpu, seed: int) -> None:
        figures = {name: getattr(gpu, name) * factor for name, factor in FIGURES.items()}
        self.machine = Machine(
            gpu=replace(gpu, **figures),
            templates={
                name: record().scaled({p: f for p, f in PARAMETERS.items() if p in record.names()})
                for name, record in TEMPLATES.items()
            },
        )
        self._seed = seed

    def price(
        self,
        problem: Problem,
        kernel: Kernel,
        table: ConfigTable,
        gpu: Gpu,
        facts: Mapping[int, CompileFacts] | None = None,
    ) -> PricedTable:
        """Like :func:`sim.price`: the machine's times, with noise."""
        priced = price(
            problem, kernel, table, self.machine.gpu, facts, parameters=self.machine.templates
        )
        key = zlib.crc32(f"{problem} {kernel.name}".encode())
        noise = np.random.default_rng([self._seed, key]).normal(size=len(priced))
        factor = np.exp(NOISE * noise)
        return replace(
            priced,
            time_us=priced.time_us * factor,
            low_us=priced.low_us * factor,
            high_us=priced.high_us * factor,
        )
