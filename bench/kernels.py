"""The table of ratios: what sweeps found, beside what people would call instead.

    python -m bench.kernels RUN... --commit HASH --output kernels.json

Each RUN is the folder of a measured sweep on this GPU.  Of every problem that belongs to a row of
the table (``bench/reach.py``) the fastest configuration of any kernel family is taken; its answer
is checked, then it and the row's peers are timed in turns in this process under the workbench's
rule (tuning/timing.py).  A ratio is the fastest peer's time over ours.  The file is written anew
after each problem, so a run that is cut short keeps the others.

``--device cpu`` is a dry run on simulated sweeps: winners of Triton families and peers on small
shapes in Triton's interpreter; answers are checked and nothing is timed.
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.reach_table import Line
    from tiles.problems import Problem
    from workbench.emission.winners import TunedEntry

__all__ = ["main", "measure", "record_text", "winners"]

SCHEMA = "tile-workbench/kernels/1"
#: Extents that the interpreter gets through in a moment.
DRY_EXTENT = 160
SEED = 0


def winners(
    folders: Sequence[Path], *, dry: bool, device_name: str = ""
) -> "dict[Problem, tuple[TunedEntry, str]]":
    """The fastest configuration of any family for every problem, and the run that found it.

    Args:
        folders: finished or interrupted sweeps.
        dry: take simulated sweeps, and of their families those that the interpreter runs.
        device_name: what the driver calls the GPU, which the sweeps must have been measured on.
    Raises:
        ValueError: no such run, it was simulated or measured on another GPU.
    """
    import tuning
    from tiles.kernels import Backend
    from workbench.emission.winners import TunedEntry

    found: dict[Problem, tuple[TunedEntry, str]] = {}
    for folder in folders:
        run = tuning.load_run(folder)
        if not dry and not run.gpu.matches(device_name):
            raise ValueError(f"{folder}: swept for {run.gpu.name}, the device is {device_name!r}")
        for study in run.studies:
            if study.best is None:
                continue
            if study.simulated and not dry:
                raise ValueError(
                    f"{folder}: {study.problem} was simulated, which is no configuration that a "
                    "sweep found on this GPU: sweep with --on gpu, or pass --device cpu"
                )
            entry = TunedEntry(study=study, best=study.best, gpu=run.gpu)
            if dry and entry.kernel.backend is not Backend.TRITON:
                continue
            known = found.get(study.problem)
            if known is None or entry.time_us < known[0].time_us:
                found[study.problem] = entry, str(folder)
    return found


def _small(problem: "Problem") -> "Problem":
    """The same work on extents that the interpreter gets through."""
    return problem.resized(*(min(extent, DRY_EXTENT) for extent in problem.shape))


def measure(line: "Line", entry: "TunedEntry", *, device: str, timed: bool) -> "Line":
    """Check our answer, open the peers, and time all of them in turns.

    Args:
        line: of the problem, without results.
        device: "cuda", or "cpu" for small shapes in the interpreter.
        timed: on a CPU by the host's clock, which is for tests of this script alone.
    """
    from bench.product_peers import PROBE_ERRORS
    from bench.reach_peers import Peer, Refused, open_peer
    from bench.reach_table import timing_of
    from tuning.timing import Launchers, time_interleaved
    from workbench.verification import RivalTiming

    config = entry.best.config
    try:
        problem = line.problem if device == "cuda" else _small(line.problem)
        workload = entry.kernel.workload(problem, device=device, seed=SEED)
        accuracy = workload.check(config)
    except PROBE_ERRORS as error:
        return replace(line, wrong=f"{type(error).__name__}: {error}".splitlines()[0])
    line = replace(line, accuracy=asdict(accuracy))
    if not accuracy.ok:
        return replace(line, wrong=accuracy.reason)
    opened = [open_peer(name, problem, workload, SEED) for name in line.row.peers]
    able = [peer for peer in opened if isinstance(peer, Peer)]
    untimed = [
        RivalTiming(problem=str(problem), rival=peer.name, time_us=None, refused=peer.reason)
        if isinstance(peer, Refused)
        else RivalTiming(problem=str(problem), rival=peer.name, time_us=None, note=peer.note)
        for peer in opened
    ]
    if line.row.bound is not None:
        line = replace(line, bound_us=line.row.bound(problem, config, entry.gpu))
    if not timed:
        return replace(line, peers=tuple(untimed))
    rivals: list[tuple[Launchers, int]] = [
        (partial(workload.launchers, config), workload.set_bytes),
        *((peer.launchers, peer.set_bytes) for peer in able),
    ]
    try:
        taken = time_interleaved(rivals, l2_bytes=_l2_bytes(device), device=device)
    except PROBE_ERRORS as error:
        return replace(line, wrong=f"timing: {type(error).__name__}: {error}".splitlines()[0])
    timings = {
        peer.name: timing_of(problem, peer.name, t.samples_us, t.timing, note=peer.note)
        for peer, t in zip(able, taken[1:], strict=True)
    }
    return replace(
        line,
        ours=timing_of(problem, "ours", taken[0].samples_us, taken[0].timing),
        peers=tuple(timings.get(peer.rival, peer) for peer in untimed),
    )


def _l2_bytes(device: str) -> int:
    if device != "cuda":
        return 1
    import torch

    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def record_text(record: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    text = json.dumps(record, indent=1)
    numbers = re.compile(r"\[\s+((?:-?[\d.e+-]+,?\s+)+)\]")
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _lines(arguments: argparse.Namespace) -> "list[tuple[Line, TunedEntry]]":
    """What is to be measured, in the table's order.

    Raises:
        ValueError: a run cannot be used, or nothing of them belongs to the table.
    """
    from bench.reach import ROWS, SHAPES, row_of
    from bench.reach_table import Line
    from tiles.kernels.closure import source_digest
    from tiles.problems import parse_shape

    shapes: Sequence[tuple[int, ...]] | None = SHAPES
    if arguments.shapes:
        every = "any" in arguments.shapes
        shapes = None if every else [parse_shape(text, 3) for text in arguments.shapes]
    dry, name = arguments.device == "cpu", ""
    if not dry:
        import torch

        name = torch.cuda.get_device_name()
    found = []
    for problem, (entry, folder) in winners(arguments.runs, dry=dry, device_name=name).items():
        row = row_of(problem, shapes)
        if row is None or not all(word in f"{row.name} {problem}" for word in arguments.only):
            continue
        line = Line(
            row=row,
            problem=problem,
            kernel=entry.study.kernel,
            config=entry.best.config.to_dict(),
            run=folder,
            swept_us=entry.time_us,
            source_sha256=source_digest(entry.kernel.template),
        )
        found.append((line, entry))
    if not found:
        raise ValueError("no winner of these runs belongs to the table: see examples/kernels.yaml")
    return sorted(found, key=lambda pair: ROWS.index(pair[0].row))


def _header(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and by which code."""
    import tuning
    from bench.deep_gemm_peer import version
    from tuning.environment import read_environment
    from workbench.shared import stale_lines

    environment = read_environment(arguments.device).to_dict()
    environment["versions"]["deep_gemm"] = version()
    stale = [line for run in arguments.runs for line in stale_lines(tuning.load_run(run))]
    return {
        "schema": SCHEMA,
        "dry": arguments.device == "cpu",
        "commit": arguments.commit,
        "command": shlex.join(["python", "-m", "bench.kernels", *arguments.given]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": SEED,
        "environment": environment,
        "stale": [] if arguments.device == "cpu" else stale,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a sweep")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", metavar="MxNxK", help="instead of the list; or any")
    parser.add_argument("--only", nargs="+", default=[], help="words of a row or problem, all")
    parser.add_argument("--time-limit", type=float, metavar="S", help="begin no problem after")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, help="a JSON file")
    return parser


