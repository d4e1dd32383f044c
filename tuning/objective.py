"""What a search makes least: the time of a launch, or its energy."""

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tuning.energy import Energy

__all__ = ["OBJECTIVE", "Objective", "objective_of"]

#: Key of a plan that names the objective; plans without it search for time, as all once did.
OBJECTIVE = "objective"


class _Measured(Protocol):
    @property
    def time_us(self) -> float | None: ...
    @property
    def energy(self) -> "Energy | None": ...


class Objective(Enum):
    """What the winner of a study has the least of."""

    TIME = "time"
    ENERGY = "energy"

    @property
    def unit(self) -> str:
        """Of its values."""
        return "us" if self is Objective.TIME else "mJ"

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.1f} us" if self is Objective.TIME else f"{value:.4g} mJ"

    def of(self, outcome: _Measured) -> float | None:
        """Its value of an outcome; None where that was not correct, or lacks a reading."""
        if self is Objective.TIME:
            return outcome.time_us
        return None if outcome.energy is None else outcome.energy.energy_mj

    def of_stored(self, outcome: Mapping[str, Any]) -> float | None:
        """The same of an outcome as a journal holds it."""
        if self is Objective.TIME:
            found: float | None = outcome["time_us"]
            return found
        energy = outcome.get("energy")
        return None if energy is None else float(energy["energy_mj"])


def objective_of(plan: Mapping[str, Any]) -> Objective:
    """What a stored plan searches for.

    Raises:
        ValueError: an objective that this version does not know.
    """
    name = plan.get(OBJECTIVE, Objective.TIME.value)
    try:
        return Objective(name)
    except ValueError:
        known = " or ".join(one.value for one in Objective)
        raise ValueError(f"{OBJECTIVE} {name!r:.40} is not {known}") from None
