"""Recording within a time limit: studies in the design's order, passes interleaved, resumed.

Within a study all configurations are checked and timed once, then some of them (the model's best
and every sixth) again in reverse order, so that two passes of one lie apart and drift shows as the
spread between them.  Every pass is stored at once; whoever comes next measures what is missing.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from sim import Gpu
from tiles.kernels import Status, TileConfig
from tuning.bench import Bench, Measurable
from tuning.interrupts import Interrupts
from tuning.limits import JobLimits
from tuning.plan import Plan
from tuning.recording.design import Design, RecordedStudy
from tuning.recording.passes import Head, Pass, PassFile, read_passes
from tuning.recording.tables import config_of
from tuning.records import Environment, Measurement

__all__ = ["PASSES", "SAMPLING_MS", "Done", "Measuring", "Recorded", "done_passes", "record"]

#: Device time that samples of a pass cover, milliseconds: a sweep takes 100.
SAMPLING_MS = 5.0
PASSES = 2
#: Studies whose configurations are compiled ahead of their turn.
LOOK_AHEAD = 24
#: One configuration may not take the time of a hundred.
LIMITS = JobLimits(open_s=60.0, compile_s=60.0, check_s=30.0, time_s=10.0)

#: What a host that was busy, or a neighbour, may have caused.
_OF_THE_MOMENT = frozenset({Status.TIMEOUT, Status.RUNTIME})

#: Passes by study, configuration and number, with how they ended.
Done = dict[tuple[str, tuple[Any, ...], int], Status]


class Measuring(Protocol):
    """What measures: a :class:`tuning.bench.Bench`, or a rehearsal's machine."""

    def start(self, studies: Sequence[Measurable]) -> None: ...

    def announce(
        self, study: Measurable, configs: Sequence[TileConfig], urgent: bool = True
    ) -> None: ...

    def environment(self, study: Measurable) -> Environment: ...

    def measure(
        self,
        study: Measurable,
        config: TileConfig,
        environment: bool,
        *,
        checked: bool = False,
        cache: str | None = None,
    ) -> tuple[Measurement, Environment | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What one call came to."""

    passes: int  #: taken by this call
    failed: int  #: of them, those without a time
    studies: int  #: that this call measured in
    finished: bool  #: nothing of the process's share is left
    seconds: float
    opening_s: float | None = None  #: of a study's first pass, the median
    pass_s: float | None = None  #: of the others, the median


def done_passes(folder: Path, design: Design, *, simulated: bool) -> Done:
    """What is measured already of the sources that the design names.

    Raises:
        ValueError: a file is damaged, or measured and simulated passes would stand together.
    """
    done: Done = {}
    for head, passes in read_passes(folder):
        if head.simulated != simulated:
            raise ValueError(
                f"{folder} holds {'simulated' if head.simulated else 'measured'} passes: "
                "give rehearsals and recordings folders of their own"
            )
        for one in passes:
            study = design.by_key.get(one.study)
            if study is not None and design.sources[study.plan.kernel] == one.source:
                values = _values(config_of(study, one))
                done[one.study, values, one.number] = one.measurement.status
    return done


def record(
    design: Design,
    gpu: Gpu,
    folder: Path,
    *,
    time_limit_s: float,
    shard: tuple[int, int] = (0, 1),
    passes: int = PASSES,
    retry_failed: bool = False,
    sampling_ms: float = SAMPLING_MS,
    measuring: Measuring | None = None,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[RecordedStudy, int], None] = lambda study, taken: None,
) -> Recorded:
    """Measure what is missing, until the time is over.

    Args:
        folder: keeps the files of passes.
        time_limit_s: from the call on; starting the processes counts.
        shard: number of this process and of all that share the work; each takes every n-th study,
            so they never measure the same, however often they are stopped and whatever their
            number is later.
        passes: of the configurations that are repeated; a later call may ask for more.
        retry_failed: measure again what timed out or fell over: a busy host may have done that.
        measuring, clock: of a rehearsal; a bench on the GPU by default.
        progress: called when a study was left, with the passes taken in it.

    Raises:
        ValueError: no such device, another GPU, or a file in the folder is damaged.
    """
    begin = clock()
    number, count = shard
    simulated = measuring is not None
    done = done_passes(folder, design, simulated=simulated)
    if retry_failed:
        done = {key: status for key, status in done.items() if status not in _OF_THE_MOMENT}
    mine = [one for place, one in enumerate(design.studies) if place % count == number]
    left = [one for one in mine if _unfinished(one, done, passes)]
    taken: defaultdict[str, int] = defaultdict(int)
    failed = 0
    opened: list[float] = []
    rest: list[float] = []
    finished = not left
    if left:
        with ExitStack() as stack:
            interrupts = stack.enter_context(Interrupts())
            if measuring is None:
                plan = Plan(studies=(left[0].plan,), gpu=gpu, folder=folder, seed=design.seed)
                measuring = stack.enter_context(
                    Bench(plan, LIMITS, None, interrupts, sampling_us=sampling_ms * 1e3)
                )
            measuring.start(left)
            head = Head(
                gpu=gpu.name,
                simulated=simulated,
                sampling_ms=sampling_ms,
                begun=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                shard=f"{number}/{count}",
                environment=measuring.environment(left[0]),
            )
            file = PassFile(folder, f"{head.begun.replace(':', '')}-{number}-{os.getpid()}", head)
            stack.callback(file.close)
            slice_ = _Slice(design, measuring, file, done, interrupts, clock, begin + time_limit_s)
            for ahead in left[:LOOK_AHEAD]:
                measuring.announce(ahead, _unfinished(ahead, done, passes), False)
            for place, study in enumerate(left):
                for ahead in left[place + LOOK_AHEAD : place + LOOK_AHEAD + 1]:
                    measuring.announce(ahead, _unfinished(ahead, done, passes), False)
                before = file.count
                finished = slice_.measure(study, passes)
                taken[study.key] = file.count - before
                progress(study, taken[study.key])
                if not finished:
                    break
            failed, opened, rest = slice_.failed, slice_.opened, slice_.rest
    return Recorded(
        passes=sum(taken.values()),
        failed=failed,
        studies=sum(1 for some in taken.values() if some),
        finished=finished,
        seconds=clock() - begin,
        opening_s=median(opened) if opened else None,
        pass_s=median(rest) if rest else None,
    )


def _values(config: TileConfig) -> tuple[Any, ...]:
    return tuple(config.to_dict().values())


def _unfinished(study: RecordedStudy, done: Done, passes: int) -> list[TileConfig]:
    """Configurations of which some pass is neither taken nor in vain."""
    repeated = set(study.repeated)

    def missing(config: TileConfig) -> bool:
        values = _values(config)
        first = done.get((study.key, values, 0))
        if first is not Status.CORRECT or config not in repeated:
            return first is None
        return any((study.key, values, number) not in done for number in range(1, passes))

    return [config for config in study.configs if missing(config)]


class _Slice:
    """The part of a recording that one call measures."""

    def __init__(
        self,
        design: Design,
        measuring: Measuring,
        file: PassFile,
        done: Done,
        interrupts: Interrupts,
        clock: Callable[[], float],
        end: float,
    ) -> None:
        self._design = design
        self._measuring = measuring
        self._file = file
        self._done = done
        self._interrupts = interrupts
        self._clock = clock
        self._end = end
        self.failed = 0
        #: Seconds of the first pass of every study, and of the others.
        self.opened: list[float] = []
        self.rest: list[float] = []

    def measure(self, study: RecordedStudy, passes: int) -> bool:
        """Take a study's missing passes; False when the time was over before the last one."""
        seconds = self.opened
        for number in range(passes):
            # There and back: what drifts meanwhile touches early and late ones alike.
            configs = study.repeated if number else study.configs
            for config in configs if number % 2 == 0 else reversed(configs):
                key = study.key, _values(config), number
                first = self._done.get((study.key, key[1], 0))
                if key in self._done or (number and first is not Status.CORRECT):
                    continue
                self._interrupts.check()
                if (began := self._clock()) >= self._end:
                    return False
                outcome, _ = self._measuring.measure(
                    study, config, False, checked=number > 0, cache=study.cache
                )
                seconds.append(self._clock() - began)
                self._done[key] = outcome.status
                self.failed += outcome.time_us is None
                self._file.append(
                    Pass(
                        study=study.key,
                        config=config.to_dict(),
                        number=number,
                        source=self._design.sources[study.plan.kernel],
                        measurement=outcome,
                        seconds=round(seconds[-1], 4),
                    )
                )
                seconds = self.rest
        return True
