"""The table of ratios: what sweeps found, beside what people would call instead.

    python -m bench.kernels RUN... --commit HASH --output kernels.json

Each RUN is the folder of a measured sweep on this GPU (examples/kernels*.yaml).  Of every problem
that belongs to a row of the table (bench/reach.py) the fastest configuration of any kernel family
is taken; its answer is checked, then it and the row's peers are timed in turns in this process
under the workbench's rule (tuning/timer.py).  Bounds come from rates and instruction counts
measured in the same run (bench/pipe_rates.py, bench/executed.py).

The file is written anew before and after each line.  The same command goes on where a run was cut
off, also on another GPU of the same name; what failed or was being measured then comes last.

``--dry-run`` needs no GPU and no RUN: every row on small shapes, answers checked or kernels
compiled, peers opened, every launch made once, and no time (bench/dry_run.py).
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.bounds import Executed
    from bench.pipe_rates import Rate
    from bench.reach_table import Line
    from bench.winners import Winner
    from tiles.problems import Problem

__all__ = ["main"]

#: Launches that one process of the profiler counts; its start takes some seconds.
COUNTED_AT_ONCE = 14
COUNT_LIMIT_S = 120.0


def _planned(arguments: argparse.Namespace, device_name: str) -> "list[tuple[Line, Winner]]":
    """What is to be measured, in the table's order.

    Raises:
        ValueError: a run cannot be used, or nothing of them belongs to the table.
    """
    from bench import dry_run
    from bench.measure import line_of
    from bench.reach import ROWS, rows_of
    from bench.winners import winners

    if not arguments.runs:
        pairs = dry_run.defaults()
    else:
        found = winners(arguments.runs, dry=arguments.dry_run, device_name=device_name)
        pairs = [
            (row, winner)
            for problem, winner in found.items()
            for row in rows_of(problem, any_shape=arguments.any_shape)
        ]
    wanted = [
        (line_of(row, winner), winner)
        for row, winner in pairs
        if all(word in f"{row.name} {winner.problem}" for word in arguments.only)
    ]
    if not wanted:
        raise ValueError("no winner of these runs belongs to the table: see examples/kernels.yaml")
    return sorted(wanted, key=lambda pair: ROWS.index(pair[0].row))


def _session(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and by which code; folders by their names, whoever reads this has not got them."""
    import tuning
    from bench.deep_gemm_peer import version
    from bench.measure import SEED
    from tuning.environment import read_environment
    from workbench.shared import stale_lines

    environment = read_environment("cpu" if arguments.dry_run else "cuda").to_dict()
    environment["versions"]["deep_gemm"] = version()
    stale = [
        line.replace(str(run), run.resolve().name)
        for run in arguments.runs
        for line in stale_lines(tuning.load_run(run))
    ]
    paths = {str(path): path.name for path in (*arguments.runs, arguments.output) if path}
    given = [paths.get(str(Path(word)), word) for word in arguments.given]
    return {
        "commit": arguments.commit,
        "command": shlex.join(["python", "-m", "bench.kernels", *given]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": SEED,
        "environment": environment,
        "stale": [] if arguments.dry_run else stale,
        "rates": [],
        "executed": [],
    }


class _Counts:
    """Instructions of launches, counted some problems at a time, when the first is needed."""

    def __init__(self, session: dict[str, Any], lines: "Sequence[Line]") -> None:
        from bench.reach import ISSUE

        self._session = session
        self._left = [line for line in lines if ISSUE in line.row.bounds]
        self._known: dict[str, Executed] = {}

    def of(self, line: "Line") -> "dict[str, Executed]":
        """Counts that are known, the line's among them where it has a bound that needs it."""
        from bench.executed import Launch, count

        if line not in self._left or str(line.problem) in self._known:
            return self._known
        at = self._left.index(line)
        launches = [
            Launch(problem=str(one.problem), kernel=one.kernel, config=one.config)
            for one in self._left[at : at + COUNTED_AT_ONCE]
        ]
        found = count(launches, time_limit_s=COUNT_LIMIT_S)
        self._known |= found
        self._session["executed"] += [asdict(one) for one in found.values()]
        return self._known


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a sweep")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: check all but the times")
    parser.add_argument("--any-shape", action="store_true", help="not only those of the list")
    parser.add_argument("--only", nargs="+", default=[], help="words of a row or problem, all")
    parser.add_argument("--time-limit", type=float, metavar="S", help="begin no problem after")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, help="a JSON file; gone on with where it exists")
    return parser


