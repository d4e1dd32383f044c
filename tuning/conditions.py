"""Under what conditions samples were taken: clock, power, temperature, company on the GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Conditions", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a GPU's sensors say at one moment; None where one does not answer."""

    sm_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttled: tuple[str, ...] = ()  #: why the clock is held down: "power cap", "heat", ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Sensors beside a measurement's samples: readings under load, evenly among the samples."""

    source: str  #: "nvml" or "nvidia-smi"
    sm_clock_mhz: tuple[int, ...] = ()
    power_w: tuple[float, ...] = ()
    temperature_c: tuple[int, ...] = ()
    throttled: tuple[str, ...] = ()  #: every reason that a reading gave
    repeats: int = 0  #: times that the samples were thrown away and taken again
    thrown_away: tuple[str, ...] = ()  #: what disturbed them, one reason a repeat
    disturbed: str = ""  #: what still disturbed the samples that are kept
    company_watched: bool = True  #: False where another process would not have been noticed

    @classmethod
    def of(
        cls,
        source: str,
        readings: Sequence[Reading],
        *,
        thrown_away: Sequence[str],
        disturbed: str,
        company_watched: bool,
    ) -> "Conditions":
        """Summarise readings in the order taken."""
        return cls(
            source=source,
            sm_clock_mhz=tuple(r.sm_clock_mhz for r in readings if r.sm_clock_mhz is not None),
            power_w=tuple(round(r.power_w, 1) for r in readings if r.power_w is not None),
            temperature_c=tuple(r.temperature_c for r in readings if r.temperature_c is not None),
            throttled=tuple(sorted({reason for r in readings for reason in r.throttled})),
            repeats=len(thrown_away),
            thrown_away=tuple(thrown_away),
            disturbed=disturbed,
            company_watched=company_watched,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Conditions":
        """Read what ``dataclasses.asdict`` wrote; earlier versions kept no reasons."""
        lists = ("sm_clock_mhz", "power_w", "temperature_c", "throttled", "thrown_away")
        return cls(**{**data, **{name: tuple(data.get(name, ())) for name in lists}})
