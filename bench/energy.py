"""Millijoules a launch, by NVML's energy counter beside what ``predict`` says.

    python -m bench.energy --commit HASH --output evidence/h200/energy.json

Each problem runs in the model's best configuration of a family, back to back on operands of its
own, three times, each time after half a second of itself; runs of all problems take turns.  Power
and time stand beside the energy, so that an error of the prediction can be told apart.  Nothing
else may run on the GPU: its counter is of the whole board.  ``--dry-run`` opens small problems on
the host, launches each once and measures nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.dry_run import small
from bench.energy_counter import per_launch
from bench.place import place
from sim import Gpu, load_gpu, price
from sim.energy import launch_energy
from tiles.kernels import Backend, kernel
from tiles.problems import parse_problem
from tuning.timing import open_timer
from workbench.outfile import check_outfile, write_outfile

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
#: A bout of launches before the counter is looked at.
BOUT_S = 0.01
#: What is asked: of the runs' spread, and of the prediction.
ASKED_SPREAD, ASKED_ERROR = 0.05, 0.15
SEED = 0


def _row(text: str, family: str, gpu: Gpu) -> dict[str, Any]:
    """A problem with its prediction; measured is filled in later."""
    problem, one = parse_problem(text), kernel(family)
    refusal = one.refusal(problem, gpu.limits)
    if refusal is not None:
        raise ValueError(f"{family} cannot serve {text}: {refusal}")
    best = price(problem, one, one.legal_space(problem, gpu.limits).accepted, gpu).best()
    energy = launch_energy(best, gpu)
    return {
        "problem": text,
        "kernel": family,
        "config": best.config.to_dict(),
        "predicted": {
            "time_us": best.time_us,
            "power_w": energy.power_w,
            "energy_mj": energy.energy_mj,
        },
        "measured": {"energy_mj": [], "power_w": [], "time_us": [], "disturbed": []},
    }


def _opened(row: dict[str, Any], gpu: Gpu, *, dry: bool) -> Callable[[], int]:
    """Launches for a bout, one behind the other, and says how many; the answer is right.

    Raises:
        ValueError: it is not.
    """
    problem, one = parse_problem(row["problem"]), kernel(row["kernel"])
    config = one.config_type.from_dict(row["config"])
    if dry:
        if one.backend is not Backend.TRITON:
            return lambda: 0  # nothing runs CUDA C++ on the host
        problem = small(problem)
        config = one.default(problem, gpu.limits)
    workload = one.workload(problem, device="cpu" if dry else "cuda", seed=SEED)
    accuracy = workload.check(config)
    if not accuracy.ok:
        raise ValueError(f"{row['problem']}: {accuracy.reason}")
    if dry:
        (launch,) = workload.launchers(config, 1)
        launch()
        return lambda: 1
    import torch

    timer = open_timer(
        partial(workload.launchers, config),
        set_bytes=workload.set_bytes,
        l2_bytes=int(torch.cuda.get_device_properties(0).L2_cache_size),
        device="cuda",
    )
    replays = max(1, round(BOUT_S * 1e6 / (timer.launches * row["predicted"]["time_us"])))

    def work() -> int:
        timer.bout(replays)
        torch.cuda.synchronize()
        return int(replays * timer.launches)

    return work


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    try:
        if arguments.output is not None:
            check_outfile(arguments.output, SCHEMA)
        gpu = load_gpu(arguments.gpu)
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
    if arguments.output is not None:
        content = {
            "schema": SCHEMA,
            "gpu": arguments.gpu,
            "dry_run": arguments.dry_run,
            "commit": arguments.commit,
            "command": "python -m bench.energy",
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "environment": environment,
            "runs": {"count": RUNS, "seconds": arguments.seconds, "settle_s": SETTLE_S},
            "asked": {"spread": ASKED_SPREAD, "error": ASKED_ERROR},
            "rows": rows,
        }
        write_outfile(arguments.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 0


def _measure(rows: Sequence[dict[str, Any]], gpu: Gpu, arguments: argparse.Namespace) -> None:
    works = [_opened(row, gpu, dry=arguments.dry_run) for row in rows]
    if arguments.dry_run:
        return
    from tuning.nvml import open_nvml

    nvml = open_nvml()
    if nvml is None:
        raise ValueError("NVML does not answer: pip install 'tile-workbench[cuda]'")
    nvml.claim()
    for turn in range(RUNS):
        order = list(zip(rows, works, strict=True))
        for row, work in order if turn % 2 == 0 else reversed(order):
            nvml.company()  # what went on before is another's
            found = per_launch(
                work, nvml.energy_j, arguments.seconds, time.monotonic, settle_s=SETTLE_S
            )
            measured = row["measured"]
            measured["energy_mj"].append(1e3 * found.energy_j)
            measured["power_w"].append(found.power_w)
            measured["time_us"].append(1e6 * found.time_s)
            measured["disturbed"].append(nvml.company())
    for row in rows:
        row["measured"] |= {"spread": _spread(row), "error_of_prediction": _error(row)}


def _spread(row: dict[str, Any]) -> float:
    found = row["measured"]["energy_mj"]
    return float((max(found) - min(found)) / statistics.median(found))


def _error(row: dict[str, Any], quantity: str = "energy_mj") -> float:
    """Of the prediction, by the median."""
    return float(row["predicted"][quantity] / statistics.median(row["measured"][quantity]) - 1)


def _line(row: dict[str, Any]) -> str:
    predicted, measured = row["predicted"], row["measured"]
    what = f"{row['problem']} ({row['kernel']}): predicted {predicted['energy_mj']:.2f} mJ"
    if not measured["energy_mj"]:
        return f"{what}, not measured"
    line = (
        f"{what}, measured {statistics.median(measured['energy_mj']):.2f} mJ, spread "
        f"{100 * _spread(row):.1f} % (asked {100 * ASKED_SPREAD:.0f}), error "
        f"{100 * _error(row):+.1f} % (asked {100 * ASKED_ERROR:.0f}): power "
        f"{100 * _error(row, 'power_w'):+.1f} %, time {100 * _error(row, 'time_us'):+.1f} %"
    )
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
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
