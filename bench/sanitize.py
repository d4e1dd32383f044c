"""Every kernel family and mode once under compute-sanitizer: memcheck, racecheck, synccheck.

    python -m bench.sanitize --commit HASH --output sanitize.json        (make sanitize)

A case is one launch of one configuration on a small problem with tails.  Some cases of a family
run in one process, several processes at a time; where one is not clean, or is cut off by its time
limit, each of its cases runs again by itself, so that every error has its case.  Tensors lie in
allocations of their own, or memcheck would see the allocator's large blocks alone.  The file is
written after each process, and the same command goes on with it.
``--list`` prints the cases and needs no GPU.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from bench.sanitize_cases import Case, cases
from sim import load_gpu
from tiles.kernels import kernel
from tiles.problems import parse_problem

__all__ = ["TOOLS", "Outcome", "errors_of", "main"]

SCHEMA = "tile-workbench/sanitize/1"
TOOLS = ("memcheck", "racecheck", "synccheck")
_SUMMARY = re.compile(
    r"ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?"
)
#: Seconds of a process before its first case: torch, CUDA and the tool start.
START_S = 120.0
REPORT_LINES = 12
#: Cases of one process: few enough that a time limit loses little, many enough to pay its start.
CASES_AT_ONCE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tool said of a case."""

    tool: str
    case: Case
    errors: int | None  #: None where the case did not end
    reason: str = ""  #: why it did not
    report: str = ""  #: the first lines of what the tool found


def launch_all(path: Path) -> None:
    """In the watched process: each case once."""
    import cupy
    import torch

    cupy.cuda.set_allocator(None)
    for text, name, fields in json.loads(path.read_text()):
        family = kernel(name)
        workload = family.workload(parse_problem(text), device="cuda", seed=0)
        launch = workload.launchers(family.config_type.from_dict(fields), 1)[0]
        launch()
        torch.cuda.synchronize()


def errors_of(output: str) -> int | None:
    """Errors that a tool counted; None where it came to no end."""
    found = [int(a or b) for a, b in _SUMMARY.findall(output)]
    return found[-1] if found else None


def _run(tool: str, batch: Sequence[Case], limit_s: float, folder: Path) -> tuple[int | None, str]:
    """Errors of a process over some cases, and its report or the reason why there is none."""
    handle, name = tempfile.mkstemp(dir=folder, suffix=".json")
    os.close(handle)
    work = Path(name)
    work.write_text(json.dumps([[one.problem, one.kernel, one.config] for one in batch]))
    # torch asks the driver what it may refuse, and handles the answer: no error of a kernel.
    quiet = ("--report-api-errors", "no") if tool == "memcheck" else ()
    command = [
        *("compute-sanitizer", "--tool", tool, "--target-processes", "application-only", *quiet),
        *(sys.executable, "-m", "bench.sanitize", "--launch", str(work)),
    ]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the tool, and what it watches
            return None, f"it took longer than {limit_s:.0f} s"
    found = [line for line in said.splitlines() if line.startswith("=========")]
    errors = errors_of(said)
    if process.returncode and not errors:
        last = (complained.strip().splitlines() or ["it says nothing"])[-1]
        return None, f"exit code {process.returncode}: {last}"[:300]
    if errors is None:
        return None, "the tool printed no summary"
    return errors, "\n".join(found[:REPORT_LINES]) if errors else ""


def _outcomes(tool: str, batch: Sequence[Case], limit_s: float, folder: Path) -> list[Outcome]:
    """Of each case; together where they are clean, else each by itself."""
    errors, text = _run(tool, batch, START_S + limit_s * len(batch), folder)
    if errors == 0:
        return [Outcome(tool=tool, case=case, errors=0) for case in batch]
    found = []
    for case in batch:
        if len(batch) > 1:
            errors, text = _run(tool, [case], START_S + limit_s, folder)
        told = {"reason": text} if errors is None else {"report": text}
        found.append(Outcome(tool=tool, case=case, errors=errors, **told))
    return found


