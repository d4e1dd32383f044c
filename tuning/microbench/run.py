"""All microbenchmarks of a GPU, one after another, each kept as soon as it is over."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sim import Gpu
from tiles.kernels import Status
from tuning.microbench.catalogue import CATALOGUE, Microbenchmark
from tuning.microbench.outcome import Outcome, reduced
from tuning.microbench.sample import Case, Sample
from tuning.store import replace_file

__all__ = ["RECORD", "run_microbenchmarks"]

RECORD = "microbenchmarks.json"
_SCHEMA = "tile-workbench/microbenchmarks/1"
#: A runner's answer: samples, or the status and reason of their failure.
Answer = list[Sample] | tuple[Status, str]
Runner = Callable[[str, Sequence[Case]], Answer]


def run_microbenchmarks(
    folder: Path,
    gpu: Gpu,
    where: str,
    runner: Runner,
    *,
    seconds: float,
    progress: Callable[[Outcome, int, int], None] = lambda *_: None,
) -> tuple[list[Outcome], list[str]]:
    """Run what a folder's record lacks.

    Args:
        folder: keeps the record; made when it is missing.
        where: device, driver and mode; a record of another is begun anew.
        seconds: none is begun after them.
        progress: called after each with its number and how many there are.

    Returns:
        Outcomes in the catalogue's order, and the names of those that there was no time for.

    Raises:
        ValueError: the folder cannot be written.
    """
    deadline = time.monotonic() + seconds
    wanted = [one for one in CATALOGUE if one.cases(gpu)]
    outcomes = _read(folder / RECORD, where)
    left: list[str] = []
    for number, benchmark in enumerate(wanted, 1):
        if benchmark.name not in outcomes:
            if time.monotonic() >= deadline:
                left.append(benchmark.name)
                continue
            outcomes[benchmark.name] = _run(benchmark, gpu, runner)
            _write(folder, where, list(outcomes.values()))
        progress(outcomes[benchmark.name], number, len(wanted))
    return [outcomes[one.name] for one in wanted if one.name in outcomes], left


def _run(benchmark: Microbenchmark, gpu: Gpu, runner: Runner) -> Outcome:
    answer = runner(benchmark.name, benchmark.cases(gpu))
    if isinstance(answer, list):
        return reduced(benchmark, gpu, answer)
    status, reason = answer
    return Outcome(name=benchmark.name, status=status, reason=reason, figures=(), samples=())


def _read(path: Path, where: str) -> dict[str, Outcome]:
    """What the record holds; nothing when it is another device's, or damaged."""
    try:
        content: Any = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA or content["where"] != where:
            return {}
        outcomes = [Outcome.from_dict(one) for one in content["outcomes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    # A failure may have been a neighbour's doing: it is tried again.
    return {one.name: one for one in outcomes if one.status is Status.CORRECT}


def _write(folder: Path, where: str, outcomes: Sequence[Outcome]) -> None:
    content = {
        "schema": _SCHEMA,
        "where": where,
        "outcomes": [one.to_dict() for one in outcomes],
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RECORD, (json.dumps(content, indent=1) + "\n").encode())
