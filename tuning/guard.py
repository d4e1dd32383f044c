"""Samples that were disturbed are taken again, a few times; what disturbed them is told."""

from tuning.conditions import Conditions, Reading
from tuning.observers import Observer
from tuning.timing import Timer

__all__ = ["guarded_samples"]

#: Times that disturbed samples are thrown away at most.
REPEATS = 2
#: A clock that moves by more than this share between readings makes samples incomparable.
CLOCK_SHARE = 0.04
#: Parts that the samples are taken in, each with a reading under load.
PARTS = 4


def guarded_samples(
    timer: Timer, observer: Observer | None
) -> tuple[list[float], Conditions | None]:
    """A measurement's samples, and the conditions when somebody observes.

    Args:
        timer: warmed up.
        observer: None takes the samples once, unwatched.
    """
    if observer is None:
        return timer.sample(timer.samples), None
    observer.company()  # what went on before is another measurement's
    thrown_away: list[str] = []
    while True:
        samples, readings = _watched(timer, observer)
        disturbed = observer.company() or _moved(readings)
        if not disturbed or len(thrown_away) == REPEATS:
            return samples, Conditions.of(
                observer.source,
                readings,
                thrown_away=thrown_away,
                disturbed=disturbed,
                company_watched=observer.watches_company,
            )
        thrown_away.append(disturbed)


def _watched(timer: Timer, observer: Observer) -> tuple[list[float], list[Reading]]:
    """All samples, a reading of the sensors under each part of them."""
    readings: list[Reading] = []

    def look() -> None:
        readings.append(observer.read())

    samples: list[float] = []
    for part in range(PARTS):
        count = timer.samples * (part + 1) // PARTS - timer.samples * part // PARTS
        if count:
            samples += timer.sample(count, look)
    return samples, readings


def _moved(readings: list[Reading]) -> str:
    clocks = [r.sm_clock_mhz for r in readings if r.sm_clock_mhz is not None]
    if not clocks or max(clocks) - min(clocks) <= CLOCK_SHARE * max(clocks):
        return ""
    return f"the SM clock moved between {min(clocks)} and {max(clocks)} MHz"
