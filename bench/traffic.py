"""Predicted traffic beside what the hardware counts: bytes of DRAM, and from L2 to the SMs.

    python -m bench.traffic --commit HASH --output evidence/h200/traffic.json [--time-limit 8m]

Each point is a kernel, a shape and a configuration: the model's best, and the same tile under other
raster orders.  All are compiled first, by many processes.  Points run under ``ncu`` some at a time,
on ``--gpus`` GPUs of the host at once; the file is written anew after each batch, and the same
command goes on.  Predicted and counted bytes stand in columns of their own: what
``predict`` says, what a replay against a cache says (``sim/traffic_replay.py``), and the counters.

``--dry-run`` needs no GPU: all points, predicted and replayed, no counter.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.compiled_ahead import compile_ahead
from bench.counters import Counted, CountersRefused, count_traffic, profile
from bench.executed import Launch
from bench.place import place
from bench.traffic_points import Point, points, summary
from bench.visible_devices import visible_devices
from sim import Gpu, load_gpu
from workbench.outfile import check_outfile, write_outfile
from workbench.time_limit import parse_time_limit

__all__ = ["SCHEMA", "count_all", "main", "read_record", "record_text"]

SCHEMA = "tile-workbench/traffic/1"
#: Launches that one process of the profiler counts; its start takes some seconds.
AT_ONCE = 8
BATCH_LIMIT_S = 150.0
#: The rest is compiled where it is launched.
COMPILE_LIMIT_S = 60.0
#: So many launches refused with the same words are the profiler's trouble, not theirs.
GIVE_UP = 3


def record_text(found: Sequence[Point], sessions: Sequence[dict[str, Any]], gpu: str) -> str:
    """The evidence file: JSON."""
    content = {
        "schema": SCHEMA,
        "gpu": gpu,
        "summary": summary(found),
        "sessions": list(sessions),
        "points": [asdict(one) for one in found],
    }
    return json.dumps(content, indent=1) + "\n"


def read_record(path: Path, gpu: str) -> tuple[dict[tuple[str, ...], Point], list[Any]]:
    """Points that were counted already, by key, and the sessions that counted them.

    Raises:
        ValueError: the file holds something else, or another GPU's counts.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA or data["gpu"] != gpu:
            raise ValueError(f"holds {data['schema']} of {data['gpu']}")
        known = [Point(**{**one, "kernels": tuple(one["kernels"])}) for one in data["points"]]
        return {one.key: one for one in known if one.counted is not None}, data["sessions"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no record of traffic: {error}: choose another output") from error


Count = Callable[[Sequence[Launch], float], tuple[list[Counted], dict[str, str]]]


def _count(
    launches: Sequence[Launch], time_limit_s: float, device: str = ""
) -> tuple[list[Counted], dict[str, str]]:
    return count_traffic(launches, time_limit_s=time_limit_s, run=partial(profile, device=device))


class _Counting:
    """Batches of points that wait for a profiler, shared by the threads of all GPUs."""

    def __init__(
        self,
        found: list[Point],
        session: dict[str, Any],
        end: float,
        write: Callable[[], None],
    ) -> None:
        self._found, self._session, self._end, self._write = found, session, end, write
        left = [place for place, one in enumerate(found) if one.counted is None]
        self._batches = [left[at : at + AT_ONCE] for at in range(0, len(left), AT_ONCE)]
        self._alike: list[str] = []
        self._lock = threading.Lock()
        self.over = ""  #: why counting ended early

    def run(self, count: Count) -> None:
        """Count batch after batch until none is left."""
        while True:
            with self._lock:
                if self.over or not self._batches:
                    return
                batch = self._batches.pop(0)
                seconds = min(BATCH_LIMIT_S, self._end - time.monotonic())
                if seconds < 10:
                    self.over = "the time is over: the same command goes on"
                    return
            launches = [_launch(self._found[place]) for place in batch]
            try:
                counts, metrics = count(launches, seconds)
            except CountersRefused as error:
                with self._lock:
                    self._refused(batch, str(error))
                    self._write()
            else:
                with self._lock:
                    self._alike = []
                    self._session["metrics"] = metrics
                    for place, one in zip(batch, counts, strict=True):
                        self._found[place] = replace(
                            self._found[place], counted=one.values, kernels=one.kernels, refused=""
                        )
                    self._write()

    def _refused(self, batch: list[int], reason: str) -> None:
        if any(word in reason for word in ("ERR_NVGPUCTRPERM", "ncu is missing", "no metric")):
            for place, one in enumerate(self._found):
                if one.counted is None:
                    self._found[place] = replace(one, refused=reason)
            self.over = reason
        elif len(batch) > 1:
            self._batches[:0] = [[place] for place in batch]
        else:
            self._found[batch[0]] = replace(self._found[batch[0]], refused=reason)
            self._alike = [*self._alike, reason] if reason in self._alike else [reason]
            if len(self._alike) == GIVE_UP:
                self.over = f"{GIVE_UP} launches running were refused alike: {reason}"


def _launch(one: Point) -> Launch:
    return Launch(problem=one.problem, kernel=one.kernel, config=one.config)


def count_all(
    found: list[Point],
    session: dict[str, Any],
    *,
    time_limit_s: float,
    counts: Sequence[Count],
    write: Callable[[], None],
) -> str:
    """Count what is not counted yet, in place; why it ended early, or "".

    A batch that is refused is counted again launch by launch, so that one kernel that fails costs
    its own point; a refusal of the profiler itself, or three alike, ends it all.

    Args:
        counts: of each GPU; they count at once.
    """
    work = _Counting(found, session, time.monotonic() + time_limit_s, write)
    with ThreadPoolExecutor(len(counts)) as threads:
        for done in [threads.submit(work.run, count) for count in counts]:
            done.result()
    return work.over


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.traffic", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--time-limit", default="8m")
    parser.add_argument("--gpus", type=int, default=1, help="of this host, counted on at once")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.gpus < 1:
        parser.error(f"--gpus {arguments.gpus}: must be at least 1")
    return arguments


