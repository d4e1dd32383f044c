"""What a launch takes from the board's supply, as it is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Energy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What one launch takes from the board's supply."""

    energy_mj: float  #: millijoules
    source: str  #: "counter", "power" (mean power times time) or "simulated"
    launches: int = 0  #: that it rests on; 0 when simulated
    seconds: float = 0.0  #: that they took
    disturbed: str = ""  #: what another process did on the GPU meanwhile

    @property
    def power_w(self) -> float | None:
        """Mean power; None when simulated."""
        if not self.seconds:
            return None
        return self.energy_mj * self.launches / self.seconds / 1e3

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Energy":
        """Read what :meth:`to_dict` wrote."""
        return cls(**data)
