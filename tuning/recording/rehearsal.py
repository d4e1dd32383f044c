"""A machine that measures nothing: times from the cost model under other constants, its own clock.

A recording runs against it through the very code that runs on the GPU; its clock advances by what
measuring would take, so a rehearsal says which part of a design fits in so many minutes.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim import Gpu
from tiles.kernels import ConfigTable, Status, TileConfig
from tuning.bench import Measurable
from tuning.calibration.simulated import SimulatedMachine
from tuning.conditions import Conditions
from tuning.records import Environment, Measurement
from tuning.timer import GRAPH_BELOW_US, MIN_SAMPLES, fewest, operand_sets, sample_count

__all__ = ["Assumed", "Rehearsal"]

#: As :mod:`tuning.timer_cuda` warms a kernel of 50 us and more up, whatever the window.
WARM_UP_US = 20_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the parts of a measurement are taken to last; seconds.

    ``open``, ``host`` and ``again`` are what trials of two sets of sweeps on H200s (2451 and 347)
    took from begin to end, less their samples, flushes and warm-up: 15 and 18 ms at the median,
    17 and 22 ms the mean of the four fifths below 150 ms (the others waited for a compiler), 0.26 s
    in all for a study's first; of kernels of 50 us and more 25 and 52 % were sampled again.
    """

    start: float = 25.0  #: processes, imports, the first context
    open: float = 0.3  #: operands of a problem, and its reference
    host: float = 0.02  #: messages, capture of a graph, sensors: beside the device's work
    again: float = 0.4  #: of long kernels' samples, since the clock moved between them
    copied: float = 90e-6  #: a further set of operands, and its launch in the graph
    #: One configuration on one CPU: Triton's took 0.3 to 2.9 s on a server, NVRTC's 0.2 to 0.7.
    compile: float = 0.9
    flush: float = 110e-6  #: overwriting the L2 before a sample
    compilers: int = 12  #: processes that compile ahead


class Rehearsal:
    """Answers as a bench would, for a simulated machine.

    Args:
        sampling_ms: as the recording's.
    """

    def __init__(
        self, gpu: Gpu, seed: int, *, sampling_ms: float, assumed: Assumed | None = None
    ) -> None:
        self._machine, self._gpu, self._seed = SimulatedMachine(gpu, seed), gpu, seed
        self._sampling_us = sampling_ms * 1e3
        self._assumed = assumed or Assumed()
        self.now = 0.0  #: seconds on its own clock
        self.stalled = 0.0  #: of them, those in which a compiler was waited for
        self._compiled_at: dict[tuple[str, TileConfig], float] = {}
        self._compiler_free = 0.0
        self._open = ""

    def clock(self) -> float:
        """Seconds on the machine's own clock."""
        return self.now

    def start(self, studies: Sequence[Measurable]) -> None:
        """Take as long as processes take to start."""
        self.now += self._assumed.start
        self._compiler_free = self.now

    def announce(
        self, study: Measurable, configs: Sequence[TileConfig], urgent: bool = True
    ) -> None:
        """Queue compilations; extents are arguments, so other shapes find the binary there."""
        for config in configs:
            key = f"{study.plan.kernel} {study.plan.problem.formats}", config
            if key not in self._compiled_at:
                begin = max(self._compiler_free, self.now)
                self._compiler_free = begin + self._assumed.compile / self._assumed.compilers
                self._compiled_at[key] = self._compiler_free

    def environment(self, study: Measurable) -> Environment:
        """Nowhere."""
        return Environment(
            gpu=f"simulated {self._gpu.title}", driver="none", sm_clock_mhz=None, versions={}
        )

    def measure(
        self,
        study: Measurable,
        config: TileConfig,
        environment: bool,
        *,
        checked: bool = False,
        cache: str | None = None,
    ) -> tuple[Measurement, Environment | None]:
        """A time with noise, and as long on the clock as the samples would take."""
        problem, kernel = study.plan.problem, study.kernel
        priced = self._machine.price(problem, kernel, ConfigTable.of([config]), self._gpu)
        key = f"{problem} {config} {checked} {cache}"
        rng = np.random.default_rng([self._seed, zlib.crc32(key.encode())])
        time_us = float(priced.time_us[0])
        count = sample_count(time_us, self._sampling_us, fewest(self._sampling_us, MIN_SAMPLES))
        samples = tuple((time_us * np.exp(rng.normal(0.0, 0.01, count))).round(3).tolist())
        self._pass_time(study, config, time_us, count, checked)
        return (
            Measurement(
                status=Status.CORRECT,
                simulated=True,
                time_us=float(np.median(samples)),
                samples_us=samples,
                timing="simulated",
                conditions=Conditions(
                    source="simulated", sm_clock_mhz=(round(self._gpu.sustained_clock_mhz),)
                ),
            ),
            None,
        )

    def _pass_time(
        self, study: Measurable, config: TileConfig, time_us: float, count: int, checked: bool
    ) -> None:
        of = self._assumed
        ready = self._compiled_at.get(
            (f"{study.plan.kernel} {study.plan.problem.formats}", config), 0.0
        )
        if ready > self.now and not checked:
            self.stalled += ready - self.now
            self.now = ready
        key = f"{study.plan.problem} {study.plan.kernel}"
        if key != self._open:
            self._open = key
            self.now += of.open
        long = time_us >= GRAPH_BELOW_US
        sets = 1 if long else operand_sets(study.plan.problem.min_bytes, self._gpu.l2_bytes)
        samples_s = count * (time_us * 1e-6 + of.flush * long) * (1 + of.again * long)
        warm_up_s = max(WARM_UP_US if long else self._sampling_us, 3 * time_us) * 1e-6
        self.now += of.host + of.copied * sets + samples_s + warm_up_s
        self.now += 0 if checked else 3 * time_us * 1e-6  # the launch whose answer is judged
