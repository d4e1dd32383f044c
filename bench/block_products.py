"""Products with small blocks beside cuBLAS: ``python -m bench.block_products [--output FILE]``.

For every shape and format: ours, the best of the cost model's first configurations as measured
here, and the peers, interleaved under the workbench's timing rule (cold L2).  Peers:
``torch.matmul`` in bf16, and ``torch._scaled_mm`` with one scale each for few rows of MXFP8.
Beside each stands the bound of the kernel's arithmetic: what the instructions of its loop take to
issue at the clock that the GPU file calls sustained, or the products on the tensor cores.

``--dry`` compiles the default configurations for the GPU file without a GPU and times nothing.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim import gpu_names, load_gpu
from sim.gpu import Gpu
from sim.hopper_block_model import promotion_slots
from sim.model import price
from tiles.formats import IntElement
from tiles.kernels import TileConfig, kernel
from tiles.problems import Gemm
from tiles.recipes import recipe

FAMILY = "hopper_block_gemm"
SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (4096, 14336, 4096),
    (4096, 4096, 14336),
    (4096, 7168, 16384),
    (4096, 2112, 7168),
    (16384, 4096, 1024),
    (2048, 3072, 768),
    (128, 7168, 2048),
    (64, 24576, 1536),
    (16, 8192, 8192),
)
#: (recipe, output): Jetfire's forward and dgrad, its wgrad, weight gradients, MX.
FORMATS = (
    ("jetfire", "int8.b32x32"),
    ("jetfire", "int8.b32x32+sr"),
    ("jetfire", "fp32"),
    ("jetfire-64", "int8.b64x64"),
    ("int8-b128", "fp32"),
    ("e4m3-b128", "fp32"),
    ("e4m3-b1x128", "fp32"),
    ("mxfp8-e4m3", "bf16"),
    ("mxfp8-e5m2", "bf16"),
    ("mxint8", "bf16"),
)
FEW_ROWS = 64
MATMUL, SCALED = "torch.matmul bf16", "torch._scaled_mm tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One product."""

    problem: str
    flops: int
    config: str
    bound_us: float
    ours_us: float | None  #: None where nothing was timed
    peers_us: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """Time of bf16 over ours."""
        return None if self.ours_us is None else self.peers_us[MATMUL] / self.ours_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        share = None if self.ours_us is None else self.bound_us / self.ours_us
        return fields | {"ratio_to_bf16": self.ratio, "share_of_bound": share}


