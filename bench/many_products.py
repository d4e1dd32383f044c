"""Batched and grouped products beside what people would run instead.

    python -m bench.many_products --output many_products.json

Ours is the fastest of the model's best configurations and the default, all timed shortly; then the
winner and its peers are timed in turns, the L2 cold (tuning/timing.py has the rule).  A ratio is
the peer's time over ours.  ``--device cpu`` is a dry run: small shapes in Triton's interpreter,
answers checked, no times.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

SCHEMA = "tile-workbench/many-products/1"
#: DeepSeek-V3's experts, up and down, few and all on a GPU; attention of 128 heads.
PROBLEMS = (
    *(
        f"grouped_gemm:{shape}:{recipe}:{layout}:bf16"
        for recipe in ("deepseek-fp8", "int8-b1x128", "bf16")
        for shape, layouts in (
            ("8x32768x4096x7168", ("contiguous", "padded.128", "masked.8192", "gathered.8")),
            ("8x32768x7168x2048", ("contiguous", "padded.128", "masked.8192")),
            ("32x8192x4096x7168", ("contiguous", "padded.128", "masked.1024", "gathered.8")),
            ("32x8192x7168x2048", ("contiguous", "padded.128", "masked.1024")),
            ("256x32768x4096x7168", ("contiguous", "padded.128", "gathered.8")),
            ("256x1024x7168x2048", ("contiguous", "masked.128", "gathered.8")),
        )
        for layout in layouts
    ),
    *(
        f"batched_gemm:{shape}:{recipe}:nk:bf16"
        for recipe in ("e4m3-tensor", "int8-row", "bf16")
        for shape in ("128x4096x4096x128", "384x512x512x64")
    ),
    *(
        f"batched_gemm:{shape}:{recipe}:{second}:bf16"
        for recipe in ("e4m3-tensor", "int8-row", "bf16")
        for shape in ("128x4096x128x4096", "384x512x64x512")
        for second in ("nk", "kn")
    ),
)
DRY = (
    "grouped_gemm:4x64x64x128:deepseek-fp8:contiguous:bf16",
    "grouped_gemm:4x64x64x128:int8-b1x128:gathered.2:bf16",
    "grouped_gemm:4x64x64x128:bf16:masked.64:bf16",
    "batched_gemm:2x64x64x64:e4m3-tensor:nk:bf16",
    "batched_gemm:2x64x64x64:bf16:kn:bf16",
)


def tuned(family: Any, problem: Any, gpu: Any, workload: Any, count: int) -> tuple[Any, int]:
    """The fastest right configuration of the model's best ones and the default; how many ran."""
    from bench.turns import ranked, tried

    default = family.default(problem, gpu.limits)
    if workload.device == "cpu":
        verdict = workload.check(default)
        if not verdict.ok:
            raise SystemExit(f"{family.name} {problem} {default}: {verdict.reason}")
        return default, 1
    times = tried(workload, dict.fromkeys([*ranked(problem, family, gpu, count), default]))
    return min(times, key=times.__getitem__), len(times)


def peer_launchers(
    workload: Any, make: Callable[[Any, Any], Callable[[], None]]
) -> Callable[[int], Sequence[Callable[[], None]]]:
    """A peer on as many copies of the workload's operands as the timer asks for."""

    def launchers(sets: int) -> Sequence[Callable[[], None]]:
        copies = [workload.operands, *(workload.operands.copy() for _ in range(sets - 1))]
        return [make(workload, copy) for copy in copies]

    return launchers


def measure(text: str, gpu: Any, device: str, count: int) -> list[dict[str, Any]]:
    """One line for each family that serves the problem."""
    from bench.product_peers import PROBE_ERRORS, batched_peers, grouped_peers
    from bench.turns import in_turns
    from tiles.kernels import kernels
    from tiles.problems import GroupedGemm, parse_problem

    problem, lines = parse_problem(text), []
    peers = grouped_peers() if isinstance(problem, GroupedGemm) else batched_peers()
    for family in kernels().values():
        if family.refusal(problem, gpu.limits) is not None:
            continue
        if device == "cpu" and family.backend.value != "triton":
            continue
        workload = family.workload(problem, device=device, seed=0)
        config, tried = tuned(family, problem, gpu, workload, count)
        line: dict[str, Any] = {
            "problem": text,
            "kernel": family.name,
            "config": config.to_dict(),
            "tried": tried,
        }
        lines.append(line)
        if device == "cpu":
            continue
        rivals = {family.name: (partial(workload.launchers, config), workload.set_bytes)}
        absent = {}
        for name, make in peers.items():
            try:
                make(workload, workload.operands)()  # whether it is there and takes the problem
            except PROBE_ERRORS as error:
                absent[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            rivals[name] = (peer_launchers(workload, make), workload.set_bytes)
        timings = in_turns(rivals)
        ours = timings[family.name]
        line["us"] = {name: timing.time_us for name, timing in timings.items()}
        line["samples_us"] = {name: timing.samples_us for name, timing in timings.items()}
        line["timing"] = ours.timing
        line["tflops"] = problem.flops / ours.time_us / 1e6
        line["absent"] = absent
        line["ratios"] = {n: t / line["us"][family.name] for n, t in line["us"].items()}
    return lines


def show(line: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"{line['problem']:62} {line['kernel']:20}"
    if "us" not in line:
        return f"{head} answer right, not timed (dry run)"
    ratios = "  ".join(
        f"{name} {ratio:.2f}" for name, ratio in line["ratios"].items() if name != line["kernel"]
    )
    return f"{head} {line['us'][line['kernel']]:9.1f} us {line['tflops']:6.0f} TFLOP/s  {ratios}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--configs", type=int, default=12, help="of the model's best, each family")
    parser.add_argument("--only", default="", help="problems whose text holds this")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.turns import find_gpu, write_record
    from tuning.environment import read_environment

    environment = read_environment(arguments.device)
    gpu = find_gpu(arguments.device)
    lines: list[dict[str, Any]] = []
    for text in DRY if arguments.device == "cpu" else PROBLEMS:
        if arguments.only in text:
            for line in measure(text, gpu, arguments.device, arguments.configs):
                lines.append(line)
                print(show(line), flush=True)
    dry = arguments.device == "cpu"
    where = {"dry": dry, "environment": asdict(environment)}
    write_record(arguments.output, SCHEMA, lines, **where)


if __name__ == "__main__":
    main()
