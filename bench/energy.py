"""Millijoules a launch, by NVML's energy counter beside what ``predict`` says.

    python -m bench.energy --commit HASH --output evidence/h200/energy.json

Each problem runs in the model's best configuration of a family, back to back on operands of its
own, three times; runs of all problems take turns.  ``--dry-run`` opens small problems on the host,
launches each once and measures nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.dry_run import small
from bench.energy_counter import joules_per_launch
from bench.place import place
from sim import Gpu, load_gpu, price
from sim.energy import launch_energy
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.outfile import check_outfile, write_outfile

__all__ = ["PROBLEMS", "SCHEMA", "main"]

SCHEMA = "tile-workbench/energy/1"
#: Long kernels, whose energy is to repeat: products that the power limit holds, and streams.
PROBLEMS = (
    ("gemm:8192x8192x8192:bf16:bf16", "triton_gemm"),
    ("gemm:8192x8192x8192:e4m3-row:bf16", "triton_gemm"),
    ("gemm:8192x8192x8192:int8-row:bf16", "triton_gemm"),
    ("gemm:8192x8192x8192:deepseek-fp8:bf16", "triton_gemm"),
    ("gemm:16x28672x8192:e4m3-row:bf16", "triton_gemm"),
    ("quantize:16384x16384:e4m3fn.b1x128:bf16", "triton_quantize"),
    ("quantize:16384x16384:int8.row:bf16", "triton_quantize"),
)
RUNS, SECONDS = 3, 3.0
#: A bout of launches before the counter is looked at.
BOUT_S = 0.05
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
        "measured": {"energy_mj": []},
    }


def _opened(row: dict[str, Any], gpu: Gpu, *, dry: bool) -> Callable[[], int]:
    """Launches for a bout, one behind the other, and says how many."""
    problem, one = parse_problem(row["problem"]), kernel(row["kernel"])
    config = one.config_type.from_dict(row["config"])
    if dry:
        problem = small(problem)
        config = one.default(problem, gpu.limits)
    workload = one.workload(problem, device="cpu" if dry else "cuda", seed=SEED)
    accuracy = workload.check(config)
    if not accuracy.ok:
        raise ValueError(f"{row['problem']}: {accuracy.reason}")
    (launch,) = workload.launchers(config, 1)
    if dry:
        launch()
        return lambda: 1
    import torch

    launch()
    graph, count = torch.cuda.CUDAGraph(), 20
    with torch.cuda.graph(graph):
        for _ in range(count):
            launch()
    replays = max(1, round(BOUT_S * 1e6 / (count * row["predicted"]["time_us"])))

    def work() -> int:
        for _ in range(replays):
            graph.replay()
        torch.cuda.synchronize()
        return replays * count

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
            "asked": {"spread": ASKED_SPREAD, "error": ASKED_ERROR},
            "rows": rows,
        }
        write_outfile(arguments.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 0


def _measure(rows: Sequence[dict[str, Any]], gpu: Gpu, arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        for row in rows:
            _opened(row, gpu, dry=True)
        return
    from tuning.nvml import open_nvml

    nvml = open_nvml()
    if nvml is None:
        raise ValueError("NVML does not answer: pip install 'tile-workbench[cuda]'")
    for _ in range(RUNS):
        for row in rows:
            work = _opened(row, gpu, dry=False)
            joules = joules_per_launch(work, nvml.energy_j, arguments.seconds, time.monotonic)
            row["measured"]["energy_mj"].append(1e3 * joules)


def _line(row: dict[str, Any]) -> str:
    found, predicted = row["measured"]["energy_mj"], row["predicted"]["energy_mj"]
    what = f"{row['problem']} ({row['kernel']}): predicted {predicted:.2f} mJ"
    if not found:
        return f"{what}, not measured"
    middle = statistics.median(found)
    spread = (max(found) - min(found)) / middle
    error = predicted / middle - 1
    return (
        f"{what}, measured {middle:.2f} mJ, spread {100 * spread:.1f} % (asked "
        f"{100 * ASKED_SPREAD:.0f}), error {100 * error:+.1f} % (asked {100 * ASKED_ERROR:.0f})"
    )


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
