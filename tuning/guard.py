"""Samples that were disturbed are taken again, a few times; what disturbed them is told."""

from collections.abc import Callable, Sequence
from functools import partial

from tuning.conditions import Conditions, Reading
from tuning.observers import Observer
from tuning.timing import Look, Meanwhile, Timer, sample_in_turns

__all__ = ["guarded_samples", "guarded_turns"]

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
    (found,) = _guarded(lambda look: [_in_parts(timer, partial(look, 0))], 1, observer)
    return found


def guarded_turns(
    timers: Sequence[Timer], observer: Observer | None
) -> list[tuple[list[float], Conditions | None]]:
    """The same of rivals that take turns: what disturbs one of them has all sampled again."""
    if observer is None:
        return [(samples, None) for samples in sample_in_turns(timers)]
    return _guarded(lambda look: sample_in_turns(timers, look=look), len(timers), observer)


def _guarded(
    take: Callable[[Look], list[list[float]]], rivals: int, observer: Observer
) -> list[tuple[list[float], Conditions | None]]:
    observer.company()  # what went on before is another measurement's
    thrown_away: list[str] = []
    while True:
        readings: list[list[Reading]] = [[] for _ in range(rivals)]
        samples = take(partial(_look, observer, readings))
        disturbed = observer.company() or next(filter(None, map(_moved, readings)), "")
        if not disturbed or len(thrown_away) == REPEATS:
            return [
                (
                    taken,
                    Conditions.of(
                        observer.source,
                        read,
                        thrown_away=thrown_away,
                        disturbed=disturbed,
                        company_watched=observer.watches_company,
                    ),
                )
                for taken, read in zip(samples, readings, strict=True)
            ]
        thrown_away.append(disturbed)


def _look(observer: Observer, readings: list[list[Reading]], rival: int) -> None:
    readings[rival].append(observer.read())


def _in_parts(timer: Timer, look: Meanwhile) -> list[float]:
    """All samples, a reading of the sensors under each part of them."""
    samples: list[float] = []
    for part in range(PARTS):
        count = timer.samples * (part + 1) // PARTS - timer.samples * part // PARTS
        if count:
            samples += timer.sample(count, look)
    return samples


def _moved(readings: list[Reading]) -> str:
    clocks = [r.sm_clock_mhz for r in readings if r.sm_clock_mhz is not None]
    if not clocks or max(clocks) - min(clocks) <= CLOCK_SHARE * max(clocks):
        return ""
    return f"the SM clock moved between {min(clocks)} and {max(clocks)} MHz"
