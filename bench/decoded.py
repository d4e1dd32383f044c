"""Decoded products beside cuBLAS: ``python -m bench.decoded [--output FILE]``.

For every recipe that the family serves and every shape: ours, the best of the cost model's first
configurations as measured here, and ``torch.matmul`` in bf16, interleaved under the workbench's
timing rule (cold L2); MXFP8 beside ``torch._scaled_mm`` per tensor as well, where M <= 64.  With
``--device cpu`` the kernels run in Triton's interpreter on tiny shapes and no time is printed.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import gpu_names, load_gpu
from sim.gpu import Gpu
from sim.model import price
from tiles.kernels import TileConfig, kernel
from tiles.problems import Gemm, parse_shape
from tiles.recipes import RECIPES, recipe

FAMILY = "triton_decoded_gemm"
SHAPES = (
    "4096x4096x4096",
    "8192x8192x8192",
    "4096x14336x4096",
    "4096x4096x14336",
    "4096x7168x16384",
    "4096x2112x7168",
    "16384x4096x1024",
    "2048x3072x768",
    "128x7168x2048",
    "64x24576x1536",
    "16x8192x8192",
)
TINY = ("33x40x96",)
BF16, FP8 = "torch.matmul bf16", "_scaled_mm e4m3fn per tensor"
#: (recipe, least M, most M, peer, ratio asked for).
GOALS = (
    ("mxfp8-e4m3", 2048, 1 << 30, BF16, 1.0),
    ("mxfp8-e4m3", 1, 64, FP8, 0.95),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recipe and shape."""

    recipe: str
    shape: tuple[int, int, int]
    config: str
    ours_us: float | None  #: None where nothing was timed
    peers_us: dict[str, float]

    def ratio(self, peer: str) -> float | None:
        """Time of a peer over ours."""
        found = self.peers_us.get(peer)
        return None if self.ours_us is None or found is None else found / self.ours_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"ratios": {peer: self.ratio(peer) for peer in self.peers_us}}


def served(gpu: Gpu) -> list[str]:
    """Recipes that the family serves on a GPU."""
    family = kernel(FAMILY)
    problems = {name: Gemm(m=64, n=64, k=64, recipe=one) for name, one in RECIPES.items()}
    return [name for name, one in problems.items() if family.refusal(one, gpu.limits) is None]


