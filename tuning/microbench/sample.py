"""What a microbenchmark's kernel said, case by case, before it means anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Sample", "samples_from", "samples_to"]

Case = Mapping[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Repeats of one case.  Which of the lists are filled is the benchmark's matter."""

    case: Case  #: what was launched: bytes, multiprocessors, element ...
    work: float  #: bytes, operations, launches or steps of one repeat
    ns: tuple[float, ...] = ()  #: time of each repeat, in nanoseconds
    clocks: tuple[float, ...] = ()  #: the longest span of a multiprocessor, in its clocks
    mhz: tuple[float, ...] = ()  #: SM clock, as NVML says it
    watts: tuple[float, ...] = ()  #: power, as NVML says it


def samples_to(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """JSON-ready list, inverse of :func:`samples_from`."""
    return [
        {
            "case": dict(one.case),
            "work": one.work,
            **{
                name: list(getattr(one, name))
                for name in ("ns", "clocks", "mhz", "watts")
                if getattr(one, name)
            },
        }
        for one in samples
    ]


def samples_from(data: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Read what :func:`samples_to` wrote."""
    return [
        Sample(
            case=one["case"],
            work=one["work"],
            **{name: tuple(one.get(name, ())) for name in ("ns", "clocks", "mhz", "watts")},
        )
        for one in data
    ]
