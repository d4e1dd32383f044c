"""Samples that were disturbed are taken again, a few times; what disturbed them is told."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean

from tuning.conditions import Conditions, Reading
from tuning.observers import Observer
from tuning.timer import Meanwhile, Timer
from tuning.timing import Look, sample_in_turns

__all__ = ["guarded_samples", "guarded_turns"]

#: Times that disturbed samples are thrown away at most.
REPEATS = 2
#: A clock that moves by more than this share between readings makes samples incomparable.
CLOCK_SHARE = 0.04
#: The same of rivals in turns: of one rival's clock relative to the round's.  At the power limit
#: clocks of all wander together, and single readings of near-ties differed by up to 7 % (H200).
TURN_SHARE = 0.08
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
    (found,) = _guarded(lambda look: [_in_parts(timer, partial(look, 0))], 1, observer, _moved)
    return found


def guarded_turns(
    timers: Sequence[Timer], observer: Observer | None
) -> list[tuple[list[float], Conditions | None]]:
    """The same of rivals that take turns: what disturbs one of them has all sampled again.

    A clock that moves for all of them is no disturbance: that is what turns are for.
    """
    if observer is None:
        return [(samples, None) for samples in sample_in_turns(timers)]
    return _guarded(
        lambda look: sample_in_turns(timers, look=look), len(timers), observer, _moved_apart
    )


def _guarded(
    take: Callable[[Look], list[list[float]]],
    rivals: int,
    observer: Observer,
    moved: Callable[[list[list[Reading]]], str],
) -> list[tuple[list[float], Conditions | None]]:
    observer.company()  # what went on before is another measurement's
    thrown_away: list[str] = []
    while True:
        readings: list[list[Reading]] = [[] for _ in range(rivals)]
        samples = take(partial(_look, observer, readings))
        disturbed = observer.company() or moved(readings)
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


def _moved(readings: list[list[Reading]]) -> str:
    """Of one contender: whether its clock moved."""
    clocks = [r.sm_clock_mhz for read in readings for r in read if r.sm_clock_mhz is not None]
    if not clocks or max(clocks) - min(clocks) <= CLOCK_SHARE * max(clocks):
        return ""
    return f"the SM clock moved between {min(clocks)} and {max(clocks)} MHz"


def _moved_apart(readings: list[list[Reading]]) -> str:
    """Of rivals: whether one's clock moved in a round and the others' did not."""
    clocks = [[r.sm_clock_mhz for r in read] for read in readings]
    rounds = [[mhz for mhz in turn if mhz is not None] for turn in zip(*clocks, strict=True)]
    if not rounds or any(len(turn) < len(readings) for turn in rounds):
        return ""  # the sensor has gone
    for mine in clocks:
        known = [mhz for mhz in mine if mhz is not None]
        shares = [mhz / mean(turn) for mhz, turn in zip(known, rounds, strict=True)]
        if max(shares) - min(shares) > TURN_SHARE:
            return f"the SM clock moved between {min(known)} and {max(known)} MHz for one of them"
    return ""
