"""All microbenchmarks of a GPU, one after another, each kept as soon as it is over."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
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
_SCHEMA = "tile-workbench/microbenchmarks/2"
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
        where: device, driver and mode; a record of another, or of other
            benchmarks, is begun anew.
        seconds: none is begun after them.
        progress: called after each with its number and how many there are.

    Returns:
        Outcomes in the catalogue's order, and the names of those that there was no time for.

    Raises:
        ValueError: the folder cannot be written.
    """
    deadline = time.monotonic() + seconds
    wanted = [one for one in CATALOGUE if one.cases(gpu)]
    stamp = {"where": where, "sources": _sources(gpu)}
    outcomes = _read(folder / RECORD, stamp)
    left: list[str] = []
    for number, benchmark in enumerate(wanted, 1):
        if benchmark.name not in outcomes:
            if time.monotonic() >= deadline:
                left.append(benchmark.name)
                continue
            outcomes[benchmark.name] = _run(benchmark, gpu, runner)
            _write(folder, stamp, list(outcomes.values()))
        progress(outcomes[benchmark.name], number, len(wanted))
    return [outcomes[one.name] for one in wanted if one.name in outcomes], left


def _run(benchmark: Microbenchmark, gpu: Gpu, runner: Runner) -> Outcome:
    answer = runner(benchmark.name, benchmark.cases(gpu))
    if isinstance(answer, list):
        return reduced(benchmark, gpu, answer)
    status, reason = answer
    return Outcome(name=benchmark.name, status=status, reason=reason, figures=(), samples=())


def _sources(gpu: Gpu) -> str:
    """SHA-256 of what is run and of the file that it is checked by."""
    digest = hashlib.sha256(gpu.text.encode())
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".cu", ".py"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path, stamp: Mapping[str, str]) -> dict[str, Outcome]:
    """What the record holds; nothing when device or benchmarks are others, or it is damaged."""
    try:
        content: Any = json.loads(path.read_bytes())
        if content["schema"] != _SCHEMA or any(content[key] != stamp[key] for key in stamp):
            return {}
        outcomes = [Outcome.from_dict(one) for one in content["outcomes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    # A failure may have been a neighbour's doing: it is tried again.
    return {one.name: one for one in outcomes if one.status is Status.CORRECT}


def _write(folder: Path, stamp: Mapping[str, str], outcomes: Sequence[Outcome]) -> None:
    content = {
        "schema": _SCHEMA,
        **stamp,
        "outcomes": [one.to_dict() for one in outcomes],
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RECORD, (json.dumps(content, indent=1) + "\n").encode())