def candidates(problem: Gemm, gpu: Gpu, count: int) -> list[TileConfig]:
    """The default, and the model's fastest of each way to decode, one of each tile first."""
    family = kernel(FAMILY)
    table = family.legal_space(problem, gpu.limits).accepted
    ranked = price(problem, family, table, gpu).ranking().tolist()
    chosen = [family.default(problem, gpu.limits)]
    for staged in (False, True):
        rows = [row for row in ranked if bool(table["staged"][row]) == staged]
        tiles: dict[tuple[int, ...], int] = {}
        for row in rows:
            names = ("block_m", "block_n", "block_k", "num_warps")
            tiles.setdefault(tuple(int(table[name][row]) for name in names), row)
        first = list(tiles.values())[: count // 3] + rows[: count // 2]
        chosen += [table.config(row) for row in first[: count // 2]]
    return list(dict.fromkeys(chosen))


def peers(problem: Gemm) -> dict[str, tuple[Any, int]]:
    """Launchers and bytes of a set of what people use instead."""
    import torch

    m, n, k = problem.shape

    def randn(rows: int, cols: int) -> Any:
        return torch.randn(rows, cols, device="cuda").to(torch.bfloat16)

    def matmul(sets: int) -> list[Any]:
        made = [(randn(m, k), randn(n, k), randn(m, n)) for _ in range(sets)]
        return [lambda s=s: torch.matmul(s[0], s[1].T, out=s[2]) for s in made]

    def scaled(sets: int) -> list[Any]:
        one = torch.ones((), device="cuda")
        made = [
            (randn(m, k).to(torch.float8_e4m3fn), randn(n, k).to(torch.float8_e4m3fn))
            for _ in range(sets)
        ]
        return [
            lambda s=s: torch._scaled_mm(
                s[0], s[1].T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
            for s in made
        ]

    found = {BF16: (matmul, 2 * (m * k + n * k + m * n))}
    if problem.recipe.name.startswith("mxfp8") and m % 16 == 0 and m <= 64:
        found[FP8] = (scaled, m * k + n * k + 2 * m * n)
    return found


def measure(problem: Gemm, gpu: Gpu, count: int) -> Row:
    """Search the model's best configurations, then time the winner beside the peers."""
    import torch

    from tuning.timing import time_callable, time_interleaved

    workload = kernel(FAMILY).workload(problem, device="cuda", seed=0)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    timed = []
    for config in candidates(problem, gpu, count):
        verdict = workload.check(config)
        if not verdict.ok:
            raise RuntimeError(f"{problem} {config}: {verdict.reason}")
        timing = time_callable(
            lambda sets, c=config: workload.launchers(c, sets),
            set_bytes=workload.set_bytes,
            l2_bytes=l2_bytes,
        )
        timed.append((timing.time_us, config))
    best = min(timed, key=lambda pair: pair[0])[1]
    rivals = peers(problem)
    ours, *others = time_interleaved(
        [(lambda sets: workload.launchers(best, sets), workload.set_bytes), *rivals.values()],
        l2_bytes=l2_bytes,
    )
    return Row(
        recipe=problem.recipe.name,
        shape=problem.shape,
        config=str(best),
        ours_us=ours.time_us,
        peers_us={name: t.time_us for name, t in zip(rivals, others, strict=True)},
    )


def check_only(problem: Gemm, gpu: Gpu) -> Row:
    """Check an answer without timing it: the default, and decoding in the loop."""
    family = kernel(FAMILY)
    workload = family.workload(problem, device="cpu", seed=0)
    config = family.default(problem, gpu.limits)
    verdict = workload.check(config)
    if not verdict.ok:
        raise RuntimeError(f"{problem} {config}: {verdict.reason}")
    return Row(
        recipe=problem.recipe.name,
        shape=problem.shape,
        config=str(config),
        ours_us=None,
        peers_us={},
    )


def goal_lines(rows: Sequence[Row]) -> list[str]:
    """Geometric means beside what is asked for."""
    lines = []
    for name, least, most, peer, goal in GOALS:
        found = [r.ratio(peer) for r in rows if r.recipe == name and least <= r.shape[0] <= most]
        ratios = [one for one in found if one is not None]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            lines.append(
                f"{name}, M {least} to {most}: {mean:.2f} x {peer} "
                f"(worst {min(ratios):.2f}, asked {goal})"
            )
    return lines


def _line(row: Row) -> str:
    head = f"{row.recipe:16} {'x'.join(map(str, row.shape)):18}"
    if row.ours_us is None:
        return f"{head} right, not timed  [{row.config}]"
    rest = ", ".join(f"{row.ratio(peer):.2f} x {peer}" for peer in row.peers_us)
    m, n, k = row.shape
    rate = 2e-6 * m * n * k / row.ours_us
    return f"{head} {row.ours_us:8.1f} us {rate:5.0f} TFLOP/s  {rest}  [{row.config}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row as soon as it is known, then the goals; write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES))
    parser.add_argument("--shapes", nargs="*", help="MxNxK")
    parser.add_argument("--configs", type=int, default=12, help="configurations to measure")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    dry = options.device == "cpu"
    if dry and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--device cpu needs TRITON_INTERPRET=1 in the environment")
    gpu = load_gpu("h200")
    if not dry:
        import torch

        name = torch.cuda.get_device_name()
        gpu = next(g for g in map(load_gpu, gpu_names()) if g.matches(name))
    rows = []
    for name in options.recipes or served(gpu):
        for shape in options.shapes or (TINY if dry else SHAPES):
            m, n, k = parse_shape(shape, 3)
            problem = Gemm(m=m, n=n, k=k, recipe=recipe(name))
            rows.append(check_only(problem, gpu) if dry else measure(problem, gpu, options.configs))
            print(_line(rows[-1]), flush=True)
    print(*goal_lines(rows), sep="\n")
    if options.output is not None:
        record = {
            "schema": "tile-workbench/bench-decoded/1",
            "gpu": "none" if dry else gpu.name,
            "rows": [row.to_dict() for row in rows],
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
