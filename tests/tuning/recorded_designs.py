"""Designs of a handful of fake configurations, and a machine that measures them at once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import fake_kernels

from tiles.kernels import Status, TileConfig
from tiles.kernels.closure import source_digest
from tuning.bench import Measurable
from tuning.plan import StudyPlan
from tuning.recording.design import Design, RecordedStudy
from tuning.records import Environment, Measurement

FINE = "fake_kernels:FineKernel"


def config(size: int, mode: str = "fine") -> fake_kernels.FakeConfig:
    return fake_kernels.FakeConfig(mode=fake_kernels.MODES.index(mode), size=size, flag=False)


def fake_design(
    studies: int = 3, sizes: Sequence[int] = (16, 32, 64, 128), kernel: str = FINE
) -> Design:
    return Design(
        gpu=fake_kernels.GPU.name,
        gpu_sha256=hashlib.sha256(fake_kernels.GPU.text.encode()).hexdigest(),
        seed=0,
        sources={kernel: source_digest(Path(fake_kernels.__file__))},
        studies=tuple(
            RecordedStudy(
                plan=StudyPlan(problem=fake_kernels.gemm(m=64 * (place + 1)), kernel=kernel),
                part="products",
                cache="cold",
                legal_size=len(sizes),
                configs=tuple(config(size) for size in sizes),
            )
            for place in range(studies)
        ),
    )


class Desk:
    """Measures by a rule, a second of its own clock each, and remembers what it was asked."""

    def __init__(self, failing: int | None = None) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, int, bool]] = []  # rows, size, checked
        self.announced: list[tuple[str, list[int]]] = []  # rows, sizes
        self._failing = failing

    def clock(self) -> float:
        return self.now

    def start(self, studies: Sequence[Measurable]) -> None:
        pass

    def announce(
        self, study: Measurable, configs: Sequence[TileConfig], urgent: bool = True
    ) -> None:
        sizes = [one.to_dict()["size"] for one in configs]
        self.announced.append((str(study.plan.problem.shape[0]), sizes))

    def environment(self, study: Measurable) -> Environment:
        return Environment(gpu="desk", driver="1", sm_clock_mhz=None, versions={"torch": "2"})

    def measure(
        self,
        study: Measurable,
        config: TileConfig,
        environment: bool,
        *,
        checked: bool = False,
        cache: str | None = None,
    ) -> tuple[Measurement, Environment | None]:
        self.now += 1.0
        size = config.to_dict()["size"]
        self.asked.append((str(study.plan.problem.shape[0]), size, checked))
        if size == self._failing:
            return Measurement(status=Status.RUNTIME, simulated=False, reason="it fell over"), None
        time_us = float(size) * (1.02 if checked else 1.0)
        return (
            Measurement(
                status=Status.CORRECT,
                simulated=False,
                time_us=time_us,
                samples_us=(time_us - 1, time_us, time_us, time_us + 1),
                timing="host",
            ),
            None,
        )