def main(
    given: Sequence[str] | None = None,
    count: Count = _count,
    find: Callable[[Gpu], list[Point]] = points,
    ready: Callable[..., object] = compile_ahead,
) -> int:
    """Run from the command line; 2 for the caller's mistake, 1 where nothing could be counted."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    began = time.monotonic()
    try:
        gpu = load_gpu(arguments.gpu)
        limit_s = parse_time_limit(arguments.time_limit)
        counts = [count]
        if arguments.gpus > 1:
            counts = [partial(count, device=one) for one in visible_devices(arguments.gpus)]
        check_outfile(arguments.output, SCHEMA)
        known: dict[tuple[str, ...], Point] = {}
        sessions: list[Any] = []
        if arguments.output.exists():
            known, sessions = read_record(arguments.output, gpu.name)
        # What is predicted is predicted anew; what was counted stays.
        found = [
            replace(one, counted=known[one.key].counted, kernels=known[one.key].kernels)
            if one.key in known
            else one
            for one in find(gpu)
        ]
        chosen = {one.key for one in found}
        found += [replace(one, earlier=True) for key, one in known.items() if key not in chosen]
        said = "dry run: nothing is counted"
        if not arguments.dry_run:
            sessions.append(_session(arguments, gpu))

        def write() -> None:
            write_outfile(arguments.output, record_text(found, sessions, gpu.name))

        write()
        if not arguments.dry_run:
            left = [_launch(one) for one in found if one.counted is None]
            ready(left, gpu, time_limit_s=COMPILE_LIMIT_S)
            # Choosing and compiling the points took some of it.
            left_s = limit_s - (time.monotonic() - began)
            said = count_all(found, sessions[-1], time_limit_s=left_s, counts=counts, write=write)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in _lines(found, said):
        print(line)
    counted = any(one.counted is not None for one in found)
    return 0 if arguments.dry_run or counted else 1


def _session(arguments: argparse.Namespace, gpu: Gpu) -> dict[str, Any]:
    return {
        "commit": arguments.commit,
        "command": "python -m bench.traffic",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": place(gpu, "count nothing with --dry-run"),
        "metrics": {},
    }


def _lines(found: Sequence[Point], said: str) -> list[str]:
    content = summary(found)
    lines = [f"{content['counted']} of {content['points']} points counted"]
    lines += [
        f"{name}: error {100 * one['median_error']:.1f} % median, {100 * one['p90_error']:.1f} % "
        f"P90 of {one['points']} (asked {100 * one['asked_median']:.0f} / "
        f"{100 * one['asked_p90']:.0f} %)"
        for name, one in content.items()
        if isinstance(one, dict)
    ]
    reasons = dict.fromkeys(one.refused for one in found if one.refused)
    return [*lines, *([said] if said else []), *(reason for reason in reasons if reason != said)]


if __name__ == "__main__":
    sys.exit(main())
