"""How many instructions a launch executes, counted by the hardware through ``ncu``.

One process for all launches: each follows a mark of ours, so that the profiler's list, which holds
kernels in the order of their launches, falls into the problems.  ``ncu`` may be missing, or forbid
its counters to this user; then every count says so.
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bounds import Executed
from bench.profiled import run_profiled

__all__ = ["METRIC", "Launch", "count", "read_listing"]

METRIC = "smsp__inst_executed.sum"
MARK = "tile_workbench_mark"
_MARK_SOURCE = f'extern "C" __global__ void {MARK}() {{}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A configuration of a kernel family on a problem."""

    problem: str
    kernel: str
    config: dict[str, Any]


def read_listing(text: str, count: int) -> list[int]:
    """Instructions of warps of each launch, from ``ncu --csv``.

    Args:
        count: launches, each behind a mark; a launch may consist of several kernels.
    Raises:
        ValueError: another number of marks, or none of the metric.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        said = [line for line in lines if line.startswith("==ERROR==")] or lines[-1:]
        raise ValueError(f"ncu lists no kernel: {' '.join(said)[:200] or 'it says nothing'}")
    sums: list[int] = []
    for row in csv.DictReader(lines[first:]):
        if MARK in (row["Kernel Name"] or ""):  # the tool's own lines may stand among the rows
            sums.append(0)
        elif row["Metric Name"] == METRIC and sums:
            sums[-1] += int(float(row["Metric Value"].replace(",", "")))
    if len(sums) != count:
        raise ValueError(f"ncu lists {len(sums)} launches, {count} were made")
    return sums


def count(launches: Sequence[Launch], *, time_limit_s: float) -> dict[str, Executed]:
    """Counts by problem; those that cannot be had say why."""

    def refused(reason: str) -> dict[str, Executed]:
        return {one.problem: Executed(problem=one.problem, refused=reason) for one in launches}

    if not launches:
        return {}
    tool = shutil.which("ncu")
    if tool is None:
        return refused("ncu is missing: it comes with the CUDA toolkit")
    with tempfile.TemporaryDirectory() as folder:
        work, listing = Path(folder) / "launches.json", Path(folder) / "listing.csv"
        work.write_text(json.dumps([[one.problem, one.kernel, one.config] for one in launches]))
        command = [
            *(tool, "--csv", "--metrics", METRIC, "--profile-from-start", "off"),
            *("--log-file", str(listing), sys.executable, "-m", "bench.executed", str(work)),
        ]
        try:
            done = run_profiled(command, time_limit_s=time_limit_s, environment={"TMPDIR": folder})
        except subprocess.TimeoutExpired:
            return refused(f"ncu took longer than {time_limit_s:.0f} s")
        try:
            sums = read_listing(listing.read_text() if listing.exists() else "", len(launches))
        except ValueError as error:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            return refused(f"{error} {last}".strip()[:300])
    return {
        one.problem: Executed(problem=one.problem, warp_instructions=total)
        for one, total in zip(launches, sums, strict=True)
    }


def launch_all(path: Path) -> None:
    """In the profiled process: each launch once, behind a mark, after one that is not counted."""
    import cupy
    import torch

    from bench.compiled_ahead import use_kept_binaries
    from tiles.kernels import kernel
    from tiles.problems import parse_problem

    use_kept_binaries()
    mark = cupy.RawKernel(_MARK_SOURCE, MARK)
    mark((1,), (1,), ())
    for text, name, fields in json.loads(path.read_text()):
        family = kernel(name)
        config = family.config_type.from_dict(fields)
        workload = family.workload(parse_problem(text), device="cuda", seed=0)
        launch = workload.launchers(config, 1)[0]
        launch()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()  # type: ignore[no-untyped-call]  # torch
        mark((1,), (1,), ())
        torch.cuda.synchronize()  # of another stream, it might be listed behind the launch
        launch()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]  # torch


if __name__ == "__main__":
    launch_all(Path(sys.argv[1]))