def _device_name(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The GPU's name; what cannot end well is refused before any work."""
    if arguments.dry_run:
        return ""
    import torch

    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here: pass --dry-run to check all but the times")
    if not arguments.runs:
        parser.error("no RUN: sweep examples/kernels*.yaml first, or pass --dry-run")
    if arguments.output is not None and not arguments.commit:
        parser.error("--output needs --commit: a time without its code is no result")
    return torch.cuda.get_device_name()


def main(given: Sequence[str] | None = None) -> int:
    """Print a line as soon as it is known, then the table; 1 when an answer was wrong."""
    began = time.monotonic()
    parser = _parser()
    arguments = parser.parse_args(given)
    arguments.given = list(sys.argv[1:] if given is None else given)
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    name = _device_name(parser, arguments)
    from bench.compiled_ahead import use_kept_binaries
    from bench.kernels_record import Record
    from bench.reach_table import line_text, summaries, table_text

    if not arguments.dry_run:
        use_kept_binaries()  # those of the sweeps
    try:
        planned, session = _planned(arguments, name), _session(arguments)
        record = Record(arguments.output, session, dry=arguments.dry_run)
    except ValueError as error:
        parser.error(str(error))
    for text in session["stale"]:
        print(f"stale: {text}", flush=True)
    by_key = {line.key: winner for line, winner in planned}
    left = record.plan(line for line, _ in planned)
    if len(left) < len(planned):
        print(f"{len(planned) - len(left)} of {len(planned)} lines are there already", flush=True)
    if arguments.dry_run:
        print("dry run: small shapes, nothing is timed, every time is nan", flush=True)
    measured = _measuring(arguments, session, left)
    while left:
        if arguments.time_limit and time.monotonic() - began > arguments.time_limit:
            print(f"{len(left)} of {len(planned)} lines were not begun: the time limit was reached")
            break
        line = left.pop(0)
        record.begin(line, left)
        done = record.end(measured(line, by_key[line.key]), left)
        print(line_text(done), flush=True)
        if not arguments.dry_run and (lost := _free()):
            print(f"the CUDA context is lost ({lost}): the same command goes on", flush=True)
            return 1
    print(table_text(summaries(record.lines)))
    return int(any(line.wrong for line in record.lines))


def _measuring(
    arguments: argparse.Namespace, session: dict[str, Any], left: "Sequence[Line]"
) -> "Callable[[Line, Winner], Line]":
    """What measures a line, on this GPU or dry."""
    from bench import dry_run
    from bench.measure import SEED, measure

    if arguments.dry_run:
        problems: list[Problem] = [line.problem for line in left]
        executed = dry_run.dry_executed([*problems, *map(dry_run.small, problems)])
        rates = dry_run.dry_rates() if any(line.row.bounds for line in left) else []

        def dry(line: "Line", winner: "Winner") -> "Line":
            ours = dry_run.fitted(winner)
            opening = partial(dry_run.open_small, ours)
            timer = dry_run.dry_timer
            return measure(line, ours, opening, timer=timer, rates=rates, executed=executed)

        return dry
    known = _rates() if any(line.row.bounds for line in left) else []
    session["rates"] = [asdict(rate) for rate in known]
    counts = _Counts(session, left)
    return lambda line, winner: measure(
        line,
        winner,
        partial(winner.family.workload, line.problem, device="cuda", seed=SEED),
        rates=known,
        executed=counts.of(line),
    )


def _rates() -> "list[Rate]":
    """Rates of the pipes on this GPU; none where CuPy is missing."""
    from bench import pipe_rates

    try:
        rates = pipe_rates.measure()
    except ImportError as error:
        print(f"rates of the pipes: {error}", flush=True)
        return []
    for rate in rates:
        print(pipe_rates.text_of(rate), flush=True)
    return rates


def _free() -> str:
    """Give operands back, the next problem's may need the whole memory; why CUDA is lost, or ""."""
    import gc

    import torch

    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


if __name__ == "__main__":
    sys.exit(main())
