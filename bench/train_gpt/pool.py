"""Processes of runs: several on each GPU at once, since a small model waits for its host.

A recipe's first run compiles its kernels; its other seeds begin behind that run's first step, with
what is compiled.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.train_gpt.folder import RunFolder
from bench.train_gpt.outcome import Outcome, Run, Status, write_outcome

__all__ = ["GRACE_S", "Place", "run_all", "worker_command"]

#: Seconds behind ``until`` in which a process writes its checkpoint; then it is ended.
GRACE_S = 20.0
_POLL_S = 0.1
#: What a process that has nothing to do with others needs of a CPU: one thread.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where processes run."""

    name: str  #: of the device, for people
    device: str  #: cpu or cuda
    environment: Mapping[str, str]
    processes: int  #: at once


def worker_command(folder: Path, run: Run, device: str, until: float) -> list[str]:
    """Of a run's process."""
    words = [sys.executable, "-m", "bench.train_gpt.worker", str(folder), run.recipe, str(run.seed)]
    return [*words, "--device", device, "--until", repr(until)]


@dataclass(slots=True)
class _Process:
    run: Run
    place: Place
    process: subprocess.Popen[bytes]


def run_all(
    runs: Sequence[Run],
    places: Sequence[Place],
    folder: RunFolder,
    until: float,
    *,
    ended: Callable[[Outcome, Place | None], None],
    command: Callable[[Path, Run, str, float], list[str]] = worker_command,
    grace_s: float = GRACE_S,
) -> None:
    """Run processes until all runs have an outcome or the time is over.

    Args:
        until: seconds of ``time.time()``: no run begins later, and each stops with a checkpoint.
        ended: called with the outcome of each run, and where it ran.
        command: of a process; tests give others.
    """
    waiting, running, killed = list(runs), list[_Process](), list[_Process]()
    with _ending(running):
        while waiting or running:
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                ended(_outcome_of(one, folder, late=one in killed), one.place)
            now = time.time()
            if now >= until:
                for run in waiting:
                    ended(_not_begun(run, folder), None)
                waiting.clear()
            if now >= until + grace_s:
                for one in running:
                    one.process.kill()
                killed += running
            while (chosen := _next(waiting, running, places, folder)) is not None:
                run, place = chosen
                waiting.remove(run)
                running.append(_begin(run, place, folder, command, until))
            time.sleep(_POLL_S)


def _next(
    waiting: Sequence[Run], running: Sequence[_Process], places: Sequence[Place], folder: RunFolder
) -> tuple[Run, Place] | None:
    """The first run that may begin, on the device with the fewest processes."""
    busy = [sum(one.place is place for one in running) for place in places]
    free = [number for number, place in enumerate(places) if busy[number] < place.processes]
    if not free:
        return None
    at_work = {one.run.recipe for one in running}
    stepped = {recipe for recipe in at_work if folder.stepped(recipe)}
    for run in waiting:
        if run.recipe in stepped or run.recipe not in at_work:
            return run, places[min(free, key=lambda number: busy[number])]
    return None


def _begin(
    run: Run,
    place: Place,
    folder: RunFolder,
    command: Callable[[Path, Run, str, float], list[str]],
    until: float,
) -> _Process:
    folder.result(run).unlink(missing_ok=True)  # an older one, which is not final
    environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), **place.environment}
    words = command(folder.path, run, place.device, until)
    with folder.log(run).open("ab") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    return _Process(run=run, place=place, process=process)


def _outcome_of(one: _Process, folder: RunFolder, *, late: bool) -> Outcome:
    """What a process left, or how it ended without leaving anything.

    Args:
        late: it was killed, because it did not stop in time.
    """
    run, code = one.run, one.process.returncode
    found = folder.outcome(run)
    if found is not None:
        return found
    if late:
        reason = "did not stop when the time was over: goes on from its last checkpoint"
        return Outcome(recipe=run.recipe, seed=run.seed, status=Status.UNFINISHED, reason=reason)
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    lines = folder.log(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f": {lines[-1][:300]}" if lines else ""
    found = Outcome(
        recipe=run.recipe, seed=run.seed, status=Status.FAILED, reason=f"its process: {how}{last}"
    )
    write_outcome(folder.result(run), found)
    return found


def _not_begun(run: Run, folder: RunFolder) -> Outcome:
    """Of a run that the time was too short for: what it left earlier, or nothing."""
    found = folder.outcome(run)
    if found is not None:
        return found
    reason = "not begun within the time limit: the same command goes on"
    return Outcome(recipe=run.recipe, seed=run.seed, status=Status.UNFINISHED, reason=reason)


@contextlib.contextmanager
def _ending(running: list[_Process]) -> Iterator[None]:
    """No process outlives this one, also where a signal ends it."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for one in running:
            if one.process.poll() is None:
                one.process.terminate()
        for one in running:
            one.process.wait()