def bound_us(problem: Gemm, gpu: Gpu) -> float:
    """Least time for the issue slots of the loop, its conversions, or its products; no epilogue.

    Of all legal configurations: what is spent to hide latency does not move the bound.
    """
    table = kernel(FAMILY).legal_space(problem, gpu.limits).accepted
    m, n, k = problem.shape
    tile = table["block_m"] * table["block_n"]
    stages = -(-m * n // tile) * math.ceil(k / 128) / gpu.sm_count
    element = problem.recipe.activation.element
    rate = gpu.tensor_flop_per_clk["int8" if isinstance(element, IntElement) else element.name]
    # Each of the four schedulers holds one warp of every consumer.
    slots = table["consumers"] * promotion_slots(problem, table)
    clk = stages * np.maximum(slots, 2 * tile * 128 / rate)
    return float(clk.min()) / gpu.sustained_clock_mhz


def candidates(problem: Gemm, gpu: Gpu, count: int) -> list[TileConfig]:
    """The default, and the model's fastest configurations, those of other tiles first."""
    family = kernel(FAMILY)
    table = family.legal_space(problem, gpu.limits).accepted
    ranked = price(problem, family, table, gpu).ranking().tolist()
    kinds = ("block_m", "block_n", "cluster", "consumers", "sets", "parts")
    chosen: list[TileConfig] = []
    seen: set[tuple[int, ...]] = set()
    for row in ranked:
        kind = tuple(int(table[name][row]) for name in kinds)
        if kind not in seen:
            seen.add(kind)
            chosen.append(table.config(row))
    chosen = chosen[: count // 2]
    chosen += [c for c in map(table.config, ranked[:count]) if c not in chosen]
    return [family.default(problem, gpu.limits), *chosen][: count + 1]


def peers(problem: Gemm) -> dict[str, tuple[Any, int]]:
    """Launchers and bytes of a set of what people use instead."""
    import torch

    m, n, k = problem.shape

    def drawn(rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(rows, cols, device="cuda").to(dtype)

    def matmul(sets: int) -> list[Any]:
        bf16 = torch.bfloat16
        made = [(drawn(m, k, bf16), drawn(n, k, bf16), drawn(m, n, bf16)) for _ in range(sets)]
        return [lambda s=s: torch.matmul(s[0], s[1].T, out=s[2]) for s in made]

    def scaled(sets: int) -> list[Any]:
        e4m3, one = torch.float8_e4m3fn, torch.ones((), device="cuda")
        made = [(drawn(m, k, e4m3), drawn(n, k, e4m3)) for _ in range(sets)]
        return [
            lambda s=s: torch._scaled_mm(s[0], s[1].T, one, one, out_dtype=torch.bfloat16)
            for s in made
        ]

    found = {MATMUL: (matmul, 2 * (m * k + n * k + m * n))}
    if m <= FEW_ROWS and problem.recipe.name.startswith("mxfp8"):
        found[SCALED] = (scaled, m * k + n * k + 2 * m * n)
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
        problem=str(problem),
        flops=problem.flops,
        config=str(best),
        bound_us=bound_us(problem, gpu),
        ours_us=ours.time_us,
        peers_us={name: t.time_us for name, t in zip(rivals, others, strict=True)},
    )


def compile_only(problem: Gemm, gpu: Gpu) -> Row:
    """The default configuration compiled; nothing is timed."""
    family = kernel(FAMILY)
    config = family.default(problem, gpu.limits)
    facts = family.compile_offline(problem, config, gpu.limits)
    if facts is not None and (facts.stack_bytes or facts.refusal(gpu.limits)):
        raise RuntimeError(f"{problem} {config}: {facts}")
    return Row(
        problem=str(problem),
        flops=problem.flops,
        config=str(config),
        bound_us=bound_us(problem, gpu),
        ours_us=None,
        peers_us={},
    )


def summary(rows: Sequence[Row], least_m: int = 2048) -> list[str]:
    """Geometric means over the shapes with many rows, by recipe and output."""
    lines = []
    for name, out in FORMATS:
        suffix = f":{name}:{out}"
        chosen = [
            row
            for row in rows
            if row.ours_us is not None
            and row.problem.endswith(suffix)
            and int(row.problem.split(":")[1].split("x")[0]) >= least_m
        ]
        if not chosen:
            continue
        ratios = [row.ratio for row in chosen if row.ratio is not None]
        shares = [row.bound_us / row.ours_us for row in chosen if row.ours_us is not None]
        ratio, share = (math.exp(float(np.mean(np.log(x)))) for x in (ratios, shares))
        lines.append(
            f"{name} -> {out}, M >= {least_m}: {ratio:.2f} x bf16 (worst {min(ratios):.2f}), "
            f"{share:.2f} of the bound (worst {min(shares):.2f})"
        )
    return lines


def _line(row: Row) -> str:
    bound = f"bound {row.flops / row.bound_us / 1e6:.0f}"
    if row.ours_us is None:
        return f"{row.problem:44} compiled, not timed; {bound} TFLOP/s  [{row.config}]"
    rest = ", ".join(f"{name} {us:.1f} us" for name, us in row.peers_us.items())
    return (
        f"{row.problem:44} {row.ours_us:9.1f} us {row.flops / row.ours_us / 1e6:6.0f} TFLOP/s "
        f"({bound})  {row.ratio:.2f} x bf16  ({rest})  [{row.config}]"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row as soon as it is known, then the means; write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry", action="store_true", help="compile only, for the h200 file")
    parser.add_argument("--recipes", nargs="*", choices=sorted({name for name, _ in FORMATS}))
    parser.add_argument("--shapes", nargs="*", help="MxNxK")
    parser.add_argument("--configs", type=int, default=16, help="configurations to measure")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    gpu = load_gpu("h200")
    if not options.dry:
        import torch

        name = torch.cuda.get_device_name()
        gpu = next(g for g in map(load_gpu, gpu_names()) if g.matches(name))
    shapes = [tuple(map(int, text.split("x"))) for text in options.shapes or ()] or SHAPES
    rows = []
    for m, n, k in shapes:
        for name, out in FORMATS:
            if options.recipes and name not in options.recipes:
                continue
            problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
            if reason := kernel(FAMILY).refusal(problem, gpu.limits):
                print(f"{problem}: {reason}", flush=True)
                continue
            row = (
                compile_only(problem, gpu)
                if options.dry
                else measure(problem, gpu, options.configs)
            )
            rows.append(row)
            print(_line(row), flush=True)
    print(*summary(rows), sep="\n")
    if options.output is not None:
        record = {
            "schema": "tile-workbench/bench-block-products/1",
            "gpu": "none" if options.dry else gpu.name,
            "rows": [row.to_dict() for row in rows],
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
