"""What happened to a configuration: the record that every sweep stores."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tiles.kernels import Accuracy, Status

__all__ = ["Environment", "Measurement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and with what something was measured; without it a number is not a result."""

    gpu: str  #: device name as the driver gives it
    driver: str
    sm_clock_mhz: int | None  #: clock read while under load, when NVML answers
    versions: Mapping[str, str]  #: python, torch, triton, cuda, cupy, numpy, tile-workbench

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {**asdict(self), "versions": dict(self.versions)}


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

    @property
    def iqr_us(self) -> float | None:
        """Interquartile range of the samples."""
        if len(self.samples_us) < 4:
            return None
        ordered = sorted(self.samples_us)
        return ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {
            **asdict(self),
            "status": self.status.value,
            "samples_us": list(self.samples_us),
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Measurement":
        """Read what :meth:`to_dict` wrote."""
        accuracy = data["accuracy"]
        return cls(
            status=Status(data["status"]),
            simulated=data["simulated"],
            reason=data["reason"],
            time_us=data["time_us"],
            samples_us=tuple(data["samples_us"]),
            timing=data["timing"],
            accuracy=None if accuracy is None else Accuracy(**accuracy),
        )
