"""What the hardware counts of launches: ``ncu``'s listing, and what it says when it counts nothing.

Metrics (Nsight Compute's Kernel Profiling Guide): ``dram__bytes_read.sum`` and
``dram__bytes_write.sum``, bytes between DRAM and the L2, which newer versions list as
``dram__bytes_op_read.sum`` and ``dram__bytes_op_write.sum``;
``lts__t_sectors_srcunit_tex_op_read.sum``, sectors of 32 bytes that the L2 served to the
multiprocessors, of which a multicast counts once;
``l1tex__m_xbar2l1tex_read_bytes.sum``, bytes that arrived at them, where it counts each.  ``ncu``
empties the caches before every launch unless told otherwise, and what a launch leaves in the L2 is
never counted as written.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.executed import MARK, Launch
from bench.profiled import run_profiled

__all__ = ["METRICS", "Counted", "CountersRefused", "count_traffic", "read_counters"]

#: A quantity's metrics, in the order of asking, with the bytes that one unit stands for.
METRICS: dict[str, tuple[tuple[str, ...], int]] = {
    "dram_read_bytes": (("dram__bytes_read.sum", "dram__bytes_op_read.sum"), 1),
    "dram_write_bytes": (("dram__bytes_write.sum", "dram__bytes_op_write.sum"), 1),
    "l2_read_bytes": (("lts__t_sectors_srcunit_tex_op_read.sum",), 32),
    "sm_read_bytes": (("l1tex__m_xbar2l1tex_read_bytes.sum",), 1),
}
#: Told where it is known: nothing is judged by it.
OPTIONAL = frozenset({"sm_read_bytes"})
_MISSING = re.compile(r"==ERROR== Failed to find metric (?:regex:\^)?([A-Za-z0-9_]+)")
#: Units that a listing may give in place of the plain one.
_PREFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_PERMISSION = "ERR_NVGPUCTRPERM"


class CountersRefused(ValueError):
    """The profiler counted nothing; the message says why and what to do."""


class MetricMissing(CountersRefused):
    """The profiler does not know a metric; ``metric`` is its name without a suffix."""

    def __init__(self, metric: str) -> None:
        super().__init__(f"ncu knows no metric {metric}: `ncu --query-metrics` lists those it does")
        self.metric = metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one launch moved; a launch may consist of several kernels, which are summed."""

    kernels: tuple[str, ...]  #: by name, as the profiler lists them
    values: dict[str, float]  #: bytes by quantity, as in :data:`METRICS`


