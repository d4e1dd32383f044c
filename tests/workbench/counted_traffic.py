"""Listings as the profiler makes them, and points of the traffic record with counts or without.

The listings are made up after those that ``ncu --csv --print-units base`` writes.
"""

from collections.abc import Sequence
from pathlib import Path

from bench import traffic
from bench.counters import METRICS, Counted, read_counters
from bench.executed import MARK, Launch
from bench.traffic_points import Point

ASKED_FOR = {quantity: names[0] for quantity, (names, _) in METRICS.items()}
HEAD = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",'
    '"Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
)
KERNEL = "_gemm_scaled(CUtensorMap, const float *, int)"


def rows(number: int, name: str, values: dict[str, str], unit: str = "") -> list[str]:
    units = {metric: "sector" if "sectors" in metric else "byte" for metric in values}
    return [
        f'"{number}","42","python3.12","127.0.0.1","{name}","1","7","(128, 1, 1)","(132, 1, 1)",'
        f'"0","9.0","Command line profiler metrics","{metric}","{unit or units[metric]}","{value}"'
        for metric, value in values.items()
    ]


def values(
    read: str = "100", write: str = "20", l2: str = "64", sm: str = "4,096"
) -> dict[str, str]:
    return dict(zip(ASKED_FOR.values(), (read, write, l2, sm), strict=True))


def listing(*kernels: Sequence[str]) -> str:
    lines = ["==PROF== Connected to process 42 (/usr/bin/python3.12)", HEAD]
    number = 0
    for launch in kernels:
        lines += rows(number, f"{MARK}()", values("0", "0", "0", "0"))
        for name in launch:
            number += 1
            lines += rows(number, name, values())
        lines.append("==PROF== Profiling: 2 passes")
        number += 1
    return "\n".join([*lines, "==PROF== Disconnected from process 42"])


REFUSED = {
    "permission": (
        "==PROF== Connected to process 42 (python)\n"
        "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
        "Performance Counters on the target device 0.\n==WARNING== No kernels were profiled.",
        "ERR_NVGPUCTRPERM: this user may not read the GPU's counters: run as root",
    ),
    "metric": (
        "==ERROR== Failed to find metric regex:^lts__t_sectors_srcunit_tex_op_read(\\.sum|\\.avg)",
        "ncu knows no metric lts__t_sectors_srcunit_tex_op_read",
    ),
    "kernel": ("==WARNING== No kernels were profiled.", "ncu profiled no kernel: none matched"),
    "crash": (
        "==ERROR== The application returned an error code (1).\n"
        "==WARNING== No kernels were profiled.",
        r"ncu profiled no kernel: ==ERROR== The application returned an error code \(1\)",
    ),
    "nothing": ("", "ncu lists no kernel: it says nothing"),
}


def point(problem: str, read: float, counted: float | None) -> Point:
    moved = {"dram_read_bytes": read, "dram_write_bytes": 0.0, "l2_read_bytes": 10.0}
    return Point(
        problem=problem,
        kernel="triton_gemm",
        config={"block_m": 64},
        predicted=moved,
        replayed=None,
        counted=None
        if counted is None
        else {"dram_read_bytes": counted, "dram_write_bytes": 0.0, "l2_read_bytes": 8.0},
    )


def counted(launches: Sequence[Launch]) -> list[Counted]:
    text = listing(*([KERNEL] for _ in launches))
    return read_counters(text, len(launches), ASKED_FOR)


def dry_run(path: Path, found: list[Point]) -> int:
    return traffic.main(["--dry-run", "--output", str(path)], find=lambda gpu: list(found))
