"""What a sweep is asked to do."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.kernels.closure import source_digest
from tiles.problems import Problem, parse_problem
from tuning.family import family
from tuning.objective import OBJECTIVE, Objective, objective_of

if TYPE_CHECKING:
    from sim import Gpu
    from sim.calibration import Calibration

__all__ = ["PLAN_SCHEMA", "Plan", "Strategy", "StudyPlan"]

PLAN_SCHEMA = "tile-workbench/plan/1"

MAX_MEASUREMENTS = 1_000_000  #: of one study
#: Characters of a study's name in optuna's tables.
MAX_SHARED_NAME = 512


class Strategy(Enum):
    """Who chooses the next configuration to measure."""

    HYBRID = "hybrid"  #: the model's best, then the model set right, until improvement is unlikely
    MODEL = "model"  #: the model's best, in its order
    TPE = "tpe"  #: TPE alone, without the model's advice
    RANDOM = "random"  #: uniformly among the legal configurations
    STRATIFIED = "stratified"  #: spread over tiles, stages and predicted times; for calibration
    EXHAUSTIVE = "exhaustive"  #: every legal configuration, the model's best first


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """One problem searched with one kernel family."""

    problem: Problem
    kernel: str  #: a registered family's name, or ``module:attribute`` of a Kernel

    def to_dict(self) -> dict[str, str]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {"problem": str(self.problem), "kernel": self.kernel}

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> "StudyPlan":
        """Read what :meth:`to_dict` wrote."""
        return cls(problem=parse_problem(data["problem"]), kernel=data["kernel"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A sweep: studies on one GPU, how they are searched, and where the record is kept."""

    studies: tuple[StudyPlan, ...]
    gpu: "Gpu"
    folder: Path
    strategy: Strategy = Strategy.HYBRID
    max_measurements: int = 32  #: finished trials of one study; no limit for ``exhaustive``
    time_limit_s: float | None = None  #: of the whole sweep, shared fairly among its studies
    seed: int = 0
    simulate: bool = False  #: times are the model's predictions; no worker is started
    cache: str = "cold"  #: "cold" (L2 emptied before every launch) or "warm"
    #: What predictions rest on beside the GPU's file; None: on nothing else.
    calibration: "Calibration | None" = None
    objective: Objective = Objective.TIME  #: what the winners have the least of
    shared_name: str = ""  #: of the sweep in a shared storage; empty when a folder keeps the record

    def __post_init__(self) -> None:
        if not self.studies:
            raise ValueError("the plan has no studies: name at least one problem and kernel")
        if not 1 <= self.max_measurements <= MAX_MEASUREMENTS:
            raise ValueError(
                f"max_measurements = {self.max_measurements}: must be at least 1 and at most "
                f"{MAX_MEASUREMENTS}"
            )
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ValueError(f"time_limit_s = {self.time_limit_s}: must be positive")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: must lie in 0..2^32-1")
        if self.cache not in ("cold", "warm"):
            raise ValueError(f"cache = {self.cache!r}: choose cold or warm")
        if "|" in self.shared_name or not self.shared_name.isprintable():
            raise ValueError(
                f"study name {self.shared_name!r:.80}: write it without | and controls"
            )
        seen: set[str] = set()
        for study in self.studies:
            name = self.study_name(study)
            if name in seen:
                raise ValueError(f"study {name} is planned twice: remove one")
            if self.shared_name and len(name) > MAX_SHARED_NAME:
                raise ValueError(
                    f"study name {self.shared_name!r:.80}: with problem, kernel and GPU these are "
                    f"{len(name)} characters, more than {MAX_SHARED_NAME}: choose a shorter one"
                )
            seen.add(name)

    def study_name(self, study: StudyPlan) -> str:
        """The optuna study's name: problem, kernel family, GPU, simulated or measured.

        In a shared storage the sweep's name stands before them.
        """
        mode = "simulated" if self.simulate else "measured"
        name = f"{study.problem}|{study.kernel}|{self.gpu.name}|{mode}"
        return f"{self.shared_name}|{name}" if self.shared_name else name

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping of everything but the folder; what ``plan.json`` holds."""
        calibrated = (
            {} if self.calibration is None else {"calibration_sha256": self.calibration.digest}
        )
        # Plans for time are those of before there was another objective.
        searched = {} if self.objective is Objective.TIME else {OBJECTIVE: self.objective.value}
        return (
            calibrated
            | searched
            | {
                "schema": PLAN_SCHEMA,
                "gpu": self.gpu.name,
                # Another file of the same name is another sweep.
                "gpu_sha256": hashlib.sha256(self.gpu.text.encode()).hexdigest(),
                "simulate": self.simulate,
                "cache": self.cache,
                "strategy": self.strategy.value,
                "seed": self.seed,
                "max_measurements": self.max_measurements,
                "time_limit_s": self.time_limit_s,
                # Numbers of other source are another sweep's.
                "sources": {
                    name: source_digest(family(name).template)
                    for name in sorted({study.kernel for study in self.studies})
                },
                "studies": [study.to_dict() for study in self.studies],
            }
        )

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, gpu: "Gpu", folder: Path, shared_name: str = ""
    ) -> "Plan":
        """Read what :meth:`to_dict` wrote, with what it leaves out.

        Raises:
            ValueError: a value that no plan has.
        """
        return cls(
            studies=tuple(StudyPlan.from_dict(study) for study in data["studies"]),
            gpu=gpu,
            folder=folder,
            strategy=Strategy(data["strategy"]),
            max_measurements=data["max_measurements"],
            time_limit_s=data["time_limit_s"],
            seed=data["seed"],
            simulate=data["simulate"],
            cache=data["cache"],
            objective=objective_of(data),
            shared_name=shared_name,
        )