def _ready(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what cannot end well, before any work."""
    from workbench.outfile import check_outfile

    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch finds no GPU here: pass --device cpu for a dry run without times")
        if arguments.output is not None and not arguments.commit:
            parser.error("--output needs --commit: a time without its code is no result")
    if arguments.output is not None:
        try:
            check_outfile(arguments.output, SCHEMA)
        except ValueError as error:
            parser.error(str(error))


def main(given: Sequence[str] | None = None) -> int:
    """Print a line as soon as it is known, then the table; 1 when an answer was wrong."""
    parser = _parser()
    arguments = parser.parse_args(given)
    arguments.given = list(sys.argv[1:] if given is None else given)
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    _ready(parser, arguments)
    from bench.reach_table import line_text, summaries, table_text
    from workbench.outfile import write_outfile

    timed = arguments.device == "cuda"
    try:
        planned, header = _lines(arguments), _header(arguments)
    except ValueError as error:
        parser.error(str(error))
    for line in header["stale"]:
        print(f"stale: {line}", flush=True)
    if not timed:
        print(f"dry run: extents cut to {DRY_EXTENT}, nothing is timed", flush=True)
    began, done = time.monotonic(), []
    for line, entry in planned:
        if arguments.time_limit and time.monotonic() - began > arguments.time_limit:
            break
        done.append(measure(line, entry, device=arguments.device, timed=timed))
        print(line_text(done[-1]), flush=True)
        if arguments.output is not None:
            content = {
                "table": [one.to_dict() for one in summaries(done)] if timed else [],
                "lines": [one.to_dict() for one in done],
                "not_measured": [str(left.problem) for left, _ in planned[len(done) :]],
            }
            write_outfile(arguments.output, record_text(header | content))
        if timed:
            _free()
    if left := len(planned) - len(done):
        print(f"{left} of {len(planned)} problems were not begun: the time limit was reached")
    if timed:
        print(table_text(summaries(done)))
    return int(any(line.wrong for line in done))


def _free() -> None:
    """Give operands back: the next problem's may need the whole memory."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
