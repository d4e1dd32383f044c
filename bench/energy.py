"""Millijoules a launch, by NVML's energy counter beside what ``predict`` says.

    python -m bench.energy --commit HASH --output evidence/h200/energy.json
    python -m bench.energy --predict-again evidence/h200/energy.json

Each problem runs in the model's best configuration of a family, back to back on operands of its
own, three times, each time after half a second of itself; runs of all problems take turns.  The
device has work while the counter is read.  Power and time stand beside the energy, so that an error
of the prediction can be told apart, and so do the time of a launch by the rule of the tables,
before the run, and the sensors' clock and limits, behind it.  Nothing else may run on the GPU: its
counter is of the whole board.  ``--dry-run`` opens small problems on the host, launches each once
and measures nothing.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.energy_again import again_lines, predicted
from bench.energy_load import Load, dry_run, opened
from bench.place import place
from bench.record_file import moment, write_record
from sim import Gpu, load_gpu, price
from tiles.kernels import kernel
from tiles.problems import parse_problem
from tuning.energy_counter import Counted, counted, settle
from tuning.energy_reading import BOUT_S
from tuning.nvml import Nvml, open_nvml
from workbench.outfile import check_outfile

__all__ = ["PROBLEMS", "SCHEMA", "main"]

SCHEMA = "tile-workbench/energy/1"
#: Long kernels, whose energy is to repeat: products that the power limit holds, and streams.
PROBLEMS = (
    ("gemm:8192x8192x8192:bf16:bf16", "hopper_gemm"),
    ("gemm:8192x8192x8192:bf16:bf16", "triton_gemm"),
    ("gemm:8192x8192x8192:e4m3-row:bf16", "hopper_gemm"),
    ("gemm:8192x8192x8192:int8-row:bf16", "hopper_gemm"),
    ("gemm:8192x8192x8192:deepseek-fp8:bf16", "hopper_gemm"),
    ("gemm:16x28672x8192:e4m3-row:bf16", "triton_gemm"),
    ("quantize:16384x16384:e4m3fn.b1x128:bf16", "triton_quantize"),
    ("quantize:16384x16384:int8.row:bf16", "triton_quantize"),
)
RUNS, SECONDS, SETTLE_S = 3, 2.0, 0.5
#: Of the counter, the first one included; and how much longer a run may take to see them.
LEAST_STEPS, LONGEST_RUNS = 5, 10
#: What is asked: of the runs' spread, and of the prediction.
ASKED_SPREAD, ASKED_ERROR = 0.05, 0.15
#: What stands in a row for each run, in this order.
MEASURED = (
    "energy_mj",
    "power_w",
    "time_us",
    "short_time_us",
    "clock_mhz",
    "throttled",
    "look_ms",
    "disturbed",
)


def _row(text: str, family: str, gpu: Gpu) -> dict[str, Any]:
    """A problem with its prediction; measured is filled in later."""
    problem, one = parse_problem(text), kernel(family)
    refusal = one.refusal(problem, gpu.limits)
    if refusal is not None:
        raise ValueError(f"{family} cannot serve {text}: {refusal}")
    best = price(problem, one, one.legal_space(problem, gpu.limits).accepted, gpu).best()
    return {
        "problem": text,
        "kernel": family,
        "config": best.config.to_dict(),
        "predicted": predicted(best, gpu),
        "measured": {name: [] for name in MEASURED},
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    started = moment()
    try:
        if arguments.output is not None:
            check_outfile(arguments.output, SCHEMA)
        gpu = load_gpu(arguments.gpu)
        if arguments.predict_again is not None:
            print("\n".join(again_lines(arguments.predict_again, SCHEMA, gpu)))
            return 0
        environment = {} if arguments.dry_run else place(gpu, "pass --dry-run")
        rows = [_row(*_asked(text), gpu) for text in arguments.problem] or [
            _row(text, family, gpu) for text, family in PROBLEMS
        ]
        _measure(rows, gpu, arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(_line(row))
    content = {
        "runs": {"count": RUNS, "seconds": arguments.seconds, "settle_s": SETTLE_S},
        "asked": {"spread": ASKED_SPREAD, "error": ASKED_ERROR},
        "rows": rows,
    }
    write_record(
        arguments,
        content,
        schema=SCHEMA,
        command="python -m bench.energy",
        started=started,
        environment=environment,
    )
    return 0


def _measure(rows: Sequence[dict[str, Any]], gpu: Gpu, arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        for row in rows:
            dry_run(row, gpu)
        return
    loads = [opened(row) for row in rows]
    nvml = open_nvml()
    if nvml is None:
        raise ValueError("NVML does not answer: pip install 'tile-workbench[cuda]'")
    nvml.claim()
    for turn in range(RUNS):
        order = list(zip(rows, loads, strict=True))
        for row, load in order if turn % 2 == 0 else reversed(order):
            found = _run(load, nvml, arguments.seconds)
            for name in MEASURED:
                row["measured"][name].append(found[name])
    for row in rows:
        row["measured"] |= {"spread": _spread(row), "error_of_prediction": _error(row)}


def _run(load: Load, nvml: Nvml, seconds: float) -> dict[str, Any]:
    """One run: what :data:`MEASURED` names."""
    nvml.company()  # what went on before is another's
    short_time_us = load.short_time_us()
    found = _counted(load, nvml, seconds)
    reading = load.read(nvml.read)
    return {
        "energy_mj": 1e3 * found.launch_j,
        "power_w": found.power_w,
        "time_us": 1e6 * found.launch_s,
        "short_time_us": short_time_us,
        "clock_mhz": reading.sm_clock_mhz,
        "throttled": list(reading.throttled),
        "look_ms": 1e3 * found.look_s,
        "disturbed": nvml.company(),
    }


def _counted(load: Load, nvml: Nvml, seconds: float) -> Counted:
    settle(load.work, SETTLE_S, time.monotonic)
    found = counted(
        load.work,
        nvml.energy_j,
        time.monotonic,
        window_s=seconds,
        longest_s=LONGEST_RUNS * seconds,
        least_steps=LEAST_STEPS,
    )
    if isinstance(found, str):
        raise ValueError(f"{found}: measure on another GPU")
    return found


def _spread(row: dict[str, Any]) -> float:
    found = row["measured"]["energy_mj"]
    return float((max(found) - min(found)) / statistics.median(found))


def _error(row: dict[str, Any], quantity: str = "energy_mj", what: str = "") -> float:
    """Of what is predicted, the quantity itself unless it says so, by the median."""
    found = statistics.median(row["measured"][quantity])
    return float(row["predicted"][what or quantity] / found - 1)


def _line(row: dict[str, Any]) -> str:
    measured = row["measured"]
    what = f"{row['problem']} ({row['kernel']}): predicted {row['predicted']['energy_mj']:.2f} mJ"
    if not measured["energy_mj"]:
        return f"{what}, not measured"
    line = (
        f"{what}, measured {statistics.median(measured['energy_mj']):.2f} mJ, spread "
        f"{100 * _spread(row):.1f} % (asked {100 * ASKED_SPREAD:.0f}), error "
        f"{100 * _error(row):+.1f} % (asked {100 * ASKED_ERROR:.0f}): power "
        f"{100 * _error(row, 'power_w'):+.1f} %, "
        f"time {100 * _error(row, 'time_us', 'sustained_time_us'):+.1f} %"
    )
    if max(measured["look_ms"]) > 1e3 * BOUT_S:
        line += f"; a look at the counter took {max(measured['look_ms']):.1f} ms: it may have idled"
    disturbed = [one for one in measured["disturbed"] if one]
    return f"{line}; disturbed: {disturbed[0]}" if disturbed else line


def _asked(text: str) -> tuple[str, str]:
    problem, separator, family = text.rpartition("=")
    if not separator:
        raise ValueError(
            f"--problem {text}: write PROBLEM=FAMILY, gemm:64x64x64:bf16:bf16=triton_gemm"
        )
    return problem, family


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.energy", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200", help="whose prediction stands beside")
    parser.add_argument("--problem", action="append", default=[], metavar="PROBLEM=FAMILY")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one run")
    parser.add_argument("--dry-run", action="store_true", help="small problems, nothing measured")
    parser.add_argument(
        "--predict-again",
        type=Path,
        metavar="RECORD",
        help="today's predictions beside a stored record's measurements; needs no GPU",
    )
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