def _batches(every: Sequence[Case], tool: str, known: set[tuple[str, str]]) -> list[list[Case]]:
    """What is left for a tool, some cases of one family at a time."""
    left = [case for case in every if (tool, json.dumps(asdict(case))) not in known]
    found = []
    for name in dict.fromkeys(case.kernel for case in left):
        own = [case for case in left if case.kernel == name]
        found += [own[i : i + CASES_AT_ONCE] for i in range(0, len(own), CASES_AT_ONCE)]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the cases, run none")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--families", nargs="+", default=[], metavar="FAMILY")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--gpu", default="h200", help="GPU file")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--case-limit", type=float, default=30.0, metavar="S")
    parser.add_argument("--time-limit", type=float, metavar="S", help="begin no process after")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, help="a JSON file; gone on with where it exists")
    return parser


def _refuse(reason: str) -> NoReturn:
    print(f"bench.sanitize: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _tool_version() -> str:
    import torch

    if shutil.which("compute-sanitizer") is None:
        _refuse("compute-sanitizer is missing: it comes with the CUDA toolkit; see --list")
    if not torch.cuda.is_available():
        _refuse("torch finds no GPU here: pass --list to see the cases")
    said = subprocess.run(["compute-sanitizer", "--version"], capture_output=True, text=True)
    return next((line for line in said.stdout.splitlines() if "ersion" in line), "unknown").strip()


def main(given: Sequence[str] | None = None) -> int:
    """Print a line a family and tool; 1 where a case has errors or did not end."""
    began = time.monotonic()
    chosen = _parser().parse_args(given)
    if chosen.launch is not None:
        launch_all(chosen.launch)
        return 0
    try:
        every = cases(load_gpu(chosen.gpu), chosen.families)
    except ValueError as error:
        _refuse(str(error))
    if chosen.list:
        for case in every:
            print(f"{case.kernel:22} {case.problem}")
        print(f"{len(every)} cases, each under {', '.join(chosen.tools)}")
        return 0
    version = _tool_version()
    if chosen.output is not None and not chosen.commit:
        _refuse("--output needs --commit: an outcome without its code is no result")
    record = _open_record(chosen, version)
    known = {(one["tool"], json.dumps(one["case"])) for one in record["outcomes"]}
    work = [(tool, batch) for tool in chosen.tools for batch in _batches(every, tool, known)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(chosen.jobs) as pool:

        def one(tool: str, batch: list[Case]) -> list[Outcome] | None:
            if chosen.time_limit and time.monotonic() - began > chosen.time_limit:
                return None
            return _outcomes(tool, batch, chosen.case_limit, Path(folder))

        running = {pool.submit(one, tool, batch): (tool, batch) for tool, batch in work}
        left = 0
        for ended in as_completed(running):
            tool, batch = running[ended]
            if (found := ended.result()) is None:
                left += len(batch)
                continue
            record["outcomes"] += [asdict(outcome) for outcome in found]
            _write(chosen.output, record)
            print(_line(tool, batch[0].kernel, found), flush=True)
    if left:
        print(f"{left} cases were not begun: the time limit was reached, the same command goes on")
    return int(left > 0 or any(outcome["errors"] != 0 for outcome in record["outcomes"]))


def _line(tool: str, name: str, found: Sequence[Outcome]) -> str:
    bad = [one for one in found if one.errors != 0]
    head = f"{tool:10} {name:22} {len(found) - len(bad)} of {len(found)} cases clean"
    told = (f"  {b.case.problem}: {b.reason or f'{b.errors} errors'}" for b in bad)
    return "\n".join([head, *told])


def _open_record(chosen: argparse.Namespace, version: str) -> dict[str, Any]:
    from tuning.environment import read_environment
    from workbench.outfile import check_outfile

    fresh: dict[str, Any] = {
        "schema": SCHEMA,
        "commit": chosen.commit,
        "tool": version,
        "environment": read_environment("cuda").to_dict(),
        "outcomes": [],
    }
    path = chosen.output
    if path is None:
        return fresh
    try:
        check_outfile(path, SCHEMA)
    except ValueError as error:
        _refuse(str(error))
    if not path.exists() or not path.stat().st_size:
        return fresh
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (old["commit"], old["environment"]["gpu"]) != (chosen.commit, fresh["environment"]["gpu"]):
        _refuse(f"{path}: outcomes of commit {old['commit']}: choose another output")
    return old


def _write(path: Path | None, record: dict[str, Any]) -> None:
    from workbench.outfile import write_outfile

    if path is not None:
        write_outfile(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