def read_counters(text: str, count: int, metrics: dict[str, str]) -> list[Counted]:
    """Counters of every launch, from ``ncu --csv``.

    Args:
        count: launches, each behind a mark (:mod:`bench.executed`).
        metrics: of every quantity, the metric that was asked for.
    Raises:
        CountersRefused: no permission, no such metric, no kernel, another number of launches, or
            a counter without a value.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        raise _refusal(lines)
    names: list[dict[str, str]] = []  # of each launch, kernels by the profiler's number
    values: list[dict[str, float]] = []
    mark = ""
    quantity_of = {metric: quantity for quantity, metric in metrics.items()}
    for row in csv.DictReader(lines[first:]):
        number, name = row["ID"] or "", row["Kernel Name"] or ""
        if not number.isdecimal():
            continue  # the tool's own lines may stand among the rows
        if MARK in name:
            if not names or number != mark:
                mark = number
                names.append({})
                values.append({})
            continue
        quantity = quantity_of.get(row["Metric Name"] or "")
        if not names or quantity is None:
            continue
        names[-1][number] = name
        got = _value(row["Metric Value"], row["Metric Unit"], row["Metric Name"])
        scale = METRICS[quantity][1]
        values[-1][quantity] = values[-1].get(quantity, 0.0) + got * scale
    if len(names) != count:
        raise CountersRefused(f"ncu lists {len(names)} launches, {count} were made: run it again")
    for found, kernels in zip(values, names, strict=True):
        if not kernels:
            raise CountersRefused("ncu lists no kernel behind a mark: its name was filtered out")
        if missing := sorted(metrics.keys() - found.keys()):
            name = next(iter(kernels.values()))
            raise CountersRefused(f"ncu lists no {metrics[missing[0]]} of {name}")
    return [
        Counted(kernels=tuple(kernels.values()), values=found)
        for found, kernels in zip(values, names, strict=True)
    ]


def _value(text: str | None, unit: str | None, metric: str | None) -> float:
    plain = (text or "").replace(",", "")
    prefix = (unit or "")[:1] if (unit or "").lower().endswith("byte") else ""
    try:
        return float(plain) * (1 if (unit or "").startswith("byte") else _PREFIXES[prefix.upper()])
    except (ValueError, KeyError):
        raise CountersRefused(
            f"ncu gives {text!r} {unit or ''} for {metric}: its counter cannot be read here"
        ) from None


def _refusal(lines: Sequence[str]) -> CountersRefused:
    """Why a listing holds no kernel."""
    text = "\n".join(lines)
    if _PERMISSION in text:
        return CountersRefused(
            f"{_PERMISSION}: this user may not read the GPU's counters: run as root, or set "
            "NVreg_RestrictProfilingToAdminUsers=0 for the driver's module"
        )
    if found := _MISSING.search(text):
        return MetricMissing(found[1])
    if "No kernels were profiled" in text:
        said = [line for line in lines if line.startswith("==ERROR==")]
        return CountersRefused(f"ncu profiled no kernel: {' '.join(said)[:200] or 'none matched'}")
    said = [line for line in lines if line.startswith("==ERROR==")] or list(lines[-1:])
    return CountersRefused(f"ncu lists no kernel: {' '.join(said)[:200] or 'it says nothing'}")


Profile = Callable[[Sequence[Launch], Sequence[str], float], str]


def profile(
    launches: Sequence[Launch], metrics: Sequence[str], time_limit_s: float, device: str = ""
) -> str:
    """Run the launches under ``ncu``: its listing, with what it said beside it.

    Args:
        device: as ``CUDA_VISIBLE_DEVICES`` names it; "" leaves that as it is.

    Raises:
        CountersRefused: there is no ``ncu``, or it took too long.
    """
    tool = shutil.which("ncu")
    if tool is None:
        raise CountersRefused("ncu is missing: it comes with the CUDA toolkit")
    with tempfile.TemporaryDirectory() as folder:
        work, listing = Path(folder) / "launches.json", Path(folder) / "listing.csv"
        work.write_text(json.dumps([[one.problem, one.kernel, one.config] for one in launches]))
        command = [
            *(tool, "--csv", "--print-units", "base", "--metrics", ",".join(metrics)),
            # Bytes do not depend on the clock, which belongs to whoever runs the host.
            *("--profile-from-start", "off", "--cache-control", "all", "--clock-control", "none"),
            *("--log-file", str(listing), sys.executable, "-m", "bench.executed", str(work)),
        ]
        try:
            environment = {"TMPDIR": folder} | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
            done = run_profiled(command, time_limit_s=time_limit_s, environment=environment)
        except subprocess.TimeoutExpired:
            raise CountersRefused(f"ncu took longer than {time_limit_s:.0f} s") from None
        text = listing.read_text() if listing.exists() else ""
        if '"ID"' not in text:
            return f"{text}\n{done.stdout}\n{done.stderr.strip()}"
        return text


def count_traffic(
    launches: Sequence[Launch], *, time_limit_s: float, run: Profile = profile
) -> tuple[list[Counted], dict[str, str]]:
    """Counters of every launch and the metrics that gave them.

    A metric that the profiler does not know is replaced by its other name where it has one, and
    left out where nothing is judged by it.

    Raises:
        CountersRefused: nothing was counted.
    """
    turns = dict.fromkeys(METRICS, 0)
    while True:
        metrics = {quantity: METRICS[quantity][0][turn] for quantity, turn in turns.items()}
        try:
            text = run(launches, list(metrics.values()), time_limit_s)
            return read_counters(text, len(launches), metrics), metrics
        except MetricMissing as error:
            names = {metric.partition(".")[0]: quantity for quantity, metric in metrics.items()}
            quantity = names.get(error.metric)
            if quantity is None:
                raise
            if turns[quantity] + 1 < len(METRICS[quantity][0]):
                turns[quantity] += 1
            elif quantity in OPTIONAL:
                del turns[quantity]
            else:
                raise
