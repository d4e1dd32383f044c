"""A study as the site's pages and its data hold it, and every timing beside its prediction."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tuning import Run, StudyRecord
from tuning.staleness import host_environment, staleness

__all__ = ["SiteStudy", "Timing", "studies_of", "timings_of"]

#: What of an environment's versions a time depends on.
_VERSIONS = ("triton", "torch", "cupy", "cuda", "nvrtc")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStudy:
    """One problem with one kernel family in one run; plain values, as the site's JSON has them."""

    run: str  #: the run's name in the project folder
    page: str  #: its page, relative to the site
    problem: str
    kernel: str
    gpu: str  #: name of the GPU file
    device: str  #: as the driver calls it; empty when nothing was measured
    software: str  #: driver and versions; empty when nothing was measured
    path: str  #: "native" or "emulated"
    simulated: bool
    finished: bool
    trials: int
    stale: str  #: why its results do not hold any more; empty while they do
    config: str  #: of the winner; empty without one
    measured_us: float | None  #: None where simulated, and without a winner
    iqr_us: float | None  #: of the winner's samples
    predicted_us: float | None  #: what the model said of the winner
    predicted_low_us: float | None  #: lower end of the 90 % interval
    predicted_high_us: float | None
    flops: int
    min_bytes: int

    @property
    def key(self) -> tuple[str, str, str, str, bool]:
        """What makes it the same study the next time."""
        return self.run, self.gpu, self.problem, self.kernel, self.simulated

    @property
    def time_us(self) -> float | None:
        """The winner's time of the study's kind: predicted where simulated, measured elsewhere."""
        return self.predicted_us if self.simulated else self.measured_us

    @property
    def rate(self) -> str | None:
        """Throughput at that time: TFLOP/s of products, GB/s of what has none."""
        if self.time_us is None:
            return None
        if self.flops:
            return f"{self.flops / self.time_us / 1e6:.0f} TFLOP/s"
        return f"{self.min_bytes / self.time_us / 1e3:.0f} GB/s"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SiteStudy":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        known = {field.name: field.type for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != set(known):
            raise ValueError("a study has other fields than those of this version")
        for name, kind in known.items():
            if not isinstance(data[name], kind):  # type: ignore[arg-type]  # classes and unions
                raise ValueError(f"{name} of a study is {type(data[name]).__name__}")
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One configuration that was measured, beside what was predicted of it."""

    run: str
    gpu: str
    kernel: str
    problem: str
    config: str
    measured_us: float
    predicted_us: float
    predicted_low_us: float
    predicted_high_us: float

    @property
    def ratio(self) -> float:
        """Measured over predicted: above 1, slower than foretold."""
        return self.measured_us / self.predicted_us


def studies_of(run: Run, name: str, page: str) -> list[SiteStudy]:
    """Every study of a run that was started.

    Args:
        name: the run's name in the project folder.
        page: its page, relative to the site.
    """
    here = host_environment()
    return [_study(study, name, page, staleness(study, here)) for study in run.studies]


def _study(study: StudyRecord, name: str, page: str, stale: list[str]) -> SiteStudy:
    best = study.best
    environment = study.environment
    software = ""
    if environment is not None:
        known = [
            f"{key} {environment.versions[key]}"
            for key in _VERSIONS
            if environment.versions.get(key)
        ]
        software = ", ".join([f"driver {environment.driver}", *known])
    return SiteStudy(
        run=name,
        page=page,
        problem=str(study.problem),
        kernel=study.kernel,
        gpu=study.gpu,
        device="" if environment is None else environment.gpu,
        software=software,
        path=study.path,
        simulated=study.simulated,
        finished=bool(study.stopped),
        trials=len(study.trials),
        stale=", ".join(stale) if study.trials else "",
        config="" if best is None else str(best.config),
        measured_us=None if best is None or study.simulated else best.measurement.time_us,
        iqr_us=None if best is None else best.measurement.iqr_us,
        predicted_us=None if best is None else best.predicted_us,
        predicted_low_us=None if best is None else best.predicted_low_us,
        predicted_high_us=None if best is None else best.predicted_high_us,
        flops=study.problem.flops,
        min_bytes=study.problem.min_bytes,
    )


def timings_of(run: Run, name: str) -> Iterator[Timing]:
    """Everything of a run that was measured; what was simulated has nothing to hold against."""
    for study in run.studies:
        for trial in study.trials:
            time_us = trial.measurement.time_us
            simulated = study.simulated or trial.measurement.simulated
            if simulated or time_us is None or trial.predicted_us <= 0:
                continue
            yield Timing(
                run=name,
                gpu=study.gpu,
                kernel=study.kernel,
                problem=str(study.problem),
                config=str(trial.config),
                measured_us=time_us,
                predicted_us=trial.predicted_us,
                predicted_low_us=trial.predicted_low_us,
                predicted_high_us=trial.predicted_high_us,
            )
