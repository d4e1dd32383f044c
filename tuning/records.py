"""What happened: to a configuration, in a study, in a run.  Everything that a sweep stores."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.kernels import Accuracy, Status, TileConfig
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem
from tuning.conditions import Conditions
from tuning.energy import Energy
from tuning.objective import Objective

if TYPE_CHECKING:
    from sim import Gpu

__all__ = ["Environment", "Measurement", "Run", "StudyRecord", "TrialRecord"]

#: Fields of a measurement that early journals lack.
_LATER = ("conditions", "facts", "doubtful", "energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and with what something was measured; without it a number is not a result."""

    gpu: str  #: device name as the driver gives it
    driver: str
    sm_clock_mhz: int | None  #: clock read while under load, when NVML answers
    versions: Mapping[str, str]  #: python, torch, triton, cuda, nvrtc, cupy, numpy, ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {**asdict(self), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Environment":
        """Read what :meth:`to_dict` wrote."""
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The outcome of one configuration.  ``simulated`` outcomes come from the cost model alone."""

    status: Status
    simulated: bool
    reason: str = ""  #: why it is not CORRECT
    time_us: float | None = None  #: median of the samples; set only when CORRECT
    samples_us: tuple[float, ...] = ()  #: raw samples, in the order taken
    timing: str = ""  #: "events-cold", "graph-rotate", "simulated": how it was timed
    accuracy: Accuracy | None = None
    conditions: Conditions | None = None  #: None when nothing read the sensors
    facts: CompileFacts | None = None  #: None when nothing was compiled ahead
    doubtful: bool = False  #: failed, but a neighbour may have caused it: not remembered elsewhere
    energy: Energy | None = None  #: None where time is searched for, or nothing read it

    @property
    def iqr_us(self) -> float | None:
        """Interquartile range of the samples."""
        if len(self.samples_us) < 4:
            return None
        ordered = sorted(self.samples_us)
        return ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        content = asdict(self) | {"status": self.status.value, "samples_us": list(self.samples_us)}
        # Of what came later than the first journals, only what there is.
        return {k: v for k, v in content.items() if v or k not in _LATER}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Measurement":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: a time that no clock gives.
        """
        time_us = data["time_us"]
        if time_us is not None and not 0 < time_us < math.inf:
            raise ValueError(f"time_us is {time_us}: a time is above 0 and finite")
        accuracy, conditions = data["accuracy"], data.get("conditions")
        facts, energy = data.get("facts"), data.get("energy")
        return cls(
            status=Status(data["status"]),
            simulated=data["simulated"],
            reason=data["reason"],
            time_us=time_us,
            samples_us=tuple(data["samples_us"]),
            timing=data["timing"],
            accuracy=None if accuracy is None else Accuracy(**accuracy),
            conditions=None if conditions is None else Conditions.from_dict(conditions),
            facts=None if facts is None else CompileFacts.from_dict(facts),
            doubtful=data.get("doubtful", False),
            energy=None if energy is None else Energy.from_dict(energy),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One finished trial: what was predicted beside what was measured."""

    config: TileConfig
    measurement: Measurement
    predicted_us: float
    predicted_low_us: float  #: lower end of the 90 % interval
    predicted_high_us: float  #: upper end of the 90 % interval
    stale: str = ""  #: why it may not win: other trials of its study were measured again later
    #: Above 0 it may not win: others were better, and took turns since.  Its own time, or energy,
    #: times this can be set against theirs.
    outpaced: float = 0.0
    predicted_energy_mj: float | None = None  #: stored where energy is searched for

    @property
    def lost(self) -> bool:
        """True when it may not win, whatever its time."""
        return bool(self.stale or self.outpaced)

    def beside_turns(self, value: float) -> float:
        """Its own time, or energy, as it can be set against those that were taken in turns."""
        return value * (self.outpaced or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """One problem with one kernel family on one GPU."""

    problem: Problem
    kernel: str
    gpu: str  #: name of the GPU file
    path: str  #: "native" or "emulated"
    simulated: bool
    environment: Environment | None  #: None when simulated, or when nothing was timed yet
    space_size: int  #: configurations enumerated, legal or not
    legal_size: int
    rejected_by_rule: Mapping[str, int]
    stopped: str  #: why the search ended; empty while it has not
    not_compared: str  #: why near-ties were not timed in turns, and how many; empty when all were
    trials: tuple[TrialRecord, ...]  #: finished ones, in the order taken
    source: str = ""  #: SHA-256 of the kernel source that was measured; empty in the oldest runs
    repeats: int = 0  #: trials of a configuration that another trial had measured
    objective: Objective = Objective.TIME  #: what the winner has the least of

    @property
    def best(self) -> TrialRecord | None:
        """The CORRECT trial with the least time, or energy, that still counts."""
        best, least = None, math.inf
        for trial in self.trials:
            value = None if trial.lost else self.objective.of(trial.measurement)
            if value is not None and value < least:
                best, least = trial, value
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder read back: the plan as stored, and its studies in the plan's order."""

    folder: Path
    plan: Mapping[str, Any]
    gpu: "Gpu"  #: read from the file that the folder keeps
    studies: tuple[StudyRecord, ...]  #: those that were started
